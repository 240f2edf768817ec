"""The parts of a network as boxes, with the arrows and frames between them; `network_diagram` places them.

What is in a box comes from the network itself (`network_trace`), so a change to a network changes its boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from reidlib.experiment import Experiment
from reidlib.losses import orthogonality_targets
from reidlib.show.network_trace import Trace
from reidlib.training.objective import of_factors

# Lengths are in inches, downwards and to the right. A page of a phone is as wide.
COLUMNS, COLUMN, GAP = 4, 0.87, 0.12
WIDTH = COLUMNS * COLUMN + (COLUMNS - 1) * GAP
MARGIN = 0.1  # left and right of the boxes, for arrows past them
LINE, PADDING, BETWEEN = 0.145, 0.05, 0.15  # a line of text; around the lines of a box; between two boxes


@dataclass(frozen=True)
class Box:
    """A part of a network, and where it stands.

    Attributes:
        output: its shape without the axis of the batch.
        acts: losses and penalties on what the part gives, or on its weights.
        modules: their names in the network; (): a function without parameters.
        columns: how many it is wide. A wide box has its numbers in one line.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    acts: tuple[str, ...]
    modules: tuple[str, ...]
    column: int
    columns: int
    top: float

    @property
    def lines(self) -> list[str]:
        cost = [f"{amount(self.parameters)} par.", f"{amount(self.multiply_adds)} m.-a."]
        cost = [] if not self.parameters and not self.multiply_adds else cost
        if self.columns > 1:
            return [self.name, *([", ".join(cost)] if cost else [])]
        return [self.name, shape_text(self.output), *cost]

    @property
    def left(self) -> float:
        return self.column * (COLUMN + GAP)

    @property
    def width(self) -> float:
        return self.columns * COLUMN + (self.columns - 1) * GAP

    @property
    def height(self) -> float:
        return LINE * (len(self.lines) + len(self.acts)) + 2 * PADDING

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def middle(self) -> tuple[float, float]:
        return self.left + self.width / 2, self.top + self.height / 2


@dataclass
class Diagram:
    """The boxes of a network, the arrows between them (lists of points), the frames around some of them."""

    boxes: list[Box] = field(default_factory=list)
    arrows: list[list[tuple[float, float]]] = field(default_factory=list)
    frames: list[tuple[str, float, float, float, float]] = field(default_factory=list)

    @property
    def bottom(self) -> float:
        return max([*(box.bottom for box in self.boxes), *(frame[4] for frame in self.frames)])

    def table(self) -> pd.DataFrame:
        """The boxes' numbers, one row each."""
        return pd.DataFrame(
            [
                {
                    "box": box.name,
                    "modules": " ".join(box.modules),
                    "output": shape_text(box.output),
                    "parameters": box.parameters,
                    "multiply_adds": box.multiply_adds,
                    "acts": ", ".join(box.acts),
                }
                for box in self.boxes
            ]
        )

    def down(self, upper: Box, lower: Box) -> None:
        """An arrow from a box to one below it; it bends between them where their middles differ."""
        (x, _), (end, _) = upper.middle, lower.middle
        if lower.left <= x <= lower.left + lower.width:
            end = x
        elif upper.left <= end <= upper.left + upper.width:
            x = end
        bend = lower.top - BETWEEN / 2
        points = [(x, upper.bottom), (x, bend), (end, bend), (end, lower.top)]
        self.arrows.append(points if x != end else [points[0], points[-1]])

    def around(self, upper: Box, lower: Box) -> None:
        """An arrow to a lower box past what lies between, along the page's nearer edge."""
        start, end = upper.middle[1], lower.middle[1]
        if upper.column:
            sides = (upper.left + upper.width, WIDTH + MARGIN, lower.left + lower.width)
        else:
            sides = (upper.left, -MARGIN, lower.left)
        self.arrows.append([(sides[0], start), (sides[1], start), (sides[1], end), (sides[2], end)])

    def right(self, first: Box, second: Box) -> None:
        """An arrow between two boxes that begin at the same height."""
        height = first.top + min(first.height, second.height) / 2
        self.arrows.append([(first.left + first.width, height), (second.left, height)])


def amount(number: int) -> str:
    """Three digits with the unit: 23508032 → "23.5 M"."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.{max(0, 3 - len(str(int(round(scaled, 6)))))}f} {unit}"
    return str(number)


def shape_text(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


class Maker:
    """Makes boxes of a traced network and puts them on the diagram."""

    def __init__(self, traced: Trace, experiment: Experiment):
        self.traced, self.experiment = traced, experiment
        self.network = traced.network
        self.diagram = Diagram()
        self.triplet = ("triplet",) if experiment.triplet_weight else ()
        reach = experiment.ow_reach
        targets = orthogonality_targets(self.network, reach=reach) if experiment.ow_weight else []
        self.targets = {id(weight) for weight in targets}

    def box(
        self,
        name: str,
        kind: str,
        modules: str | Sequence[str],
        place: tuple[int, int, float],
        *,
        output: Sequence[int] = (),
        acts: Sequence[str] = (),
        further: int = 0,
    ) -> Box:
        """A box for one or more modules that follow each other.

        Args:
            place: its first column, how many columns, its top.
            output: if it is not that of the last module.
            further: multiply-adds that belong to no module.
        """
        modules = (modules,) if isinstance(modules, str) else tuple(modules)
        parts = [self.traced.modules[module] for module in modules]
        weights = [w for module in modules for w in self.network.get_submodule(module).parameters()]
        reached = sum(id(weight) in self.targets for weight in weights)
        made = Box(
            name,
            kind,
            tuple(output) or parts[-1].output,
            sum(part.parameters for part in parts),
            sum(part.multiply_adds for part in parts) + further,
            (*acts, *([f"O.W. ({reached})"] if reached else [])),
            modules,
            *place,
        )
        self.diagram.boxes.append(made)
        return made

    def penalty(self, *positions: str) -> tuple[str, ...]:
        """O.F. at these positions as a text: "0.01 O.F."; several are named."""
        factors = of_factors(self.experiment) if self.experiment.of_weight else {}
        there = [name for name in positions if name in factors and name in self.traced.output.feature_maps]
        texts = {name: "O.F." if factors[name] == 1 else f"{factors[name]:g} O.F." for name in there}
        if len(positions) == 1:
            return tuple(texts.values())
        return tuple(f"{text} ({name})" for name, text in texts.items())
