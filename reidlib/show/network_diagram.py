"""Where the boxes of each family's network stand: from the image at the top downwards, as in the papers.

A part that a row's network lacks has no box.
"""

from collections.abc import Sequence

import torch

from reidlib.experiment import Experiment
from reidlib.models.attention import AttentionHead
from reidlib.models.pfsa import SUPERVISED, pool
from reidlib.show.network_boxes import (
    BETWEEN,
    COLUMN,
    COLUMNS,
    GAP,
    LINE,
    PADDING,
    WIDTH,
    Box,
    Diagram,
    Maker,
)
from reidlib.show.network_trace import Trace, multiply_adds

POSITION_TITLES = {"before": "plain path", "cam": "CAM", "pam": "PAM"}


def abdnet_diagram(traced: Trace, experiment: Experiment) -> Diagram:
    """ABD-Net's trunk, its global branch on the left and its attentive branch on the right."""
    make = Maker(traced, experiment)
    network, diagram = make.network, make.diagram
    above = make.box("image", "data", (), (0, COLUMNS, 0.0), output=(3, experiment.height, experiment.width))
    has_cam = network.shallow_cam is not None
    for name in ("stem", "layer1", "shallow_cam", "layer2", "layer3"):
        if name == "shallow_cam" and not has_cam:
            continue
        acts = make.penalty("intermediate") if name == ("shallow_cam" if has_cam else "layer1") else ()
        title, kind = ("CAM (shallow)", "attention") if name == "shallow_cam" else (name, "backbone")
        box = make.box(title, kind, name, (0, COLUMNS, above.bottom + BETWEEN), acts=acts)
        diagram.down(above, box)
        above = box
    ends = []
    if network.global_branch is not None:
        ends.append(_global_branch(make, above))
    if network.attentive_branch is not None:
        ends.append(_attentive_branch(make, above))
    top = diagram.bottom + BETWEEN
    length = traced.output.embedding.shape[1:]
    embedding = make.box("test embedding", "data", (), (0, COLUMNS, top), output=length)
    for end in ends:
        diagram.around(end, embedding)
    return diagram


def _global_branch(make: Maker, above: Box) -> Box:
    """Draws the branch; returns the box that gives its part of the embedding."""
    diagram, inside = make.diagram, "global_branch"
    top = above.bottom + BETWEEN
    layer4 = make.box("layer4", "backbone", f"{inside}.layer4", (0, 1, top))
    channels = make.traced.modules[f"{inside}.layer4"].output[:1]
    pooling = "max. pool" if make.experiment.global_pooling == "max" else "avg. pool"
    pooled = make.box(pooling, "new layers", (), (0, 1, layer4.bottom + BETWEEN), output=channels)
    place = (0, 1, pooled.bottom + BETWEEN)
    linear = make.box("linear, BN", "new layers", f"{inside}.fc", place, acts=make.triplet)
    place = (0, 1, linear.bottom + BETWEEN)
    last = make.box("classifier", "classifier", f"{inside}.classifier", place, acts=["cross-entropy"])
    for upper, lower in ((above, layer4), (layer4, pooled), (pooled, linear), (linear, last)):
        diagram.down(upper, lower)
    return linear


def _attentive_branch(make: Maker, above: Box) -> Box:
    """Draws the branch; returns the box that gives its part of the embedding."""
    diagram, branch, inside = make.diagram, make.network.attentive_branch, "attentive_branch"
    whole = make.traced.modules[f"{inside}.reduction"].output
    stripe = branch.cut(torch.empty(1, *whole, device="meta"))[0].shape[1:]
    stripes = len(branch.classifiers)
    # Without heads, `before` and `after` are the stripes themselves.
    acts = () if branch.heads else make.penalty("before", "after")

    def below(upper: Box, title: str, kind: str, modules: str | Sequence[str], **more) -> Box:
        box = make.box(title, kind, modules, (1, 3, upper.bottom + BETWEEN), **more)
        diagram.down(upper, box)
        return box

    last = below(above, "layer4", "backbone", f"{inside}.layer4")
    last = below(last, "reduction: 1×1 conv, BN", "new layers", f"{inside}.reduction")
    if branch.heads and not branch.per_stripe:
        last = _heads(make, last)
    last = below(last, f"cut into {stripes} stripes", "new layers", (), output=stripe, acts=acts)
    if branch.heads and branch.per_stripe:
        last = _heads(make, last)
    pooled = below(last, "avg. pool, each stripe", "new layers", (), output=stripe[:1], acts=make.triplet)
    names = [f"{inside}.classifiers.{number}" for number in range(stripes)]
    below(pooled, f"{stripes} classifiers", "classifier", names, acts=["cross-entropy"])
    return pooled


