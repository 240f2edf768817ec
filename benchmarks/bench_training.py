"""Training steps timed: ABD-Net's beside a plain float32 formulation, the demo's beside its former backward.

    python benchmarks/bench_training.py               the step: ResNet-50, batch 8, 384 × 128, O.W. on all 63
                                                      convolutions
    python benchmarks/bench_training.py --demo        the demo's step, and its weight gradients by shape, both
                                                      ways; one thread, as each of the demo's processes
    python benchmarks/bench_training.py --compile     also with torch.compile of the network
    python benchmarks/bench_training.py --curves      200 steps on small images of synthetic people, both
                                                      forms, three seeds
    python benchmarks/bench_training.py --attention   attention by matrix products and by PyTorch's fused
                                                      function
    python benchmarks/bench_training.py --gpu         images/s, share of the measured bfloat16 peak, time of
                                                      the paper's schedule
    python benchmarks/bench_training.py --quick       takes seconds: ResNet-18, small images, few steps

- Plain: float32, contiguous (NCHW) memory, PyTorch's default Adam. O.F. and O.W. compute F Fᵀ of every map
  and every convolution, and leave its gradient to autograd.
- reidlib: the step of training, with channels_last, bfloat16 autocast where the hardware has it, fused Adam
  and no Gram matrix.
- Former (--demo): the same step with the library's weight gradients (see
  `reidlib/training/wide_convolutions.py`) and an optimiser that copies channels-last tensors.

Both have the same network, start weights, images and labels, and log the loss every step. They take turns,
one step each; times are medians.
"""

import argparse
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_orthogonality import add_step_options, describe_machine, gram_penalty, in_turns, quick_step
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from reidlib.config import experiment_for
from reidlib.datasets import load_dataset
from reidlib.devices import autocast, best_device
from reidlib.experiment import Experiment
from reidlib.images.augmentation import TrainingImages, draw_augmentation, enlarged_size
from reidlib.images.decoding import load_sizes
from reidlib.images.samplers import epoch_batches
from reidlib.losses import batch_hard_triplet, cross_entropy, orthogonality_targets
from reidlib.models.networks import model_from_experiment
from reidlib.progress import track_progress
from reidlib.training.epoch import Learner, augmentation_of
from reidlib.training.wide_convolutions import WideConv2d, matrix_units, pays, unfolded

MARKET_IMAGES, PAPER_EPOCHS = 12_936, 90  # Market-1501's training set; 10 epochs of warm-up and 80 more
DEMO_METHODS = ("baseline", "abdnet", "pfsa")
# Convolutions of the demo (batch 32) and of ABD-Net at full size (batch 8): batch, C, O, H, W, k.
DEMO_SHAPES = (
    (32, 512, 512, 8, 4, 3),
    (32, 256, 512, 8, 4, 3),
    (32, 256, 256, 8, 4, 3),
    (32, 128, 128, 16, 8, 3),
    (32, 64, 64, 32, 16, 3),
    (32, 512, 256, 8, 4, 1),
    (8, 1024, 512, 12, 8, 3),
    (8, 512, 512, 24, 8, 3),
    (8, 1024, 2048, 24, 8, 1),
)
CPU_FEATURES = {
    "AVX-512 bfloat16": torch.cpu._is_avx512_bf16_supported,
    "AMX": matrix_units,
}
SMALL = {
    "backbone": "resnet18",
    "height": 96,
    "width": 48,
    "reduced_dim": 64,
    "embedding_dim": 64,
    "head_dim": 32,
}


