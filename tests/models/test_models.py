"""The networks: released outputs, invariants, initial values, pretrained files, released checkpoints."""

import math
import pickle
import warnings
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import golden, golden_shapes, released_state
from torch import nn

from reidlib.checkpoints import load_released_checkpoint, released_state_dict_to_ours
from reidlib.config import METHODS, experiment_for
from reidlib.errors import ReidError
from reidlib.models import ABDNet, PFSANet, ReidOutput, build_model, model_from_experiment
from reidlib.models.attention import PositionAttention
from reidlib.models.backbone import build_trunk
from reidlib.models.pfsa import stripe_pool
from reidlib.torch_files import CheckpointError

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
NO_ATTENTION = {"cam": False, "pam": False, "shallow_cam": False}
ABDNET_VARIANTS = {
    "abdnet": {},
    "cam_only": {"pam": False},
    "pam_only": {"cam": False, "shallow_cam": False},
    "baseline": NO_ATTENTION,
    "global_only": {**NO_ATTENTION, "attentive_branch": False},
}
SMALL = {"backbone": "resnet18"}
SMALL_ABDNET = {**SMALL, "embedding_dim": 48, "reduced_dim": 32, "head_dim": 16}


def small_model(method: str, num_classes: int = 5, **overrides) -> nn.Module:
    family = "abdnet" if method in ("abdnet", "abdnet-xe") or method.startswith("baseline") else "pfsa"
    return build_model(
        method, num_classes, **{**(SMALL_ABDNET if family == "abdnet" else SMALL), **overrides}
    )


# ---- the released code's outputs


@pytest.mark.parametrize("variant", ABDNET_VARIANTS)
@torch.no_grad()
def test_abdnet_golden(variant):
    values = golden("abdnet_models")
    network = ABDNet(751, **ABDNET_VARIANTS[variant])
    load_released_checkpoint(network, released_state(golden_shapes("abdnet")[variant]))
    output = network.eval()(values["image"])
    torch.testing.assert_close(output.embedding, values[f"{variant}.feature"], **CLOSE)
    torch.testing.assert_close(torch.stack(output.logits), values[f"{variant}.logits"], **CLOSE)
    means = {name: torch.stack([m.mean((2, 3)) for m in maps]) for name, maps in output.feature_maps.items()}
    torch.testing.assert_close(means.pop("intermediate")[0], values[f"{variant}.intermediate_mean"], **CLOSE)
    prefix, suffix = f"{variant}.fmap_", "_mean"
    expected = {
        key[len(prefix) : -len(suffix)]: value for key, value in values.items() if key.startswith(prefix)
    }
    assert set(means) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(means[name], value, **CLOSE)


@torch.no_grad()
def test_pfsa_golden():
    values = golden("pfsa_model")
    network = load_released_checkpoint(PFSANet(751), released_state(golden_shapes("pfsa"))).eval()
    output = network(values["image"].float())
    torch.testing.assert_close(output.embedding, values["feature"].flatten(1), **CLOSE)
    torch.testing.assert_close(torch.stack(output.logits), values["logits"], **CLOSE)


