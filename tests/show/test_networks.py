"""Networks traced, drawn and tabled: the drawing is the network's, down to its last parameter."""

import matplotlib

matplotlib.use("Agg")

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from reidlib.config import METHODS, experiment_for
from reidlib.settings import ConfigError
from reidlib.show import networks
from reidlib.show.drawing import description_of
from reidlib.show.network_boxes import amount
from reidlib.show.network_diagram import diagram_of
from reidlib.show.network_drawing import network_drawing
from reidlib.show.network_trace import TracedModule, multiply_adds, network_of, trace, trace_without_numbers


def small(method, **overrides):
    return experiment_for(method, profile="demo", **overrides)


def diagram(method, profile="demo", **overrides):
    experiment = experiment_for(method, profile=profile, **overrides)
    return diagram_of(trace_without_numbers(experiment), experiment)


def boxes(method, **overrides):
    """Name → what is written in the box (of boxes with one name, the last)."""
    return {box.name: (box.output, box.parameters) for box in diagram(method, **overrides).boxes}


# ---------------------------------------------------------------------------------------------------- traces


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.unused = nn.Linear(2, 5)

    def forward(self, images):
        return self.conv(self.conv(images)[:, :3])


def test_a_trace_by_hand():
    """Two calls on 6 × 5 places: each 4 · 3 · 9 multiply-adds a place."""
    traced = trace(Tiny(), 6, 5)
    assert traced.modules["conv"] == TracedModule((4, 6, 5), 108, 2 * 4 * 3 * 9 * 30)
    assert traced.modules["unused"] == TracedModule((), 15, 0)
    assert traced.modules[""] == TracedModule((4, 6, 5), 123, 6480)
    assert not traced.network.training and not traced.network.conv._forward_hooks
    assert multiply_adds(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 30


@pytest.mark.parametrize("method", ["abdnet", "pfsa+sa1"])
def test_a_trace_without_numbers_is_that_of_the_real_network(method):
    experiment = small(method, height=96, width=32)
    without = trace_without_numbers(experiment)
    real = trace(network_of(experiment), 96, 32)
    assert without.modules == real.modules
    assert without.output.embedding.shape == real.output.embedding.shape
    assert {weight.device.type for weight in without.network.parameters()} == {"meta"}


def test_attention_costs_what_its_products_cost():
    """CAM: C²·N for the energies and as much again. PAM: N²·C/8 and N²·C, after three 1×1 convolutions."""
    modules = trace_without_numbers(experiment_for("abdnet")).modules
    assert modules["shallow_cam"].multiply_adds == 2 * 256**2 * 96 * 32
    stripes, channels, places = 2, 512, 12 * 8
    assert modules["attentive_branch.heads.cam.module"].multiply_adds == stripes * 2 * channels**2 * places
    one = places * channels * (2 * channels // 8 + channels) + places**2 * (channels // 8 + channels)
    assert modules["attentive_branch.heads.pam.module"].multiply_adds == stripes * one
    assert modules["attentive_branch.heads.pam.module"].output == (channels, 12, 8), "of one stripe"


# ----------------------------------------------------------------------------------------------------- boxes

FORMS = [
    ("abdnet", {"attention_heads": False}),
    ("abdnet", {"before_head": False, "attention_per_stripe": False}),
    ("abdnet", {"pam_form": "normalised", "stripes": 4, "shallow_cam": False}),
    ("baseline", {"global_branch": False}),
    ("baseline", {"attentive_branch": False, "global_pooling": "max"}),
    ("gap", {"deep_supervision": True, "backbone": "resnet34"}),
]


@pytest.mark.parametrize(("method", "overrides"), [*((method, {}) for method in METHODS), *FORMS])
def test_every_parameter_and_multiply_add_of_a_network_is_in_one_of_its_boxes(method, overrides):
    experiment = small(method, **overrides)
    traced = trace_without_numbers(experiment)
    table = diagram_of(traced, experiment).table()
    assert table["parameters"].sum() == traced.modules[""].parameters
    assert table["multiply_adds"].sum() == traced.modules[""].multiply_adds
    length = str(traced.output.embedding.shape[1])
    assert table.loc[table["box"].isin(["test embedding", "embedding"]), "output"].tolist() == [length]


def test_the_papers_shapes_are_in_the_boxes():
    shapes = {box.name: box.output for box in diagram("abdnet", "paper").boxes}
    assert shapes["CAM (shallow)"] == (256, 96, 32)
    assert shapes["layer3"] == (1024, 24, 8) and shapes["layer4"] == (2048, 24, 8)
    assert shapes["CAM"] == shapes["PAM"] == (512, 12, 8)
    assert shapes["sum, 1×1 conv"] == (1024, 12, 8) and shapes["test embedding"] == (3072,)
    found = [(box.name, box.output) for box in diagram("pfsa", "paper").boxes]
    maps = [output for name, output in found if name == "SA₂, pool"]
    assert maps == [(1, 96, 32), (1, 48, 16), (1, 24, 8)]
    assert ("6 stripes", (2048, 6)) in found and ("embedding", (12288,)) in found


def test_a_change_to_a_network_changes_its_boxes():
    before = boxes("abdnet")
    wider = boxes("abdnet", embedding_dim=64)
    changed = {name for name in before if before[name] != wider[name]}
    assert changed == {"linear, BN", "classifier", "test embedding"}
    assert wider["linear, BN"] == ((64,), 512 * 64 + 3 * 64)
    without = boxes("abdnet", cam=False, shallow_cam=False)
    assert set(before) - set(without) == {"CAM", "CAM (shallow)"}
    assert set(before) - set(boxes("baseline")) == {
        *("CAM", "CAM (shallow)", "PAM", "plain path", "3×3 conv", "3×3, 1×1", "sum, 1×1 conv")
    }
    assert boxes("abdnet", height=256)["image"] != before["image"]
    assert "4 classifiers" in boxes("abdnet", stripes=4, height=256)
    assert set(boxes("pfsa+sa1")) - set(boxes("pfsa")) == {"SA₁"}
    assert set(boxes("pfsa")) - set(boxes("pfsa-without-sa")) == {"SA₂, pool"}


def acts(method, **overrides):
    """Box → what acts there, of the boxes where a penalty or the triplet loss does."""
    return {
        box.name: [act for act in box.acts if act != "cross-entropy"]
        for box in diagram(method, "paper", **overrides).boxes
        if set(box.acts) - {"cross-entropy"}
    }


def test_the_boxes_say_where_losses_and_penalties_act():
    as_released = acts("abdnet")
    assert as_released == {
        "stem": ["O.W. (1)"],
        "CAM (shallow)": ["0.01 O.F."],
        "linear, BN": ["triplet"],
        "3×3, 1×1": ["O.F."],
        "sum, 1×1 conv": ["O.F."],
        "avg. pool, each stripe": ["triplet"],
    }
    heads = [box.acts for box in diagram("abdnet").boxes if box.name == "3×3, 1×1"]
    assert heads == [("O.F.",)] * 3
    as_written = [box for box in diagram("abdnet", "paper", ow_reach="backbone").boxes if "O.W" in str(box)]
    counts = [int(act[6:-1]) for box in as_written for act in box.acts if act.startswith("O.W. (")]
    assert sum(counts) == 63 and {box.kind for box in as_written} == {"backbone"}
    assert acts("baseline+of") == {
        "layer1": ["0.01 O.F."],
        "cut into 2 stripes": ["O.F. (before)", "O.F. (after)"],
    }
    assert acts("baseline+pam+cam", of_weight=1e-6, of_positions=("pam",)) == {"3×3, 1×1": ["O.F."]}
    assert acts("baseline+pam+cam") == acts("pfsa") == {}
    losses = [box.name for box in diagram("pfsa").boxes if "cross-entropy" in box.acts]
    assert losses == ["classifier"] * 3 + ["6 classifiers", "classifier"]


def test_amounts_have_three_digits():
    given = (0, 1, 999, 9536, 999_600, 23_508_032, 100_000_000, 6_086_809_088)
    assert [*map(amount, given)] == ["0", "1", "999", "9.54 k", "1.00 M", "23.5 M", "100 M", "6.09 G"]


# --------------------------------------------------------------------------------------------------- drawing


@pytest.mark.parametrize(
    ("method", "overrides"), [("abdnet", {"ow_reach": "backbone"}), ("pfsa+sa1", {}), *FORMS]
)
def test_a_drawing_fits_a_phone_and_no_text_leaves_its_box(method, overrides):
    figure, numbers = network_drawing(experiment_for(method, **overrides))
    assert figure.get_figwidth() < 4.2
    figure.canvas.draw()
    (axis,) = figure.axes
    frames = [patch.get_window_extent() for patch in axis.patches]
    texts = [text for text in axis.texts if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 8
    page = figure.bbox
    inside = 0
    for text in texts:
        extent = text.get_window_extent()
        assert page.x0 <= extent.x0 and extent.x1 <= page.x1 and extent.y0 >= page.y0, text.get_text()
        middle = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
        around = [frame for frame in frames if frame.contains(*middle)]
        if around:
            box = min(around, key=lambda frame: frame.width * frame.height)
            assert box.x0 <= extent.x0 and extent.x1 <= box.x1, text.get_text()
            inside += 1
    assert inside >= 2 * len(numbers)
    drawn = [patch.get_window_extent() for patch in axis.patches if patch.get_facecolor()[3]]
    assert len(drawn) == len(numbers)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(drawn, 2))


def test_the_alternative_text_has_the_networks_numbers():
    figure, _ = network_drawing(experiment_for("abdnet"))
    text = description_of(figure)
    assert "resnet50, 384 × 128" in text and "embedding of 3072 numbers" in text
    assert "CAM (shallow), CAM, PAM" in text and "69.2 M parameters, 14.5 G multiply-adds" in text
    assert "no attention" in description_of(network_drawing(small("baseline"))[0])


# ----------------------------------------------------------------------------------------------------- table


@pytest.fixture
def timed(monkeypatch):
    """Networks that were built and timed, which take no time here."""
    calls = []

    def milliseconds(network, height, width, **options):
        calls.append(network)
        return float(len(calls))

    monkeypatch.setattr(networks, "network_of", networks.network_key)
    monkeypatch.setattr(networks, "milliseconds", milliseconds)
    return calls


def test_the_table_has_every_row_and_times_every_network_once(timed):
    table = networks.networks_table(networks.rows_of("demo")).set_index("row")
    assert table.index.tolist() == [method.title for method in METHODS.values()]
    assert not table.isna().any().any()
    assert len(timed) == len(set(timed)) == 12, "four of ABD-Net, eight with spatial attention or without"
    same = [METHODS[row].title for row in ("baseline+pam+cam", "abdnet-xe", "abdnet")]
    assert table.loc[same, "ms per image"].nunique() == 1
    assert table.loc["ABD-Net", "embedding"] == 3 * 256
    papers = table.loc[[METHODS[row].title for row in ("abdnet", "gap", "pfsa")]]
    assert papers["papers' embedding"].tolist() == [3072, 2048, 12288]
    own = sum(weight.numel() for weight in network_of(small("pfsa")).parameters())
    assert table.loc[METHODS["pfsa"].title, "parameters (M)"] == own / 1e6
    sentence = networks.networks_sentence(table.reset_index())
    more = table.loc["ABD-Net"] / table.loc["Baseline (XE)"]
    assert f"{100 * (more['''papers' multiply-adds (G)'''] - 1):+.1f} % multiply-adds" in sentence


def test_a_time_is_the_median_for_one_image(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 10.5, 20.0, 20.25])
    monkeypatch.setattr(networks.time, "thread_time", lambda: next(clock))
    seen = []

    class Net(nn.Module):
        def forward(self, batch):
            seen.append((tuple(batch.shape), torch.get_num_threads(), torch.is_inference_mode_enabled()))

    assert networks.milliseconds(Net(), 8, 4, images=5, repeats=3) == 100.0
    assert seen == [((5, 3, 8, 4), 1, True)] * 3


def test_settings_reach_the_networks_that_they_shape(timed):
    given = {"height": 96, "epochs": 3, "of_weight": 1e-5, "pretrained": "nowhere.pth"}
    rows = networks.rows_of("demo", given)
    assert set(rows.possible) == set(METHODS) and not rows.impossible
    assert {experiment.height for experiment in rows.possible.values()} == {96}
    assert rows.possible["baseline"].of_weight == 1e-5 and rows.possible["gap"].of_weight == 0
    with pytest.raises(ConfigError, match="height"):
        networks.rows_of("demo", {"hieght": 96})


def test_rows_that_settings_rule_out_are_named_and_the_fullest_other_row_is_drawn(timed, monkeypatch):
    few = {row: METHODS[row] for row in ("baseline", "baseline+of", "abdnet", "gap", "pfsa")}
    monkeypatch.setattr(networks, "METHODS", few)
    rows = networks.rows_of("demo", {"attentive_branch": False})
    assert rows.published("abdnet").method == "baseline+of" and rows.published("pfsa").method == "pfsa"
    table = networks.networks_table(rows).set_index("row")
    assert (
        np.isnan(table.loc["ABD-Net", "ms per image"]) and table.loc["ABD-Net", "papers' embedding"] == 3072
    )
    (sentence,) = networks.left_out_sentences(rows)
    assert sentence.startswith("Without numbers here: ABD-Net. pam and cam sit in the attentive branch")
    with pytest.raises(ConfigError, match="stripes = 5"):
        networks.rows_of("demo", {"stripes": 5}).published("abdnet")
