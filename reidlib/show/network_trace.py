"""What a network is made of: the modules' output shapes, parameters and multiply-adds for one image.

They come from a forward pass. Multiply-adds are those of convolutions and matrix products, as PyTorch's
counter knows them (half of its operations); sums, normalisation and activations are not counted.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from reidlib.experiment import Experiment
from reidlib.models import ReidNetwork, ReidOutput, model_from_experiment

CLASSES = 751  # training people of Market-1501, for whom both released projects have their classifiers


@dataclass(frozen=True)
class TracedModule:
    """One module in a forward pass of one image.

    Attributes:
        output: shape of what it gives, without the axis of the batch; () if it was not called or gives no
            tensor. Of a module that runs on each stripe, the shape of one stripe.
        multiply_adds: over all its calls.
    """

    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Trace:
    """A network, what each of its modules did (by dotted name; "" is the whole network), and its output."""

    network: ReidNetwork
    modules: Mapping[str, TracedModule]
    output: ReidOutput


@torch.no_grad()
def trace(network: ReidNetwork, height: int, width: int) -> Trace:
    """Passes one image through the network, which is left in eval mode."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            shapes[name] = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in network.named_modules()]
    image = torch.zeros(1, 3, height, width, device=next(network.parameters()).device)
    try:
        with FlopCounterMode(display=False) as counter:
            output = network.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
    operations = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    root = type(network).__name__
    modules = {
        name: TracedModule(
            shapes.get(name, ()),
            sum(parameter.numel() for parameter in module.parameters()),
            operations.get(f"{root}.{name}" if name else root, 0) // 2,
        )
        for name, module in network.named_modules()
    }
    return Trace(network, modules, output)


def trace_without_numbers(experiment: Experiment, classes: int = CLASSES) -> Trace:
    """`trace` of an experiment's network on the device "meta", whose tensors have shapes but no numbers.

    It takes neither time nor memory, however large the network is.

    Args:
        classes: of the classifiers, unless the experiment fixes them.
    """
    with torch.device("meta"):
        network = network_of(experiment, classes)
    # PyTorch's autocast refuses this device, even where the attention layers switch it off. Without numbers
    # there is no precision.
    with patch.object(torch, "autocast", lambda *device, **settings: contextlib.nullcontext()):
        return trace(network, experiment.height, experiment.width)


def network_of(experiment: Experiment, classes: int = CLASSES) -> ReidNetwork:
    """The experiment's network from random weights: what is shown here does not depend on them."""
    return model_from_experiment(replace(experiment, pretrained=False, start_from=""), classes)


@torch.no_grad()
def multiply_adds(function: Callable[[], object]) -> int:
    """The multiply-adds of a function that is no module of its own."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2
