"""Draws the diagram of a network (`network_diagram`) with matplotlib; the backbone is yellow."""

from reidlib.show.drawing import described, literally  # first: it decides how matplotlib starts

# isort: split

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from reidlib.config import title_of
from reidlib.experiment import Experiment
from reidlib.show import figures  # noqa: F401  the style of the study's figures
from reidlib.show.network_boxes import LINE, MARGIN, PADDING, WIDTH, Box, Diagram, amount, shape_text
from reidlib.show.network_diagram import diagram_of
from reidlib.show.network_trace import Trace, trace_without_numbers

FONT = 8.5
COLOURS = {"backbone": "#fff0c2", "new layers": "#d6e6f4", "attention": "#f8d3c0", "classifier": "#e4e4e4"}
COLOUR_OF_DATA = "white"  # of the image and the embedding
ACTS, EDGE = "#a33412", "#555555"
FAMILY_TITLES = {"abdnet": "ABD-Net", "pfsa": "Parameter-Free Spatial Attention"}


def network_drawing(experiment: Experiment) -> tuple[Figure, pd.DataFrame]:
    """The drawing of an experiment's network, as wide as a phone's page, and the numbers in its boxes."""
    traced = trace_without_numbers(experiment)
    diagram = diagram_of(traced, experiment)
    return network_figure(diagram, traced, experiment), diagram.table()


def network_figure(diagram: Diagram, traced: Trace, experiment: Experiment) -> Figure:
    """Draws a diagram, with its alternative text."""
    kinds = [kind for kind in COLOURS if any(box.kind == kind for box in diagram.boxes)]
    head = [
        FAMILY_TITLES[experiment.family],
        f'row "{title_of(experiment.method)}"',
        f"{experiment.backbone}, images of {experiment.height} × {experiment.width}",
    ]
    acts = {act.split(" (")[0].split(" ")[-1] for box in diagram.boxes for act in box.acts}
    explained = ["par.: parameters; m.-a.: multiply-adds for one image"]
    explained += ["O.W. (n): on n convolutions"] if "O.W." in acts else []
    explained += ["O.F.: on the box's output, with its factor"] if "O.F." in acts else []
    above = LINE * (len(head) + len(explained) + 2) + 0.2
    figure = plt.figure(figsize=(WIDTH + 2 * MARGIN + 0.04, diagram.bottom + above + 0.1))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(-MARGIN - 0.02, WIDTH + MARGIN + 0.02), ylim=(diagram.bottom + 0.1, -above))
    axis.axis("off")
    axis.text(0, -above, literally(head[0]), fontsize=10, fontweight="bold", va="top")
    axis.text(0, LINE - above + 0.06, literally("\n".join([*head[1:], *explained])), fontsize=FONT, va="top")
    handles = [Patch(facecolor=COLOURS[kind], edgecolor=EDGE, label=kind) for kind in kinds]
    axis.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.07, -0.02), bbox_transform=axis.transData,
        ncols=4, fontsize=FONT, frameon=False, handlelength=1, columnspacing=0.8, borderaxespad=0.2,
        handletextpad=0.4,
    )  # fmt: skip
    for label, left, top, right, bottom in diagram.frames:
        axis.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=EDGE, linestyle=":")
        )
        axis.text(
            left + 0.05, top + PADDING, label, fontsize=FONT, va="top", style="italic", zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip
    for points in diagram.arrows:
        xs, ys = zip(*points[:-1], strict=True)
        axis.plot(xs, ys, color=EDGE, linewidth=0.9, solid_capstyle="butt")
        axis.annotate(
            "", points[-1], points[-2],
            arrowprops={
                "arrowstyle": "-|>", "color": EDGE, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0,
                "mutation_scale": 7,
            },
        )  # fmt: skip
    for box in diagram.boxes:
        _draw(axis, box)
    return described(figure, _alternative_text(diagram, traced, experiment))


def _draw(axis, box: Box) -> None:
    axis.add_patch(
        FancyBboxPatch(
            (box.left, box.top), box.width, box.height, boxstyle="round,pad=0,rounding_size=0.04",
            facecolor=COLOURS.get(box.kind, COLOUR_OF_DATA), edgecolor=EDGE, linewidth=0.8,
        )
    )  # fmt: skip
    wide = box.columns > 1
    for number, line in enumerate([*box.lines, *box.acts]):
        axis.text(
            box.left + 0.06 if wide else box.middle[0], box.top + PADDING + LINE * (number + 0.5), line,
            fontsize=FONT, ha="left" if wide else "center", va="center_baseline",
            fontweight="bold" if number == 0 else "normal",
            color=ACTS if number >= len(box.lines) else "black",
        )  # fmt: skip
    if wide:
        axis.text(
            box.left + box.width - 0.06, box.top + PADDING + LINE / 2, shape_text(box.output), fontsize=FONT,
            ha="right", va="center_baseline",
        )  # fmt: skip


def _alternative_text(diagram: Diagram, traced: Trace, experiment: Experiment) -> str:
    whole = traced.modules[""]
    backbone = sum(box.multiply_adds for box in diagram.boxes if box.kind == "backbone")
    attention = [box.name for box in diagram.boxes if box.kind == "attention"]
    with_attention = f"attention: {', '.join(dict.fromkeys(attention))}" if attention else "no attention"
    return (
        f"Diagram of {FAMILY_TITLES[experiment.family]} as the row {title_of(experiment.method)} builds it "
        f"({experiment.backbone}, {experiment.height} × {experiment.width}): {len(diagram.boxes)} boxes from "
        f"the image to an embedding of {traced.output.embedding.shape[1]} numbers, {with_attention}. "
        f"{amount(whole.parameters)} parameters, {amount(whole.multiply_adds)} multiply-adds for an image, "
        f"{100 * backbone / whole.multiply_adds:.0f} % of them in the backbone."
    )
