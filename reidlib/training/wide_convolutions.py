"""Faster weight gradients of convolutions, for training on a CPU in bfloat16.

PyTorch's CPU library is slow at one thing: the weight gradient of a wide convolution on a small map. The same
sum is one matrix product over the batch's positions, which runs at the speed of the matrix units:

    dL/dW (O, k·k·C) = Gᵀ (O, N) · unfolded input (N, k·k·C)      N = B·h·w positions

Unfolding copies the input k·k times. So it pays where k·k·C is large against N, and loses elsewhere. Without
matrix units (AMX) it pays for 1 × 1 kernels only, which need no unfolding. `pays` decides from shape and
processor alone, so that a repeated or resumed run takes the same way. Products accumulate in float32 and
round once, as the library does. `benchmarks/bench_training.py --demo` measures it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidlib.devices import precision_of

# Smallest k·k·C per position for which k × k convolutions (k > 1) take the product.
WIDE = 2


def quicken(model: nn.Module, precision: str, device: torch.device) -> None:
    """From now on, the model's convolutions take the faster way to their weight gradients.

    It does nothing on other devices and in float32. Outputs, names and weights of the model stay as they are.

    Args:
        precision: as `Experiment.precision`.
    """
    if device.type != "cpu" or precision_of(precision, device) is not torch.bfloat16:
        return
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = WideConv2d


def pays(kernel: int, channels: int, positions: int, matrix_units: bool) -> bool:
    """Whether the product is the faster way.

    Args:
        kernel: k of a k × k kernel.
        channels: of the input.
        positions: of the whole batch, B·h·w.
        matrix_units: whether the processor has them.
    """
    return kernel == 1 or (matrix_units and kernel**2 * channels >= WIDE * positions)


def matrix_units() -> bool:
    """Whether the processor multiplies matrices in bfloat16 (AMX)."""
    return torch.cpu._is_amx_tile_supported()


class WideConv2d(nn.Conv2d):
    """A convolution with stride 1 that chooses how its weight gradient is computed."""

    def forward(self, x: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if not trained or not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        kernel, channels = self.kernel_size[0], self.in_channels
        height, width = (x.shape[2 + i] + 2 * self.padding[i] - kernel + 1 for i in (0, 1))
        if not pays(kernel, channels, len(x) * height * width, matrix_units()):
            return super().forward(x)
        return _ByProduct.apply(x, self.weight, self.bias, self.padding)


class _ByProduct(torch.autograd.Function):
    """conv2d in bfloat16 whose weight gradient is a matrix product."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        low = [None if tensor is None else tensor.to(torch.bfloat16) for tensor in (x, weight, bias)]
        ctx.save_for_backward(low[0], low[1])
        ctx.padding, ctx.input_type = padding, x.dtype
        return F.conv2d(*low, padding=padding)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, (1, 1), ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0].to(ctx.input_type)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])  # (N, O)
        if ctx.needs_input_grad[1]:
            product = rows.mT @ unfolded(x, weight.shape[2], ctx.padding)
            of_weight = product.float().view(len(weight), *weight.shape[2:], -1).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0, dtype=torch.float32)
        return of_x, of_weight, of_bias, None


def unfolded(x: Tensor, kernel: int, padding: tuple[int, int]) -> Tensor:
    """(B, C, H, W) → (B·h·w, k·k·C): the values under the kernel at each position, channels innermost."""
    x = x.permute(0, 2, 3, 1)
    if kernel == 1 and padding == (0, 0):
        return x.reshape(-1, x.shape[3])
    vertical, horizontal = padding
    x = F.pad(x, (0, 0, horizontal, horizontal, vertical, vertical)).contiguous()
    windows = x.unfold(1, kernel, 1).unfold(2, kernel, 1)  # (B, h, w, C, k, k), a view
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel**2 * x.shape[3])


def _is_plain(conv: nn.Conv2d) -> bool:
    return (
        conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.padding_mode == "zeros"
        and isinstance(conv.padding, tuple)
    )
