"""The cost of the penalties O.F. and O.W. in a training step, beside the released formulation.

    python benchmarks/bench_orthogonality.py                       ABD-Net, ResNet-50, batch 8, 384 × 128,
                                                                   both precisions (one, where
                                                                   bfloat16 is not fast)
    python benchmarks/bench_orthogonality.py --precision float32   one precision (auto: bfloat16 if fast)
    python benchmarks/bench_orthogonality.py --only-reidlib        half the time: no released formulation
    python benchmarks/bench_orthogonality.py --quick               takes seconds: ResNet-18, small images

A step is forward, cross-entropy and triplet loss, penalties, backward and fused Adam. It runs in
channels_last, and with autocast where reidlib's training uses it. O.F. acts on all five positions, O.W. on
all convolutions of the backbone. The forms take turns, one step each; times are medians.

The released formulation computes F Fᵀ of every map and of every convolution, one weight at a time. It takes
the same power step and Rayleigh quotients, and leaves the gradient to autograd.

Peak memory is the process's (on a GPU, what PyTorch allocates) in a separate step, with network and
optimiser.
"""

import argparse
import ctypes
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reidlib.devices import autocast, best_device, bfloat16_is_fast
from reidlib.losses import (
    FEATURE_POSITIONS,
    REFERENCE_BATCH,
    batch_hard_triplet,
    cross_entropy,
    orthogonality_features,
    orthogonality_targets,
    orthogonality_weights,
)
from reidlib.models.abdnet import ABDNet

Maps = dict[str, Sequence[Tensor]]
Penalty = Callable[[Maps, Sequence[Tensor]], Tensor]

OF_WEIGHT, OW_WEIGHT = 1e-6, 1e-3
IMAGES_PER_IDENTITY = 4


def reidlib_penalty(maps: Maps, weights: Sequence[Tensor]) -> Tensor:
    return orthogonality_features(maps, weight=OF_WEIGHT) + orthogonality_weights(weights, weight=OW_WEIGHT)


def gram_spread(f: Tensor, distribution: Callable) -> Tensor:
    """λ₁ − λ₂ from the full matrix F Fᵀ. f: (B, C, N) → (B,)."""
    x = f @ f.mT  # (B, C, C)
    starts = (distribution(*f.shape[:2], 1, device=f.device) for _ in range(2))
    p = x @ next(starts)
    largest = (p.mT @ x @ p) / (p.mT @ p)
    shifted = x - largest * torch.eye(f.shape[1], device=f.device)
    p = shifted @ next(starts)
    smallest = largest + (p.mT @ shifted @ p) / (p.mT @ p)
    return (largest - smallest).flatten()


def gram_penalty(maps: Maps, weights: Sequence[Tensor]) -> Tensor:
    total = 0.0
    for position, factor in FEATURE_POSITIONS.items():
        for x in maps[position]:
            spread = gram_spread(x.flatten(2).float(), torch.randn)
            total = total + OF_WEIGHT * factor / len(maps[position]) * spread.sum() * REFERENCE_BATCH / len(x)
    for weight in weights:
        total = total + OW_WEIGHT * 10 * gram_spread(weight.flatten(1)[None], torch.rand).square().sum()
    return total