class PlainStep:
    """The plain formulation of the same step."""

    def __init__(self, experiment: Experiment, classes: int, device: torch.device, penalties: bool = True):
        torch.manual_seed(experiment.seed)
        self.experiment, self.penalties = experiment, penalties
        self.model = model_from_experiment(experiment, classes).to(device).train()
        self.weights = orthogonality_targets(self.model, reach=experiment.ow_reach)
        settings = {"lr": experiment.learning_rate, "weight_decay": experiment.weight_decay}
        self.optimizer = torch.optim.Adam(self.model.parameters(), **settings)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        experiment = self.experiment
        output = self.model(images.contiguous())
        loss = cross_entropy(output.logits, labels, label_smoothing=experiment.label_smoothing)
        triplets = [
            batch_hard_triplet(head, labels, margin=experiment.triplet_margin)
            for head in output.head_embeddings
        ]
        loss = loss + experiment.triplet_weight * sum(triplets) / len(triplets)
        if self.penalties:
            loss = loss + gram_penalty(output.feature_maps, self.weights)
        value = loss.item()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return value


class OurStep:
    """The step of reidlib's training."""

    def __init__(self, experiment: Experiment, classes: int, device: torch.device, compiled: bool = False):
        torch.manual_seed(experiment.seed)
        self.experiment = experiment
        model = model_from_experiment(experiment, classes)
        self.learner = Learner(
            experiment, model.to(device, memory_format=torch.channels_last).train(), device
        )
        self.model = self.learner.model
        if compiled:
            self.learner.network = torch.compile(self.model)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        return self.launch(images, labels)["loss"].item()

    def launch(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step, without waiting for a GPU."""
        return self.learner.step(images, labels, self.experiment.epochs)


class FormerStep(OurStep):
    """The step as it was before: the library's weight gradients, and Adam on channels-last parameters."""

    def __init__(self, experiment: Experiment, classes: int, device: torch.device):
        super().__init__(experiment, classes, device)
        for module in self.model.modules():
            if isinstance(module, WideConv2d):
                module.__class__ = torch.nn.Conv2d
        parameters = self.learner.parameters
        for group in self.learner.optimizer.param_groups:
            group["params"], parameters = (
                parameters[: len(group["params"])],
                parameters[len(group["params"]) :],
            )


def experiment_of(args: argparse.Namespace, **settings) -> Experiment:
    # "auto": in bfloat16 where the hardware has it. The profile `paper` itself computes in float32.
    common = {"pretrained": False, "ow_reach": "backbone", "precision": "auto", "backbone": args.backbone}
    settings = {**common, **settings}
    return experiment_for("abdnet", batch_size=args.batch, height=args.height, width=args.width, **settings)


def noise_batch(experiment: Experiment, device: torch.device) -> tuple[Tensor, Tensor]:
    images = torch.randn(experiment.batch_size, 3, experiment.height, experiment.width, device=device)
    labels = torch.arange(experiment.batch_size, device=device) // max(experiment.images_per_identity, 1)
    return images.contiguous(memory_format=torch.channels_last), labels


def bench_step(args: argparse.Namespace, device: torch.device) -> None:
    experiment = experiment_of(args)
    bare = experiment_of(args, of_weight=0.0, ow_weight=0.0)
    forms: dict[str, Callable[[Tensor, Tensor], float]] = {
        "plain float32": PlainStep(experiment, 751, device),
        "reidlib, float32": OurStep(experiment_of(args, precision="float32"), 751, device),
        "reidlib": OurStep(experiment, 751, device),
        "plain float32, no O.F., O.W.": PlainStep(bare, 751, device, penalties=False),
        "reidlib, no O.F., O.W.": OurStep(bare, 751, device),
    }
    if args.compile:
        forms["reidlib, compiled"] = OurStep(experiment, 751, device, compiled=True)
    images, labels = noise_batch(experiment, device)
    size = f"batch {args.batch}, {args.height} × {args.width}"
    reach = len(forms["plain float32"].weights)
    print(f"ABD-Net, {args.backbone}, {size}, {reach} convolutions in O.W., median of {args.steps} steps")
    timed = in_turns(
        {name: lambda step=step: step(images, labels) for name, step in forms.items()}, args.steps, device
    )
    print(f"\n  {'training step':<32}{'s/step':>9}{'images/s':>10}{'times plain':>13}")
    for name, seconds in timed.items():
        print(
            f"  {name:<32}{seconds:9.3f}{args.batch / seconds:10.2f}{timed['plain float32'] / seconds:13.2f}"
        )


def bench_demo(args: argparse.Namespace, device: torch.device) -> None:
    torch.set_num_threads(1)
    features = [name for name, there in CPU_FEATURES.items() if there()]
    print(f"one thread; processor with {', '.join(features) or 'none of ' + ', '.join(CPU_FEATURES)}")
    print(f"\n  {'step of the demo':<24}{'former':>12}{'now':>12}{'former / now':>14}")
    for method in DEMO_METHODS:
        experiment = experiment_for(method, profile="demo", dataset="synthetic")
        images, labels = noise_batch(experiment, device)
        forms = {"former": FormerStep(experiment, 120, device), "now": OurStep(experiment, 120, device)}
        calls = {name: functools.partial(form, images, labels) for name, form in forms.items()}
        former, now = in_turns(calls, args.steps, device).values()
        print(f"  {method:<24}{former * 1e3:9.0f} ms{now * 1e3:9.0f} ms{former / now:14.2f}")
    print(f"\n  {'weight gradient, bfloat16':<36}{'library':>11}{'product':>11}{'ratio':>8}  taken")
    for batch, channels, out, height, width, kernel in DEMO_SHAPES:
        x = (
            torch.randn(batch, channels, height, width)
            .bfloat16()
            .contiguous(memory_format=torch.channels_last)
        )
        weight = torch.randn(out, channels, kernel, kernel).bfloat16()
        gradient = torch.randn(batch, out, height, width).bfloat16()
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        padding = (kernel // 2, kernel // 2)
        settings = (None, (1, 1), padding, (1, 1), False, (0, 0), 1, (False, True, False))
        library = functools.partial(torch.ops.aten.convolution_backward, gradient, x, weight, *settings)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, out)

        def product(
            x: Tensor = x, rows: Tensor = rows, kernel: int = kernel, padding: tuple = padding
        ) -> None:
            rows.mT @ unfolded(x, kernel, padding)

        seconds = in_turns({"library": library, "product": product}, args.steps, device)
        taken = "product" if pays(kernel, channels, batch * height * width, matrix_units()) else "library"
        name = f"{kernel}×{kernel}, {channels} → {out} on {height} × {width}, batch {batch}"
        print(
            f"  {name:<36}{seconds['library'] * 1e3:8.2f} ms{seconds['product'] * 1e3:8.2f} ms"
            f"{seconds['library'] / seconds['product']:8.2f}  {taken}"
        )


def bench_curves(args: argparse.Namespace, device: torch.device) -> None:
    """Runs the same batches through both formulations. Prints their difference and the spread over seeds."""
    with tempfile.TemporaryDirectory(prefix="reidlib-bench-") as place:
        options = {"train_identities": 48, "test_identities": 4}
        dataset = load_dataset("synthetic", Path(place) / "synthetic", synthetic_options=options)
        size = (SMALL["height"], SMALL["width"])
        decoded = load_sizes(dataset.train.paths, [size, enlarged_size(*size)], cache=Path(place) / "cache")
        images = TrainingImages(*decoded, device)
        curves: dict[str, list[list[float]]] = {"plain float32": [], "reidlib": []}
        with track_progress(2 * args.seeds * args.curve_steps, "loss curves", "step") as bar:
            for seed in range(args.seeds):
                settings = {
                    **SMALL,
                    "pretrained": False,
                    "ow_reach": "backbone",
                    "precision": "auto",
                    "batch_size": 8,
                    "learning_rate": 5e-4,
                }
                experiment = experiment_for("abdnet", seed=seed, **settings)
                steps = {
                    "plain float32": PlainStep(experiment, dataset.num_train_identities, device),
                    "reidlib": OurStep(experiment, dataset.num_train_identities, device),
                }
                rows = epoch_batches(
                    dataset.train_labels, 8, experiment.images_per_identity, args.curve_steps, seed, 0
                )
                losses: dict[str, list[float]] = {name: [] for name in steps}
                draws = torch.Generator().manual_seed(seed)
                for chosen in rows:
                    drawn = draw_augmentation(8, *size, draws, **augmentation_of(experiment))
                    labels = torch.from_numpy(dataset.train_labels[chosen]).to(device)
                    for name, step in steps.items():
                        losses[name].append(step(images.batch(chosen, drawn), labels))
                        bar.update(1)
                for name, values in losses.items():
                    curves[name].append(values)
    of = {name: np.array(values) for name, values in curves.items()}  # (seeds, steps)
    difference = of["reidlib"] - of["plain float32"]
    window = max(1, args.curve_steps // 8)
    print(
        f"\nABD-Net ({SMALL['backbone']}, {size[0]} × {size[1]}, batch 8): "
        f"mean loss over {window} steps, {args.seeds} seeds,"
    )
    print("and the difference of the two beside the standard deviation of the plain one's means over seeds")
    print(f"  {'steps':<12}{'plain float32':>15}{'reidlib':>10}{'difference':>12}{'over seeds':>12}")
    for start in range(0, args.curve_steps, window):
        part = slice(start, min(start + window, args.curve_steps))
        means = {name: values[:, part].mean(1) for name, values in of.items()}
        plain, ours = means["plain float32"].mean(), means["reidlib"].mean()
        spread = means["plain float32"].std(ddof=1) if args.seeds > 1 else float("nan")
        name = f"{part.start + 1}–{part.stop}"
        print(f"  {name:<12}{plain:15.3f}{ours:10.3f}{difference[:, part].mean():12.3f}{spread:12.3f}")


def bench_attention(args: argparse.Namespace, device: torch.device) -> None:
    """Forward and backward of attention alone, at ABD-Net's shapes: matrix products, PyTorch's function."""

    def by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return (query.float() @ key.float().mT).softmax(-1).to(value.dtype) @ value

    def by_pytorch(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(
            *(x.unsqueeze(1) for x in (query, key, value)), scale=1.0
        ).squeeze(1)

    def noise(channels: int, height: int, width: int, precision: torch.dtype) -> Tensor:
        x = torch.randn(args.batch, channels, height, width, device=device, dtype=precision)
        return x.contiguous(memory_format=torch.channels_last).flatten(2).requires_grad_()  # (B, C, N)

    last, first = (args.height // 32, args.width // 16), (args.height // 4, args.width // 4)
    name = f"attention, batch {args.batch}"
    print(f"\n  {name:<46}{'products':>12}{'PyTorch':>12}{'ratio':>8}")
    for precision in (torch.float32, torch.bfloat16):
        inner, shallow = noise(512, *last, precision), noise(256, *first, precision)
        small = [noise(64, *last, precision).mT for _ in range(2)]
        cases = {
            f"positions of a stripe, {last[0]} × {last[1]}": (*small, inner.mT),
            f"512 channels of a stripe, {last[0]} × {last[1]}": (-inner, inner, inner),
            f"256 channels of layer1, {first[0]} × {first[1]}": (-shallow, shallow, shallow),
        }
        for case, inputs in cases.items():
            gradient = torch.ones_like(by_products(*inputs))

            def both_ways(form: Callable, inputs: tuple = inputs, gradient: Tensor = gradient) -> None:
                form(*inputs).backward(gradient, retain_graph=True)

            forms = {form.__name__: functools.partial(both_ways, form) for form in (by_products, by_pytorch)}
            products, fused = in_turns(forms, args.steps, device).values()
            label = f"{case}, {str(precision).removeprefix('torch.')}"
            print(f"  {label:<46}{products * 1e3:9.2f} ms{fused * 1e3:9.2f} ms{products / fused:8.2f}")


def bench_gpu(args: argparse.Namespace, device: torch.device) -> None:
    if device.type != "cuda":
        raise SystemExit(
            "There is no GPU on this machine: --gpu measures one. Without it the step is compared on the CPU."
        )
    torch.backends.cudnn.benchmark = True
    peak = bfloat16_peak(device)
    print(f"bfloat16 peak, measured with 8192 × 8192 matrix products: {peak / 1e12:.0f} TFLOP/s")
    size, rng = (args.height, args.width), np.random.default_rng(0)
    sets = [
        rng.integers(0, 256, (args.images, *one, 3), dtype=np.uint8) for one in (size, enlarged_size(*size))
    ]
    data = TrainingImages(*sets, device)
    where = "stay on the GPU" if data.resident else "are sent batch by batch"
    print(f"{args.images:,} noise images, at both sizes {sum(map(np.size, sets)) / 1e9:.1f} GB, {where}")
    print(
        f"\n  {'ABD-Net, ' + args.backbone:<28}{'images/s':>10}{'TFLOP/s':>9}{'of peak':>9}"
        f"{'peak GB':>9}{'schedule':>12}"
    )
    forms = [(64, False, "float32"), *itertools.product((64, 128), (False, True), ("bfloat16",))]
    for batch, compiled, precision in forms:
        args.batch = batch
        experiment = experiment_of(args, precision=precision)
        step = OurStep(experiment, 751, device, compiled)
        images, labels = noise_batch(experiment, device)
        with FlopCounterMode(display=False) as counter:
            OurStep(experiment, 751, device).launch(images, labels)
        seconds_of(step, data, labels, 5)
        torch.cuda.reset_peak_memory_stats()
        times = [seconds_of(step, data, labels, 10) for _ in range(args.steps)]
        seconds = statistics.median(times)
        minutes = MARKET_IMAGES * PAPER_EPOCHS / (batch / seconds) / 60
        flops = counter.get_total_flops() / seconds
        name = f"batch {batch}, {precision}" + (", compiled" if compiled else "")
        memory = torch.cuda.max_memory_allocated() / 1e9
        print(
            f"  {name:<28}{batch / seconds:10.0f}{flops / 1e12:9.0f}{flops / peak:9.1%}"
            f"{memory:9.1f}{minutes:8.1f} min"
        )
    print(
        f"\nschedule: {MARKET_IMAGES:,} images × {PAPER_EPOCHS} epochs at {args.height} × {args.width}, "
        "input included"
    )


def seconds_of(step: OurStep, data: TrainingImages, labels: Tensor, count: int) -> float:
    """Seconds per step, over `count` steps like training's.

    Each step draws the augmentation and gathers the batch; the GPU is waited for only at the end.
    """
    rng, draws = np.random.default_rng(0), torch.Generator().manual_seed(0)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        drawn = draw_augmentation(len(labels), *data.size, draws, **augmentation_of(step.experiment))
        step.launch(data.batch(rng.integers(0, len(data.plain), len(labels)), drawn), labels)
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


def bfloat16_peak(device: torch.device) -> float:
    """The measured FLOP/s of large matrix products."""
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_step_options(parser, steps=5)
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile of the network as a further form"
    )
    parser.add_argument(
        "--demo", action="store_true", help="the demo's step beside its former backward, on one thread"
    )
    parser.add_argument("--curves", action="store_true", help="loss curves in place of the step's time")
    parser.add_argument("--curve-steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3, help="of the loss curves")
    parser.add_argument(
        "--attention", action="store_true", help="attention alone in place of the step's time"
    )
    parser.add_argument("--gpu", action="store_true", help="the table of a GPU in place of the step's time")
    parser.add_argument(
        "--images", type=int, default=MARKET_IMAGES, help="of the training set behind that table"
    )
    parser.add_argument(
        "--quick", action="store_true", help="ResNet-18, 192 × 64, two steps; 8 steps of the curves"
    )
    args = parser.parse_args()
    if args.quick:
        quick_step(args)
        args.curve_steps, args.seeds = 8, 2
    torch.set_num_threads(args.threads)
    device = best_device()
    print(describe_machine(device))
    with autocast("auto", device):
        print(
            "training computes in "
            + ("bfloat16 autocast" if torch.is_autocast_enabled(device.type) else "float32")
        )
    chosen = {"demo": bench_demo, "gpu": bench_gpu, "curves": bench_curves, "attention": bench_attention}
    bench = next((bench for name, bench in chosen.items() if getattr(args, name)), bench_step)
    bench(args, device)


if __name__ == "__main__":
    main()
