"""Schedules, optimisers and loss terms by hand."""

import math

import pytest
import torch
from run_helpers import tiny

from reidlib import losses
from reidlib.config import experiment_for
from reidlib.models.backbone import ReidOutput
from reidlib.models.networks import model_from_experiment
from reidlib.training.objective import learning_rate, loss_terms, make_optimizer, weighted_loss

pytestmark = pytest.mark.usefixtures("steady")

# -------------------------------------------------------------------------------------- schedules, optimisers


def test_step_schedule_by_hand():
    experiment = experiment_for("baseline")
    for epoch, factor in ((0, 1), (19.99, 1), (20, 0.1), (39.99, 0.1), (40, 0.01), (79.99, 0.01)):
        assert learning_rate(experiment, epoch) == pytest.approx(3e-4 * factor), epoch
    pfsa = experiment_for("pfsa")
    assert [learning_rate(pfsa, epoch) for epoch in (39, 40, 80)] == pytest.approx([0.1, 0.01, 0.001])


def test_cosine_schedule_by_hand():
    # the rate rises for two epochs, then falls along half a cosine wave for 58
    long = tiny(schedule="cosine", epochs=60, learning_rate=1.0)
    expected = {0: 0.1, 1: 0.55, 2: 1.0, 2 + 58 / 2: 0.5, 2 + 58 / 3: 0.75, 60: 0.0}
    for epoch, rate in expected.items():
        assert learning_rate(long, epoch) == pytest.approx(rate, abs=1e-12), epoch
    short = tiny(schedule="cosine", epochs=2, learning_rate=1.0)  # rises for a fifth of a short run
    assert [learning_rate(short, epoch) for epoch in (0, 0.2, 0.4, 1.2)] == pytest.approx(
        [0.1, 0.55, 1.0, 0.5]
    )
    single = tiny(schedule="cosine", epochs=1, learning_rate=1.0)
    assert learning_rate(single, 0.2) == pytest.approx(1.0)


def test_optimizer_groups():
    pfsa = experiment_for("pfsa", pretrained=False, backbone="resnet18")
    model = model_from_experiment(pfsa, 5)
    optimizer = make_optimizer(pfsa, model)
    assert isinstance(optimizer, torch.optim.SGD)
    without = make_optimizer(experiment_for("pfsa", pretrained=False, backbone="resnet18", momentum=0), model)
    assert [group["nesterov"] for group in without.param_groups] == [False, False], (
        "which PyTorch refuses without momentum"
    )
    trunk, new = optimizer.param_groups
    assert (trunk["rate"], new["rate"]) == (0.1, 1.0)
    for group in (trunk, new):
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 5e-4)
    assert {id(p) for p in trunk["params"]} == {id(p) for p in model.trunk_parameters()}
    assert {id(p) for p in new["params"]} == {id(p) for p in model.new_parameters()}
    assert len(trunk["params"]) + len(new["params"]) == len(list(model.parameters()))

    abdnet = tiny("abdnet", weight_decay=5e-4)
    optimizer = make_optimizer(abdnet, model_from_experiment(abdnet, 5))
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["rate"] for group in optimizer.param_groups] == [1.0, 1.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 5e-4]


# ---------------------------------------------------------------------------------------------------- losses


def fake_output(heads=3, batch=8, classes=5):
    """A network output with random positive feature maps, random logits and embeddings."""
    maps = {
        name: [torch.rand(batch, 4, 3, 2) for _ in range(2)] for name in ("before", "cam", "pam", "after")
    }
    return ReidOutput(
        torch.randn(batch, 6),
        [torch.randn(batch, classes) for _ in range(heads)],
        [torch.randn(batch, 6) for _ in range(heads)],
        {"intermediate": [torch.rand(batch, 4, 3, 2)], **maps},
    )


def test_the_terms_of_the_loss_by_method_and_epoch():
    target = torch.arange(8) % 4
    output = fake_output()
    names = {
        "baseline": {-1: [], 0: [], 5: []},
        "baseline+of": {-1: [], 4: [], 5: ["orthogonal_features"]},
        "baseline+ow": {-1: [], 0: ["orthogonal_weights"]},
        "abdnet": {
            -1: ["triplet"],
            4: ["triplet", "orthogonal_weights"],
            5: ["triplet", "orthogonal_features", "orthogonal_weights"],
        },
    }
    for method, by_epoch in names.items():
        experiment = tiny(method, of_start_epoch=5, epochs=6)
        model = model_from_experiment(experiment, 5)
        for epoch, expected in by_epoch.items():
            assert list(loss_terms(experiment, model, output, target, epoch)) == [
                "cross_entropy",
                *expected,
            ], (method, epoch)