class Training:
    """Network, optimiser and one batch of noise."""

    def __init__(self, args: argparse.Namespace, device: torch.device):
        torch.manual_seed(args.seed)
        self.device = device
        self.network = (
            ABDNet(751, backbone=args.backbone).to(device, memory_format=torch.channels_last).train()
        )
        self.weights = orthogonality_targets(self.network, reach="backbone")
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-4, weight_decay=5e-4, fused=True)
        images = torch.randn(args.batch, 3, args.height, args.width, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(args.batch, device=device) // IMAGES_PER_IDENTITY

    def output(self, precision: str):
        with autocast(precision, self.device):
            return self.network(self.images)

    def step(self, precision: str, penalty: Penalty | None) -> None:
        output = self.output(precision)
        loss = cross_entropy(output.logits, self.labels, label_smoothing=0.1)
        triplets = [batch_hard_triplet(head, self.labels, margin=1.2) for head in output.head_embeddings]
        loss = loss + 0.1 * sum(triplets) / len(triplets)
        if penalty is not None:
            loss = loss + penalty(output.feature_maps, self.weights)
        loss.item()  # training also reads the loss, for its log and to check for NaN
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def in_turns(calls: dict[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, float]:
    """Name → median seconds, after one untimed call each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_megabytes(call: Callable[[], None], device: torch.device) -> float:
    """Peak memory during a call; NaN where it cannot be read. The call is slower: memory is freed first."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc: returns memory that earlier calls have freed
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the process's peak memory
    except (AttributeError, OSError, TypeError):
        return math.nan
    call()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def bench(args: argparse.Namespace, training: Training, precision: str) -> None:
    penalties: dict[str, Penalty | None] = {
        "without O.F. and O.W.": None,
        "with both, reidlib": reidlib_penalty,
    }
    if not args.only_reidlib:
        penalties["with both, released"] = gram_penalty
    steps = {
        name: lambda penalty=penalty: training.step(precision, penalty) for name, penalty in penalties.items()
    }
    timed = in_turns(steps, args.steps, training.device)
    plain = next(iter(timed.values()))
    with autocast(precision, training.device):
        in_bfloat16 = torch.is_autocast_enabled(training.device.type)
    print(
        f"\nprecision {precision} ({'bfloat16 autocast' if in_bfloat16 else 'float32'}), "
        f"median of {args.steps} steps each"
    )
    print(f"  {'training step':<26}{'s/step':>9}{'images/s':>10}{'ratio':>8}{'peak MB':>10}")
    for name, seconds in timed.items():
        peak = peak_megabytes(steps[name], training.device)
        print(f"  {name:<26}{seconds:9.3f}{args.batch / seconds:10.2f}{seconds / plain:8.3f}{peak:10.0f}")

    with torch.no_grad():
        maps = training.output(precision).feature_maps
    maps = {position: [x.detach().requires_grad_() for x in stripes] for position, stripes in maps.items()}
    inputs = [*training.weights, *(x for stripes in maps.values() for x in stripes)]

    def alone(penalty: Penalty) -> None:
        torch.autograd.grad(penalty(maps, training.weights), inputs)

    calls = {
        name: lambda penalty=penalty: alone(penalty)
        for name, penalty in penalties.items()
        if penalty is not None
    }
    print("  penalties alone, forward and backward")
    for name, seconds in in_turns(calls, args.steps, training.device).items():
        print(f"  {name:<26}{seconds:9.3f}")


def add_step_options(parser: argparse.ArgumentParser, steps: int) -> None:
    """Adds the options for the step's size and number of timed steps; `quick_step` makes them small."""
    parser.add_argument(
        "--steps", type=int, default=steps, help=f"timed steps of each form (default: {steps})"
    )
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)


def quick_step(args: argparse.Namespace) -> None:
    args.backbone, args.height, args.width, args.steps = "resnet18", 192, 64, 2


def describe_machine(device: torch.device) -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    elif cpuinfo.is_file():
        models = [
            line.split(":")[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = f"{models[0] if models else name}, {len(models)} cores"
    return (
        f"{name}; torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads\n"
        f"bfloat16 in hardware: {'yes' if bfloat16_is_fast(device) else 'no'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_step_options(parser, steps=3)
    parser.add_argument("--precision", choices=("auto", "float32", "both"), default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-reidlib", action="store_true", help="leave the released formulation out")
    parser.add_argument("--quick", action="store_true", help="ResNet-18, 192 × 64, two steps")
    args = parser.parse_args()
    if args.quick:
        quick_step(args)
    torch.set_num_threads(args.threads)
    device = best_device()
    print(describe_machine(device))
    training = Training(args, device)
    size = f"{args.height} × {args.width}"
    print(
        f"ABD-Net, {args.backbone}, batch {args.batch}, {size}, {len(training.weights)} convolutions in O.W."
    )
    # Where bfloat16 is slow, "auto" is float32: the same steps twice would tell nothing.
    both = ("auto", "float32") if bfloat16_is_fast(device) else ("float32",)
    for precision in both if args.precision == "both" else (args.precision,):
        bench(args, training, precision)


if __name__ == "__main__":
    main()