def _heads(make: Maker, above: Box) -> Box:
    """The attention heads beside each other, and the convolution of their sum."""
    diagram, branch, inside = make.diagram, make.network.attentive_branch, "attentive_branch"
    maps = make.traced.output.feature_maps
    top = above.bottom + BETWEEN
    first = top + LINE + 2 * PADDING
    ends = []
    positions = [name for name in POSITION_TITLES if name in maps]
    for column, position in enumerate(positions, 1):
        title, acts = POSITION_TITLES[position], make.penalty(position)
        name = f"{inside}.heads.{position}"
        shape = tuple(maps[position][0].shape[1:])
        kind = "new layers" if position == "before" else "attention"
        if position not in branch.heads:
            stack = [make.box(title, kind, (), (column, 1, first), output=shape, acts=acts)]
        elif isinstance(branch.heads[position], AttentionHead):
            stack = [make.box("3×3 conv", "new layers", f"{name}.before", (column, 1, first))]
            place = (column, 1, stack[-1].bottom + BETWEEN)
            stack += [make.box(title, kind, f"{name}.module", place)]
            place = (column, 1, stack[0].bottom + 2 * BETWEEN + 4 * LINE + 2 * PADDING)
            outside = [f"{name}.after", f"{name}.out"]
            stack += [make.box("3×3, 1×1", "new layers", outside, place, acts=acts)]
        else:
            stack = [make.box(title, kind, name, (column, 1, first), acts=acts)]
        diagram.down(above, stack[0])
        for upper, lower in zip(stack, stack[1:], strict=False):
            diagram.down(upper, lower)
        ends.append(stack[-1])
    bottom = max(end.bottom for end in ends)
    words = "on each stripe, with the same weights" if branch.per_stripe else "on the whole map"
    left, right = COLUMN + GAP, WIDTH
    diagram.frames.append((words, left - 0.05, top, right + 0.05, bottom + PADDING))
    place = (1, 3, bottom + PADDING + BETWEEN)
    title = "sum, 1×1 conv"
    box = make.box(title, "new layers", f"{inside}.sum_conv", place, acts=make.penalty("after"))
    for end in ends:
        diagram.down(end, box)
    return box


def pfsa_diagram(traced: Trace, experiment: Experiment) -> Diagram:
    """PFSA's trunk on the left, deep supervision (DS) to the right of its layers, and below the parts (P)."""
    make = Maker(traced, experiment)
    network, diagram = make.network, make.diagram
    image = make.box("image", "data", (), (0, COLUMNS, 0.0), output=(3, experiment.height, experiment.width))
    above = make.box("stem", "backbone", "stem", (0, COLUMNS, image.bottom + BETWEEN))
    diagram.down(image, above)
    supervised = bool(network.supervision_convs)
    top = above.bottom + BETWEEN + (LINE + PADDING if supervised else 0)
    begin = top
    for name in SUPERVISED:
        box = make.box(name, "backbone", name, (0, 1, top))
        diagram.down(above, box)
        above = box
        top = max([box.bottom, *_supervision(make, box)]) + BETWEEN
    if supervised:
        label = "DS: deep supervision" + ("" if network.sa2 is None else ", pools weighted by SA₂")
        diagram.frames.append((label, *_around(begin, top - BETWEEN)))
        top += PADDING
    layer4 = make.box("layer4", "backbone", "layer4", (0, 1, top + LINE + PADDING))
    diagram.down(above, layer4)
    _parts(make, layer4)
    return diagram