def test_orthogonal_features_never_start_in_the_warm_up():
    experiment = tiny("baseline+of", of_start_epoch=0, warmup_epochs=1)
    model = model_from_experiment(experiment, 5)
    terms = [
        list(loss_terms(experiment, model, fake_output(), torch.arange(8) % 4, epoch)) for epoch in (-1, 0)
    ]
    assert terms == [["cross_entropy"], ["cross_entropy", "orthogonal_features"]]


def test_cross_entropy_of_the_heads_by_hand():
    target, output = torch.arange(8) % 4, fake_output()

    def by_hand(smoothing):
        wanted = torch.full((8, 5), smoothing / 5)
        wanted[torch.arange(8), target] += 1 - smoothing
        return [-(wanted * head.log_softmax(1)).sum(1).mean() for head in output.logits]

    for method, expected in (("baseline", sum(by_hand(0.1)) / 3), ("gap", sum(by_hand(0.0)))):
        experiment = tiny(method)
        terms = loss_terms(experiment, model_from_experiment(experiment, 5), output, target, 0)
        assert terms["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5), method


def test_triplet_is_weighted_and_averaged_over_the_heads():
    experiment = tiny("abdnet", triplet_weight=0.25, triplet_margin=0.7)
    model, output, target = model_from_experiment(experiment, 5), fake_output(), torch.arange(8) % 4
    expected = []
    for head in output.head_embeddings:
        distance = torch.cdist(head, head)
        anchors = []
        for anchor in range(8):
            same = target == target[anchor]
            anchors.append(torch.relu(0.7 + distance[anchor][same].max() - distance[anchor][~same].min()))
        expected.append(torch.stack(anchors).mean())
    term = loss_terms(experiment, model, output, target, 0)["triplet"]
    assert term.item() == pytest.approx(0.25 * torch.stack(expected).mean().item(), rel=1e-4)


@pytest.mark.parametrize(("reach", "count"), [("stem", 1), ("backbone", 20 + 5)])
def test_orthogonal_weights_reach_the_convolutions_of_the_setting(monkeypatch, reach, count):
    """ResNet-18 has 20 convolutions. The second branch has 5 more in its layer4."""
    given = []

    def penalty(weights, *, weight, **form):
        given.append((len(weights), weight))
        return torch.tensor(0.0)

    monkeypatch.setattr(losses, "orthogonality_weights", penalty)
    experiment = tiny("baseline+ow", ow_reach=reach)
    loss_terms(experiment, model_from_experiment(experiment, 5), fake_output(), torch.arange(8) % 4, 0)
    assert given == [(count, 1e-3)]


FACTORS = {"intermediate": 0.01, "before": 1.0, "cam": 1.0, "pam": 1.0, "after": 1.0}


@pytest.mark.parametrize(
    ("switches", "features", "weights"),
    [
        ({}, {}, {}),
        ({"of_squared": True}, {"squared": True}, {}),
        ({"of_smaller_side": True}, {"smaller_side": True}, {}),
        ({"of_intermediate_weight": 1.0}, {"factors": {**FACTORS, "intermediate": 1.0}}, {}),
        ({"of_positions": ("after", "pam")}, {"factors": {"pam": 1.0, "after": 1.0}}, {}),
        ({"ow_factor": 1.0}, {}, {"factor": 1.0}),
        ({"eigenvalues": "norm_ratio"}, {"estimator": "norm_ratio"}, {"estimator": "norm_ratio"}),
        ({"power_steps": 3}, {"iterations": 3}, {"iterations": 3}),
    ],
)
def test_switches_reach_the_penalties(monkeypatch, switches, features, weights):
    """Each switch changes only its own argument. The defaults are the released code's."""
    given = {}
    for name in ("orthogonality_features", "orthogonality_weights"):
        real = getattr(losses, name)
        monkeypatch.setattr(
            losses,
            name,
            lambda *a, _name=name, _real=real, **form: given.update({_name: form}) or _real(*a, **form),
        )
    experiment = tiny("baseline+of+ow", of_start_epoch=0, **switches)
    model, output = model_from_experiment(experiment, 5), fake_output()
    # As in the paper's network, maps of the branch have more channels than positions, so the smaller side is
    # the other one.
    output = output._replace(
        feature_maps={"intermediate": [torch.rand(8, 4, 3, 2)], "after": [torch.rand(8, 9, 3, 2)]}
    )
    torch.manual_seed(11)
    terms = loss_terms(experiment, model, output, torch.arange(8) % 4, 0)
    released = {"estimator": "rayleigh", "iterations": 1, "generator": None}
    whole = {"batch": 8, "part": slice(0, 8), "factors": FACTORS}
    expected_features = {
        "weight": 1e-6,
        "squared": False,
        "smaller_side": False,
        **whole,
        **released,
        **features,
    }
    expected_weights = {"weight": 1e-3, "factor": 10.0, **released, **weights}
    assert given == {"orthogonality_features": expected_features, "orthogonality_weights": expected_weights}

    def value(form, expected):
        torch.manual_seed(11)
        of = losses.orthogonality_features(output.feature_maps, **expected)
        stem = [model.stem.conv1.weight]
        ow = losses.orthogonality_weights(stem, **form)
        return of, ow

    of, ow = value(expected_weights, expected_features)
    assert torch.equal(terms["orthogonal_features"], of) and torch.equal(terms["orthogonal_weights"], ow)
    plain = value({"weight": 1e-3}, {"weight": 1e-6})
    assert torch.equal(of, plain[0]) == (not features)
    # With smaller_side or fewer positions other start vectors are drawn, so all later random numbers differ.
    if "smaller_side" not in features and len(expected_features["factors"]) == len(FACTORS):
        assert torch.equal(ow, plain[1]) == (not weights)
    if weights == {"factor": 1.0}:
        assert ow.item() == pytest.approx(plain[1].item() / 10)


def test_features_are_penalised_from_the_papers_epoch_on():
    """Epoch 23, counted from 0 after ten epochs of warm-up, is the 34th of all."""
    experiment = experiment_for(
        "baseline+of", pretrained=False, backbone="resnet18", head_dim=16, reduced_dim=16
    )
    model = model_from_experiment(experiment, 5)
    by_epoch = {
        number: list(
            loss_terms(
                experiment, model, fake_output(), torch.arange(8) % 4, number - experiment.warmup_epochs
            )
        )
        for number in (0, 9, 10, 32, 33, 89)
    }
    assert {number for number, terms in by_epoch.items() if "orthogonal_features" in terms} == {33, 89}


def test_weighted_loss_by_hand():
    """0.8 · mean of the parts + 0.2 · mean of the others, of cross-entropies in nats.

    The heads are 2 parts, the global head and three of deep supervision.
    """
    experiment = tiny("pfsa", parts=2)
    target = torch.zeros(4, dtype=torch.long)

    def head(probability):  # for the right one of two people
        return torch.log(torch.tensor([[probability, 1 - probability]])).repeat(4, 1)

    chances = (0.5, 0.25, 0.125, 0.5, 0.5, 0.0625)
    output = fake_output()._replace(logits=[head(chance) for chance in chances])
    in_bits = 0.8 * (1 + 2) / 2 + 0.2 * (3 + 1 + 1 + 4) / 4
    assert weighted_loss(experiment, output, target).item() == pytest.approx(in_bits * math.log(2), rel=1e-6)
    trained = loss_terms(experiment, model_from_experiment(experiment, 2), output, target, 0)
    assert list(trained) == ["cross_entropy"]
    assert trained["cross_entropy"].item() == pytest.approx((3 + 9) * math.log(2), rel=1e-6), (
        "the plain sum is what is trained"
    )


def test_the_logged_loss_of_ten_uniform_heads_is_that_of_one():
    """ln 751 = 6.62, as in the released code's logs. Sums over the heads would give 37.08."""
    output = fake_output()._replace(logits=[torch.zeros(4, 751)] * 10)
    logged = weighted_loss(tiny("pfsa", parts=6), output, torch.arange(4)).item()
    assert logged == pytest.approx(math.log(751), rel=1e-6)


def test_label_smoothing_can_be_off():
    """The guide's --label-smooth is an option: without it the loss is the plain cross-entropy."""
    target, output = torch.arange(8) % 4, fake_output()
    experiment = tiny("baseline", label_smoothing=0.0)
    term = loss_terms(experiment, model_from_experiment(experiment, 5), output, target, 0)["cross_entropy"]
    by_hand = [-head.log_softmax(1)[torch.arange(8), target].mean() for head in output.logits]
    assert term.item() == pytest.approx(sum(by_hand).item() / 3, rel=1e-6)