# ---- every method, on the small backbone


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method):
    """Training, evaluation and autocast give finite outputs of the same structure; all gradients exist.

    Each parameter belongs either to the trunk or to the new layers.
    """
    network = small_model(method).to(memory_format=torch.channels_last)
    images = torch.rand(3, 3, 96, 32).contiguous(memory_format=torch.channels_last)
    trained = network.train()(images)
    with torch.no_grad():
        evaluated = network.eval()(images)
    abdnet = isinstance(network, ABDNet)
    with torch.autocast("cpu", torch.bfloat16):
        cast = network.train()(images)

    def structure(output: ReidOutput):
        return (
            output.embedding.shape,
            [tensor.shape for tensor in output.logits],
            [tensor.shape for tensor in output.head_embeddings],
            {name: [m.shape for m in maps] for name, maps in output.feature_maps.items()},
        )

    assert structure(trained) == structure(evaluated) == structure(cast)
    for output in (trained, evaluated, cast):
        maps = [m for maps in output.feature_maps.values() for m in maps]
        for tensor in (output.embedding, *output.logits, *output.head_embeddings, *maps):
            assert tensor.isfinite().all()
        assert output.embedding.dtype == torch.float32
        assert len(output.logits) == len(output.head_embeddings)
        assert all(tensor.shape == (3, 5) for tensor in output.logits)
    if abdnet:
        torch.testing.assert_close(evaluated.embedding, torch.cat(evaluated.head_embeddings, 1))
        assert structure(evaluated)[2] == [(3, 48), (3, 32), (3, 32)]
        assert evaluated.feature_maps["intermediate"][0].shape == (3, 64, 24, 8)
        assert all(len(maps) == 2 for name, maps in evaluated.feature_maps.items() if name != "intermediate")
        assert ("cam" in evaluated.feature_maps, "pam" in evaluated.feature_maps) == (
            "cam" in method or method.startswith("abdnet"),
            "pam" in method or method.startswith("abdnet"),
        )
    else:
        parts = network.parts or 1
        norms = evaluated.embedding.unflatten(1, (512, parts)).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(3, parts))
        assert evaluated.feature_maps["layer1"][0].shape == (3, 64, 24, 8)
        assert evaluated.feature_maps["final"][0].shape == (3, 512, 6, 2)
        applied = 3 * ("sa2" in method or method in ("pfsa", "pfsa+sa1")) + ("sa1" in method)
        assert len(evaluated.feature_maps.get("attention", [])) == applied

    sum(logits.float().square().sum() for logits in trained.logits).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    trunk, new = ([id(p) for p in group] for group in (network.trunk_parameters(), network.new_parameters()))
    assert sorted(trunk + new) == sorted(id(p) for p in network.parameters())
    assert {name for name, p in network.named_parameters() if id(p) in trunk} == {
        name
        for name, _ in network.named_parameters()
        if any(part in name for part in ("stem.", *(f"layer{i}." for i in range(1, 5))))
        and "supervision" not in name
    }


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize(("last_stride", "rows"), [(1, 4), (2, 2)])
def test_last_stride(backbone, last_stride, rows):
    trunk = build_trunk(backbone, last_stride=last_stride)
    x, channels = trunk.stem(torch.rand(1, 3, 64, 32)), []
    for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
        x = layer(x)
        channels.append(x.shape[1])
    assert tuple(channels) == trunk.channels
    assert x.shape[2:] == (rows, rows // 2)


@torch.no_grad()
def test_stripes_batched_in_evaluation_equal_one_by_one():
    network = ABDNet(5, **SMALL_ABDNET).eval()
    for module in network.modules():
        if hasattr(module, "gamma"):
            module.gamma.fill_(0.7)
    x = torch.randn(3, 256, 6, 3)
    branch = network.attentive_branch
    _, _, batched = branch(x)
    stripes = branch.cut(branch.reduction(branch.layer4(x)))
    for index, stripe in enumerate(stripes):
        for name, alone in branch.attend(stripe).items():
            torch.testing.assert_close(batched[name][index], alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_batch_statistics_are_taken_over_each_stripe_in_turn():
    branch = ABDNet(5, **SMALL_ABDNET).train().attentive_branch
    x = torch.randn(4, 256, 4, 2)
    norm = branch.heads["before"].before[1]
    branch(x)
    assert norm.num_batches_tracked == 2
    branch.layer4.eval()
    norm.reset_running_stats()
    reduced = branch.reduction(branch.layer4(x))
    expected = torch.zeros(norm.num_features)
    for stripe in branch.cut(reduced):
        expected = 0.9 * expected + 0.1 * branch.heads["before"].before[0](stripe).mean((0, 2, 3))
    branch(x)
    torch.testing.assert_close(norm.running_mean, expected)


def test_parts_overlap_when_rows_do_not_divide():
    """8 rows in 6 parts: stride 1, height 3. 5 rows in 2 parts: stride 2, height 3."""
    rows = torch.arange(8.0)[None, None, :, None].expand(1, 1, 8, 2)
    torch.testing.assert_close(stripe_pool(rows, 6).flatten(), torch.arange(1.0, 7.0))
    torch.testing.assert_close(stripe_pool(rows[:, :, :5], 2).flatten(), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(stripe_pool(rows[:, :, :6], 3).flatten(), torch.tensor([0.5, 2.5, 4.5]))


@torch.no_grad()
def test_gap_is_a_linear_classifier_on_the_pooled_map():
    """The classifier at every position, averaged, gives the logits. Class activation maps rely on this."""
    network = small_model("gap+sa1").eval()
    output = network(torch.rand(2, 3, 64, 32))
    final, attention = output.feature_maps["final"][0], output.feature_maps["attention"][0]
    torch.testing.assert_close(final, output.feature_maps["layer4"][0] * attention)
    scores = torch.einsum("bchw,kc->bkhw", final, network.global_classifier.weight)
    torch.testing.assert_close(scores.mean((2, 3)) + network.global_classifier.bias, output.logits[0])


def test_attention_of_deep_supervision_does_not_change_the_embedding():
    """SA₂ changes the test embedding only through training; SA₁ changes it directly."""
    images = torch.rand(2, 3, 96, 32)
    embeddings = {}
    for placement in ("none", "sa1", "sa2"):
        torch.manual_seed(1)
        network = PFSANet(5, spatial_attention=placement, **SMALL).eval()
        embeddings[placement] = network(images).embedding
    torch.testing.assert_close(embeddings["none"], embeddings["sa2"], rtol=0, atol=0)
    assert not torch.allclose(embeddings["none"], embeddings["sa1"])


# ---- switches between paper and released code


def with_open_gates(network: nn.Module) -> nn.Module:
    """Sets every γ to 0.7. At its initial value 0, attention does nothing."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.7)
    return network


@torch.no_grad()
def test_without_its_head_the_before_map_is_the_reduced_stripe():
    network = with_open_gates(small_model("abdnet", before_head=False)).eval()
    names = [name for name, _ in network.named_parameters()]
    assert not any(".before" in name and "heads.before" in name for name in names)
    assert {name.split(".")[2] for name in names if ".heads." in name} == {"cam", "pam"}
    with_head = small_model("abdnet")
    extra = [parameter for name, parameter in with_head.named_parameters() if ".heads.before." in name]
    counts = [sum(p.numel() for p in model.parameters()) for model in (with_head, network)]
    assert counts[0] - counts[1] == sum(p.numel() for p in extra) > 0, "nothing else went with it"

    x, branch = torch.rand(3, 256, 6, 2), network.attentive_branch
    _, _, maps = branch(x)
    stripes = branch.cut(branch.reduction(branch.layer4(x)))
    assert list(maps) == ["before", "cam", "pam", "after"]
    for index, stripe in enumerate(stripes):
        assert torch.equal(maps["before"][index], stripe)
        summed = stripe + maps["cam"][index] + maps["pam"][index]
        torch.testing.assert_close(maps["after"][index], branch.sum_conv[1](summed))
    released = with_head.eval().attentive_branch
    before = released(x)[2]["before"][0]
    assert not torch.allclose(before, released.cut(released.reduction(released.layer4(x)))[0], atol=1e-3)


@torch.no_grad()
def test_the_whole_map_is_cut_after_attention():
    torch.manual_seed(3)
    whole = with_open_gates(small_model("abdnet", attention_per_stripe=False)).eval()
    torch.manual_seed(3)
    striped = with_open_gates(small_model("abdnet")).eval()
    images = torch.rand(2, 3, 96, 32)
    output, other = whole(images), striped(images)
    assert {
        name: [tuple(m.shape) for m in maps]
        for name, maps in output.feature_maps.items()
        if name != "intermediate"
    } == {name: [(2, 32, 6, 2)] for name in ("before", "cam", "pam", "after")}
    after = output.feature_maps["after"][0]
    for index, rows in enumerate((slice(0, 3), slice(3, 6))):
        torch.testing.assert_close(output.head_embeddings[1 + index], after[:, :, rows].mean((2, 3)))
    torch.testing.assert_close(output.head_embeddings[0], other.head_embeddings[0], rtol=0, atol=0)
    for index in (1, 2):  # the same weights, but a stripe does not see the other one
        assert not torch.allclose(output.head_embeddings[index], other.head_embeddings[index], atol=1e-4)
    # A head's two 3 × 3 convolutions reach two rows, so only the first of the three rows above the cut does
    # not depend on the rows below it.
    ours, theirs = output.feature_maps["before"][0], other.feature_maps["before"][0]
    torch.testing.assert_close(ours[:, :, :1], theirs[:, :, :1])
    for row in (1, 2):
        assert not torch.allclose(ours[:, :, row], theirs[:, :, row], atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_with_one_stripe_attention_on_the_whole_map_is_the_same(training):
    networks = []
    for per_stripe in (True, False):
        torch.manual_seed(4)
        network = small_model("abdnet", stripes=1, attention_per_stripe=per_stripe)
        networks.append(with_open_gates(network).train(training))
    outputs = []
    for network in networks:
        torch.manual_seed(5)  # dropout
        outputs.append(network(torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(6))))
    one, other = outputs
    assert torch.equal(one.embedding, other.embedding)
    assert all(torch.equal(a, b) for a, b in zip(one.logits, other.logits, strict=True))
    for name, maps in one.feature_maps.items():
        assert len(maps) == 1 and torch.equal(maps[0], other.feature_maps[name][0]), name


@torch.no_grad()
def test_the_other_branch_order_permutes_heads_and_embedding_and_nothing_else():
    networks = []
    for order in ("global-first", "attentive-first"):
        torch.manual_seed(7)
        networks.append(with_open_gates(small_model("abdnet", branch_order=order)).eval())
    images = torch.rand(4, 3, 64, 32)
    first, other = (network(images) for network in networks)
    assert list(networks[0].state_dict()) == list(networks[1].state_dict()), "runs of both orders can be read"
    for heads in ("logits", "head_embeddings"):
        ours, theirs = getattr(first, heads), getattr(other, heads)
        assert len(ours) == 3
        assert all(torch.equal(theirs[place], ours[head]) for place, head in enumerate((1, 2, 0)))
    assert torch.equal(other.embedding, torch.cat([first.embedding[:, 48:], first.embedding[:, :48]], 1))
    assert not torch.equal(other.embedding, first.embedding)
    torch.testing.assert_close(
        torch.cdist(other.embedding, other.embedding), torch.cdist(first.embedding, first.embedding)
    )
    assert all(
        torch.equal(m, other.feature_maps[name][i])
        for name, maps in first.feature_maps.items()
        for i, m in enumerate(maps)
    )


@torch.no_grad()
def test_a_released_file_fits_either_branch_order_and_the_whole_map():
    """These switches change how the network is run, not its weights."""
    state = released_state(golden_shapes("abdnet")["abdnet"], branches=("abd", "global"))
    values = golden("abdnet_models")
    network = load_released_checkpoint(
        ABDNet(751, branch_order="attentive-first", attention_per_stripe=False), state
    ).eval()
    output = network(values["image"])
    expected = values["abdnet.feature"]
    torch.testing.assert_close(output.embedding[:, 2048:], expected[:, :1024], **CLOSE)
    assert not torch.allclose(output.embedding[:, :2048], expected[:, 1024:], atol=1e-3)
    with pytest.raises(CheckpointError, match=r"left over: .*heads\.before"):
        load_released_checkpoint(ABDNet(751, before_head=False), state)


def test_a_fixed_number_of_classes():
    """The released spatial-attention code has 751 outputs on every data set."""
    settings = {"pretrained": False, "backbone": "resnet18"}
    for method in ("pfsa", "abdnet"):
        experiment = experiment_for(
            method, classes=751, reduced_dim=16, embedding_dim=16, head_dim=16, **settings
        )
        output = model_from_experiment(experiment, 5).eval()(torch.rand(1, 3, 96, 32))
        assert {tuple(logits.shape) for logits in output.logits} == {(1, 751)}
        assert model_from_experiment(experiment, 751) is not None
        with pytest.raises(ReidError, match="classes = 751 are too few for 752 people"):
            model_from_experiment(experiment, 752)
    follows = model_from_experiment(experiment_for("gap", **settings), 5)
    assert follows.global_classifier.out_features == 5


@pytest.mark.parametrize("method", ["stripes", "stripes+sa1"])
@torch.no_grad()
def test_the_readmes_ablation_by_hand(method):
    """Six stripes → shared 1×1 convolution, BN, ReLU → their mean → one classifier.

    The test embedding is the six stripes themselves, each normalised.
    """
    network = small_model(method).eval()
    output = network(torch.rand(2, 3, 192, 32))  # 12 rows in the last map, 2 in each stripe
    final = output.feature_maps["layer4"][0]
    if method == "stripes+sa1":
        final = final * (final.mean(1, keepdim=True) / final.mean(1, keepdim=True).sum((2, 3), keepdim=True))
    stripes = torch.stack([rows.mean((2, 3)) for rows in final.split(2, 2)], 2)[..., None]
    feature = network.bottleneck[1:](stripes).mean((2, 3))
    (logits,) = output.logits
    torch.testing.assert_close(logits, network.global_classifier(feature))
    embedding = (stripes / stripes.norm(dim=1, keepdim=True)).flatten(1)
    torch.testing.assert_close(output.embedding, embedding)
    full = build_model(method, 751)
    assert full.bottleneck[1].weight.shape == (256, 2048, 1, 1)
    assert full.global_classifier.weight.shape == (751, 256) and not full.part_classifiers
    with torch.inference_mode():
        assert full.eval()(torch.rand(1, 3, 96, 32)).embedding.shape == (1, 12288)


# ---- the options of ABD-Net's training guide


@torch.no_grad()
def test_without_heads_attention_acts_on_the_reduced_stripe():
    """--abd-dan-no-head: only the heads go, CAM, PAM and the sum conv stay. `before` is a straight line."""
    network = with_open_gates(small_model("abdnet", attention_heads=False)).eval()
    branch, images = network.attentive_branch, torch.rand(2, 3, 64, 32)
    assert {type(module).__name__ for module in branch.heads.values()} == {
        "ChannelAttention",
        "PositionAttention",
    }
    maps = network(images).feature_maps
    stripe = maps["before"][1]
    torch.testing.assert_close(maps["cam"][1], branch.heads["cam"](stripe))
    torch.testing.assert_close(maps["pam"][1], branch.heads["pam"](stripe))
    summed = stripe + maps["cam"][1] + maps["pam"][1]
    torch.testing.assert_close(maps["after"][1], branch.sum_conv(summed))
    assert branch.heads["pam"].query.weight.shape == (4, 32, 1, 1), "C/8 of the reduced map's channels"


def test_a_released_checkpoint_without_heads_is_read():
    network = ABDNet(5, attention_heads=False, **SMALL_ABDNET)
    released = {"branches.1.1.reduction.0.weight": torch.zeros(1)}  # tells which branch it is
    for layer in ("cam_module.gamma", "pam_module.gamma", "pam_module.query_conv.weight",
                  "pam_module.query_conv.bias", "pam_module.key_conv.weight", "pam_module.key_conv.bias",
                  "pam_module.value_conv.weight", "pam_module.value_conv.bias"):  # fmt: skip
        released[f"branches.1.1.{layer}"] = torch.zeros(1)
    ours = {name for name in network.state_dict() if name.startswith("attentive_branch.heads.")}
    found = {name for name in released_state_dict_to_ours(network, released) if "num_batches" not in name}
    assert found == {*ours, "attentive_branch.reduction.0.weight"}


@pytest.mark.parametrize("modules", [{"cam": True}, {"pam": True}])
@torch.no_grad()
def test_one_attention_module_alone_in_the_branch(modules):
    """--abd-dan with one name; the shallow CAM is another option."""
    network = small_model("baseline", **modules)
    (name,) = modules
    assert list(network.attentive_branch.heads) == ["before", name] and network.shallow_cam is None
    maps = network.eval()(torch.rand(1, 3, 64, 32)).feature_maps
    assert list(maps) == ["intermediate", "before", name, "after"]


@pytest.mark.parametrize("stripes", [1, 3])
@torch.no_grad()
def test_any_number_of_stripes(stripes):
    """--abd-np."""
    network = small_model("abdnet", stripes=stripes).eval()
    output = network(torch.rand(1, 3, 96, 32))
    assert len(output.logits) == 1 + stripes
    assert output.embedding.shape == (1, 48 + stripes * 32)
    assert [m.shape[2] for m in output.feature_maps["after"]] == [6 // stripes] * stripes


@torch.no_grad()
def test_global_max_pooling_is_the_global_branchs_alone():
    """--global-max-pooling."""
    outputs, images = {}, torch.rand(2, 3, 64, 32)
    for pooling in ("average", "max"):
        torch.manual_seed(4)
        network = small_model("baseline", global_pooling=pooling).eval()
        outputs[pooling] = network(images)
    x = network.layer3(network.layer2(outputs["max"].feature_maps["intermediate"][0]))
    pooled = network.global_branch.layer4(x).flatten(2).max(2).values
    torch.testing.assert_close(outputs["max"].head_embeddings[0], network.global_branch.fc(pooled))
    assert not torch.allclose(outputs["max"].logits[0], outputs["average"].logits[0])
    assert torch.equal(outputs["max"].logits[1], outputs["average"].logits[1])


@torch.no_grad()
def test_the_attentive_branch_alone():
    network = small_model("baseline", global_branch=False).eval()
    images = torch.rand(2, 3, 64, 32)
    output = network(images)
    assert [head.shape for head in output.head_embeddings] == [(2, 32), (2, 32)]
    assert output.embedding.shape == (2, 64) and len(network.trunk_modules()) == 5
    assert not any(name.startswith("global_branch") for name in network.state_dict())


@torch.no_grad()
def test_position_attention_in_the_form_of_the_readers_notes():
    """Query, key and value: 1×1 convolution without bias, batch normalisation, ReLU, C channels each."""
    layer = PositionAttention(8, "normalised").eval()
    layer.gamma.fill_(0.7)
    x = torch.randn(2, 8, 3, 4)
    query, key, value = (
        torch.relu(part[1](torch.einsum("oc,bchw->bohw", part[0].weight[:, :, 0, 0], x))).flatten(2)
        for part in (layer.query, layer.key, layer.value)
    )
    weights = torch.softmax(query.mT @ key, -1)  # (B, N, N)
    expected = x + 0.7 * (value @ weights.mT).view_as(x)
    torch.testing.assert_close(layer(x), expected)
    network = build_model("abdnet", 5, pam_form="normalised")
    assert network.attentive_branch.heads["pam"].module.query[0].weight.shape == (512, 512, 1, 1)
    with pytest.raises(ReidError, match="form is 'danet'"):
        PositionAttention(8, "danet")


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        (
            "abdnet",
            {
                "before_head": False,
                "attention_per_stripe": False,
                "branch_order": "attentive-first",
                "classes": 751,
            },
        ),
        ("stripes", {}),
        ("pfsa", {"classes": 751, "spatial_attention": "sa1+sa2"}),
    ],
)
def test_a_pretrained_file_is_loaded_with_every_switch(tmp_path, method, overrides):
    from torchvision.models import resnet18

    state = resnet18().state_dict()
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    small = SMALL_ABDNET if method == "abdnet" else SMALL
    network = model_from_experiment(experiment_for(method, pretrained=str(path), **small, **overrides), 5)
    theirs = list(torch.nn.Sequential(*network.trunk_modules()[:4]).state_dict().values())
    expected = [value for name, value in state.items() if not name.startswith(("layer4.", "fc."))]
    assert len(theirs) == len(expected) and all(
        torch.equal(a, b) for a, b in zip(theirs, expected, strict=True)
    )
    del state["layer4.1.bn2.weight"]
    torch.save(state, path)
    with pytest.raises(ReidError, match=r"1 missing: layer4\.1\.bn2\.weight"):
        model_from_experiment(experiment_for(method, pretrained=str(path), **small, **overrides), 5)


# ---- start values


def test_abdnet_initial_values():
    network = ABDNet(400, backbone="resnet18")
    trunk = {id(p) for p in network.trunk_parameters()}
    seen = set()
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if not own or id(own[0]) in trunk:
            continue
        seen.add(type(module).__name__)
        if hasattr(module, "gamma"):
            assert module.gamma.tolist() == [0.0]
            continue
        assert module.bias is None or not module.bias.any()
        spread, middle = module.weight.std().item(), 0.0
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
        elif isinstance(module, nn.Linear):
            expected = 0.01
        else:
            expected, middle = 0.02, 1.0
        count = module.weight.numel()
        assert spread == pytest.approx(expected, rel=5 / math.sqrt(2 * count))
        assert module.weight.mean().item() == pytest.approx(middle, abs=5 * expected / math.sqrt(count))
    assert seen == {"Conv2d", "Linear", "BatchNorm1d", "BatchNorm2d", "ChannelAttention", "PositionAttention"}


def test_pfsa_initial_values():
    network = PFSANet(400, backbone="resnet18")
    assert network.bottleneck[1].weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    assert (network.bottleneck[2].weight == 1).all()
    for conv in network.supervision_convs.values():  # PyTorch's default is uniform within ±1/√fan_in
        bound = 1 / math.sqrt(conv.in_channels)
        assert 0.99 * bound < conv.weight.abs().max() <= bound
    for head in (
        *network.part_classifiers,
        network.global_classifier,
        *network.supervision_classifiers.values(),
    ):
        assert head.weight.std().item() == pytest.approx(0.001, rel=0.02)
        assert not head.bias.any()


def test_branches_start_from_equal_but_separate_layer4():
    network = ABDNet(5, **SMALL_ABDNET)
    ours, theirs = network.global_branch.layer4.state_dict(), network.attentive_branch.layer4.state_dict()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name])
        assert value.data_ptr() != theirs[name].data_ptr()


# ---- pretrained backbones


def test_pretrained_file(tmp_path):
    from torchvision.models import resnet18

    state = resnet18().state_dict()
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    network = ABDNet(5, pretrained=path, **SMALL_ABDNET)
    assert torch.equal(network.stem.conv1.weight, state["conv1.weight"])
    for branch in (network.global_branch, network.attentive_branch):
        assert torch.equal(branch.layer4[1].bn2.bias, state["layer4.1.bn2.bias"])
        assert torch.equal(branch.layer4[0].downsample[0].weight, state["layer4.0.downsample.0.weight"])
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, path)
    assert torch.equal(
        build_model("gap", 5, pretrained=str(path), **SMALL).layer3[0].conv1.weight,
        state["layer3.0.conv1.weight"],
    )

    counted = [name for name in state if name.endswith("num_batches_tracked")]
    # as in files from before PyTorch 0.4.1
    torch.save({name: value for name, value in state.items() if name not in counted}, path)
    assert torch.equal(
        build_trunk("resnet18", pretrained=path).layer1[0].conv1.weight, state["layer1.0.conv1.weight"]
    )
    torch.save({name: value for name, value in state.items() if name != counted[0]}, path)
    with pytest.raises(ReidError, match=f"1 missing: {counted[0]}"):
        build_trunk("resnet18", pretrained=path)

    del state["bn1.bias"]
    state["extra"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(state, path)
    with pytest.raises(ReidError) as error:
        build_trunk("resnet18", pretrained=path)
    for part in (
        str(path),
        "1 missing: bn1.bias",
        "1 left over: extra",
        "conv1.weight (64, 3, 3, 3) instead of (64, 3, 7, 7)",
    ):
        assert part in str(error.value)


def test_unreadable_pretrained_files(tmp_path):
    with pytest.raises(ReidError, match="is no file"):
        build_trunk("resnet18", pretrained=tmp_path / "absent.pth")
    path = tmp_path / "page.pth"
    path.write_text("<html>not found</html>")
    with pytest.raises(ReidError, match=r"cannot be read as a PyTorch checkpoint \(Unsupported operand 60\)"):
        build_trunk("resnet18", pretrained=path)
    torch.save([1, 2], path)
    with pytest.raises(ReidError, match="no plain state dict"):
        build_trunk("resnet18", pretrained=path)


def test_download_that_fails(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ReidError, match=r"no route to host.*resnet18-\w+\.pth.*pretrained=PATH.*checkpoints"):
        build_trunk("resnet18", pretrained=True)


# ---- released checkpoints


@torch.no_grad()
def test_released_checkpoint_file(tmp_path):
    """The file is as the authors save it.

    The state dict is one entry of the file, keys have a prefix, the branches are in the other order, the
    shallow CAM is saved twice, and the score is a numpy number.
    """
    shapes = golden_shapes("abdnet")["abdnet"]
    plain = load_released_checkpoint(ABDNet(751), released_state(shapes))
    state = released_state(shapes, branches=("abd", "global"))
    gamma = "common_branch.shallow_cam._cam_module.gamma"
    state[gamma.replace("_cam_module", "_cam_module_abc")] = state[gamma].clone()
    path = tmp_path / "checkpoint_best.pth.tar"
    content = {
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "rank1": np.float64(0.95),
        "epoch": 80,
    }
    torch.save(content, path)
    read = load_released_checkpoint(ABDNet(751), path)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, read.state_dict()[name]), name


class Python2Pickler(pickle._Pickler):
    """Writes both str and bytes as Python 2's byte strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_byte_string(self, value):
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_byte_string


def test_file_saved_by_python_2(tmp_path):
    state = released_state({"base.conv1.weight": [64, 3, 7, 7]})
    path = tmp_path / "checkpoint.pth.tar"
    module = SimpleNamespace(
        __name__="pickle",
        Pickler=Python2Pickler,
        dump=lambda o, f, protocol: Python2Pickler(f, protocol).dump(o),
    )
    torch.save(
        {"state_dict": state, "best_top1": np.float64(0.9)},
        path,
        pickle_module=module,
        _use_new_zipfile_serialization=False,
    )
    assert b"U\x11base.conv1.weight" in path.read_bytes()
    with warnings.catch_warnings(), pytest.raises(CheckpointError) as error:
        warnings.simplefilter("error")
        load_released_checkpoint(PFSANet(5, **SMALL), path)
    assert "missing: stem.bn1.weight" in str(error.value)  # read, with stem.conv1.weight
    assert "left over" not in str(error.value)


def test_other_number_of_identities():
    state = released_state(golden_shapes("pfsa"))
    network = PFSANet(10)
    before = network.global_classifier.weight.clone()
    with pytest.raises(CheckpointError, match=r"10 of another shape|20 of another shape") as error:
        load_released_checkpoint(network, state)
    assert "drop_classifiers=True" in str(error.value)
    load_released_checkpoint(network, state, drop_classifiers=True)
    assert torch.equal(network.global_classifier.weight, before)
    assert torch.equal(network.bottleneck[1].weight, state["local_conv.weight"])
    assert torch.equal(network.supervision_convs["layer2"].weight, state["local_conv_layer2.weight"])
    # another number of parts is an error even if classifiers are dropped
    for settings in ({"drop_classifiers": True}, {}):
        with pytest.raises(CheckpointError, match=r"left over: .*part_classifiers\.5\.weight") as error:
            load_released_checkpoint(PFSANet(10, parts=5), state, **settings)
        assert "drop_classifiers" not in str(error.value), "it was given, or would not help"


def test_checkpoint_without_num_batches_tracked():
    state = {
        n: v
        for n, v in released_state(golden_shapes("pfsa")).items()
        if not n.endswith("num_batches_tracked")
    }
    assert torch.equal(
        load_released_checkpoint(PFSANet(751), state).stem.bn1.running_var, state["base.bn1.running_var"]
    )
    state["feat_bn2d.num_batches_tracked"] = torch.tensor(0)  # only one of them: damaged
    with pytest.raises(CheckpointError, match="missing: stem.bn1.num_batches_tracked"):
        load_released_checkpoint(PFSANet(751), state)


@pytest.mark.parametrize("count", [1, 10, 11, 400])
def test_ten_keys_of_each_kind_and_their_number_are_named(count):
    """A message about a file of another kind stays short, however many keys it has."""
    network = PFSANet(5, backbone="resnet18")
    state = network.state_dict() | {f"odd.{number}": torch.zeros(1) for number in range(count)}
    state["stem.conv1.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        load_released_checkpoint(network, state)
    message = str(error.value)
    assert f"{count} left over: odd.0" in message and "1 of another shape: stem.conv1.weight (1,)" in message
    assert message.count("odd.") == min(count, 10) and len(message) < 600
    assert (f" and {count - 10} more" in message) == (count > 10)


def test_unmatched_keys_of_each_kind_are_named():
    shapes = golden_shapes("abdnet")
    state = released_state(shapes["baseline"])
    del state["common_branch.backbone2.0.0.conv1.weight"]
    state["surprise.weight"] = torch.zeros(2)
    state["common_branch.backbone1.0.weight"] = torch.zeros(64, 3, 3, 3)
    with pytest.raises(CheckpointError) as error:
        load_released_checkpoint(ABDNet(751, **NO_ATTENTION), state)
    for part in (
        "missing: layer2.0.conv1.weight;",
        "left over: surprise.weight;",
        "stem.conv1.weight (64, 3, 3, 3) instead of",
    ):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match=r"left over: .*pam_module|left over: .*heads\.pam"):
        load_released_checkpoint(ABDNet(751, pam=False), released_state(shapes["abdnet"]))
    with pytest.raises(CheckpointError, match=r"missing: .*heads\.cam"):
        load_released_checkpoint(ABDNet(751), released_state(shapes["baseline"]))


def test_shallow_cam_copies_that_differ():
    state = released_state(golden_shapes("abdnet")["abdnet"])
    state["common_branch.shallow_cam._cam_module_abc.gamma"] = torch.tensor([9.0])
    with pytest.raises(CheckpointError, match="differ"):
        load_released_checkpoint(ABDNet(751), state)


def test_unreadable_checkpoints(tmp_path):
    network = PFSANet(5, **SMALL)
    with pytest.raises(CheckpointError, match="is no file"):
        load_released_checkpoint(network, tmp_path / "absent.pth.tar")
    path = tmp_path / "cut.pth.tar"
    torch.save({"state_dict": network.state_dict()}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_released_checkpoint(network, path)
    # loading this object would call a function
    torch.save({"state_dict": network.state_dict(), "arguments": Path("run")}, path)
    with pytest.raises(CheckpointError, match="more than tensors and plain values .*pathlib.*refused"):
        load_released_checkpoint(network, path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="no state dict"):
        load_released_checkpoint(network, path)


# ---- bad settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ABDNet(5, backbone="resnet101"), "resnet18, resnet34, resnet50"),
        (lambda: ABDNet(5, attentive_branch=False), "attentive branch"),
        (lambda: ABDNet(0), "num_classes"),
        (lambda: ABDNet(5, last_stride=3), "last_stride"),
        (lambda: ABDNet(5, branch_order="random"), "'global-first' or 'attentive-first'"),
        (lambda: PFSANet(5, spatial_attention="sa3"), "sa1, sa2"),
        (lambda: PFSANet(5, deep_supervision=False), "deep_supervision to True"),
        (lambda: PFSANet(5, feature_dim=None), "feature_dim"),
        (lambda: PFSANet(5, parts=-1), "parts"),
        (lambda: build_model("abdnets", 5), "abdnet"),
        (lambda: build_model("abdnet", 5, parts=6), "parts"),
        (lambda: build_model("gap", 5, learning_rate=0.1), "learning_rate"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ReidError, match=message):
        make()


def test_images_of_an_unsuitable_height():
    with pytest.raises(ReidError, match="multiple of 32"):
        ABDNet(5, **SMALL_ABDNET)(torch.rand(2, 3, 80, 32))
    with pytest.raises(ReidError, match="at least 96"):
        PFSANet(5, **SMALL)(torch.rand(2, 3, 64, 32))


def test_overrides_reach_the_network():
    network = build_model("pfsa", 5, sa_normalization="softmax", feature_dim=32, **SMALL)
    assert network.sa2.normalization == "softmax"
    assert network.global_classifier.in_features == 32
    assert build_model(
        "abdnet", 5, cam_most_similar_first=True, **SMALL_ABDNET
    ).shallow_cam.most_similar_first