def _around(top: float, bottom: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a frame around columns 1 to 3, with a line for its label."""
    return COLUMN + GAP - 0.05, top - LINE - 2 * PADDING, WIDTH + 0.05, bottom + PADDING


def _supervision(make: Maker, layer: Box) -> list[float]:
    """Deep supervision of a layer, right of its box. Returns the boxes' bottoms; [] if it has none."""
    network, diagram, name = make.network, make.diagram, layer.modules[0]
    if name not in network.supervision_convs:
        return []
    maps = make.traced.output.feature_maps
    feature_map = maps[name][0]
    further = multiply_adds(lambda: pool(feature_map, network.sa2))
    if network.sa2 is None:
        first = make.box("avg. pool", "new layers", (), (1, 1, layer.top), output=layer.output[:1])
    else:
        shape = maps["attention"][SUPERVISED.index(name)].shape[1:]
        first = make.box("SA₂, pool", "attention", "sa2", (1, 1, layer.top), output=shape, further=further)
    conv = make.box("1×1 conv", "new layers", f"supervision_convs.{name}", (2, 1, layer.top))
    head = f"supervision_classifiers.{name}"
    last = make.box("classifier", "classifier", head, (3, 1, layer.top), acts=["cross-entropy"])
    for one, other in ((layer, first), (first, conv), (conv, last)):
        diagram.right(one, other)
    return [box.bottom for box in (first, conv, last)]


def _parts(make: Maker, layer4: Box) -> None:
    """What follows the last layer: SA₁ if there is one, the pool, the test embedding, the classifiers."""
    network, diagram, output = make.network, make.diagram, make.traced.output
    top, parts = layer4.top, network.parts
    final = output.feature_maps["final"][0].shape[1:]
    last = layer4
    if network.sa1 is not None:
        shape = output.feature_maps["attention"][-1].shape[1:]
        last = make.box("SA₁", "attention", ("sa1", "final"), (1, 1, top), output=shape)
        diagram.right(layer4, last)
    title = f"{parts} stripes" if parts else "avg. pool"
    shape = (final[0], parts) if parts else final[:1]
    pooled = make.box(title, "new layers", (), (2, 1, top), output=shape)
    diagram.right(last, pooled)
    length = output.embedding.shape[1:]
    embedding = make.box("embedding", "data", (), (3, 1, top), output=length)
    diagram.right(pooled, embedding)
    last, top = pooled, max(layer4.bottom, pooled.bottom) + BETWEEN
    if parts:
        shape = (make.experiment.feature_dim, parts)
        last = make.box("1×1 conv", "new layers", "bottleneck", (2, 1, top), output=shape)
        diagram.down(pooled, last)
        names = [f"part_classifiers.{number}" for number in range(len(network.part_classifiers))]
        if names:
            place = (3, 1, top)
            title = f"{len(names)} classifiers"
            box = make.box(title, "classifier", names, place, acts=["cross-entropy"])
            diagram.right(last, box)
            top = box.bottom + BETWEEN
        else:
            top = last.bottom + BETWEEN
        mean = make.box("mean", "new layers", (), (2, 1, top), output=shape[:1])
        diagram.down(last, mean)
        last = mean
    place = (3, 1, top)
    box = make.box("classifier", "classifier", "global_classifier", place, acts=["cross-entropy"])
    if parts:
        diagram.right(last, box)
    else:
        diagram.down(last, box)
    if parts:
        diagram.frames.append(("P: parts", *_around(layer4.top, max(box.bottom, last.bottom))))


def diagram_of(traced: Trace, experiment: Experiment) -> Diagram:
    """The diagram of the experiment's family."""
    return {"abdnet": abdnet_diagram, "pfsa": pfsa_diagram}[experiment.family](traced, experiment)
