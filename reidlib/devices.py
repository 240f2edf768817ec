"""Where networks run: the device, and the precision it computes in."""

import contextlib
from collections.abc import Iterator

import torch


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def precision_of(precision: str, device: torch.device) -> torch.dtype:
    """The dtype for `Experiment.precision`: torch.bfloat16 or torch.float32.

    "auto" is bfloat16 where the hardware has it.
    """
    half = precision == "bfloat16" or (precision == "auto" and bfloat16_is_fast(device))
    return torch.bfloat16 if half else torch.float32


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """The context in which networks run in that precision.

    float32 means float32: from then on convolutions on a GPU do not round to TF32, as they do by default. So
    it holds for gradients, too, which are computed after the context has ended.
    """
    torch.backends.cudnn.allow_tf32 = False
    if precision_of(precision, device) is torch.bfloat16:
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Runs its block with `count` CPU threads: their number changes how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a CPU tensor to the device, without waiting for what a GPU is still computing."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
