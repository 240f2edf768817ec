"""Weight gradients by matrix product, and optimisers on tensors as they lie in memory."""

import pytest
import torch
from run_helpers import CPU, assert_same_weights, copied, tiny

from reidlib.models.networks import model_from_experiment
from reidlib.training import wide_convolutions
from reidlib.training.epoch import Learner
from reidlib.training.wide_convolutions import pays, quicken, unfolded

pytestmark = pytest.mark.usefixtures("steady")
LAST = {"memory_format": torch.channels_last}


@pytest.fixture
def matrix_units(monkeypatch):
    """As on a processor that has them."""
    monkeypatch.setattr(wide_convolutions, "matrix_units", lambda: True)


@pytest.mark.parametrize(
    ("kernel", "channels", "positions", "without", "with_units"),
    [
        (3, 512, 32 * 8 * 4, False, True),
        (3, 256, 32 * 8 * 4, False, True),
        (3, 128, 32 * 16 * 8, False, False),
        (3, 64, 32 * 32 * 16, False, False),
        (1, 64, 32 * 96 * 32, True, True),
    ],
)
def test_the_way_follows_from_the_shape_and_the_processor(kernel, channels, positions, without, with_units):
    assert pays(kernel, channels, positions, matrix_units=False) is without
    assert pays(kernel, channels, positions, matrix_units=True) is with_units


def test_unfolding_by_hand():
    x = torch.arange(1.0, 5).view(1, 1, 2, 2)
    rows = unfolded(x, 3, (1, 1))
    assert rows.tolist() == [
        [0, 0, 0, 0, 1, 2, 0, 3, 4],
        [0, 0, 0, 1, 2, 0, 3, 4, 0],
        [0, 1, 2, 0, 3, 4, 0, 0, 0],
        [1, 2, 0, 3, 4, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    ("kernel", "padding", "bias", "channels_last"),
    [
        (3, 1, False, True),
        (3, (0, 2), True, True),
        (1, 0, True, True),
        (1, 1, False, False),
        (3, 1, True, False),
    ],
)
def test_gradients_are_as_near_to_float32_as_the_librarys(matrix_units, kernel, padding, bias, channels_last):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(48, 24, kernel, padding=padding, bias=bias)
    x = torch.randn(4, 48, 6, 5)
    if channels_last:
        conv, x = conv.to(**LAST), x.contiguous(**LAST)
    shape = conv(x).shape
    direction = torch.randn(shape)

    def gradients(precision):
        inputs = x.clone().requires_grad_()
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = conv(inputs)
        output.float().backward(direction)
        found = {"input": inputs.grad, **{name: p.grad.clone() for name, p in conv.named_parameters()}}
        return output, found

    exact, library = gradients("float32")[1], gradients("bfloat16")
    quicken(conv, "bfloat16", CPU)
    assert type(conv) is not torch.nn.Conv2d
    ours = gradients("bfloat16")
    assert torch.equal(ours[0], library[0]), "the output stays as it is"
    for name, value in exact.items():
        errors = [(found[name] - value).abs().max().item() for found in (ours[1], library[1])]
        assert errors[0] <= 1.2 * errors[1] + 1e-6, name
        assert ours[1][name].dtype is torch.float32
    if kernel == 3 and channels_last:
        assert conv.weight.grad.stride() == conv.weight.stride(), "so the optimiser copies nothing"


@pytest.mark.parametrize("method", ["abdnet", "pfsa"])
def test_a_network_keeps_its_outputs_and_names_and_its_gradients_agree(matrix_units, method):
    experiment = tiny(method, precision="bfloat16", dropout=0.0)
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 96, 48).contiguous(**LAST), torch.arange(8) // 4

    def learner(quick):
        torch.manual_seed(1)
        learner = Learner(experiment, model_from_experiment(experiment, 6).to(**LAST).train(), CPU)
        if not quick:
            for module in learner.model.modules():
                if type(module) is wide_convolutions.WideConv2d:
                    module.__class__ = torch.nn.Conv2d
        torch.manual_seed(2)
        values = learner.gradients(images, labels, 9, torch.Generator().manual_seed(3))
        return learner.model, values

    (quick, values), (plain, expected) = learner(True), learner(False)
    assert any(isinstance(module, wide_convolutions.WideConv2d) for module in quick.modules())
    assert quick.state_dict().keys() == plain.state_dict().keys()
    assert {name: value.item() for name, value in values.items()} == {
        name: value.item() for name, value in expected.items()
    }
    for (name, one), two in zip(quick.named_parameters(), plain.parameters(), strict=True):
        if two.grad is not None:
            apart = (one.grad - two.grad).norm() / two.grad.norm().clamp(min=1e-6)
            assert apart < 0.05, (name, apart)


@pytest.mark.parametrize(
    ("precision", "device"), [("float32", CPU), ("bfloat16", torch.device("cuda"))], ids=["float32", "gpu"]
)
def test_float32_and_gpus_keep_pytorchs_convolutions(precision, device):
    model = model_from_experiment(tiny("pfsa"), 6)
    quicken(model, precision, device)
    assert not any(isinstance(module, wide_convolutions.WideConv2d) for module in model.modules())


def test_convolutions_of_another_kind_stay():
    kinds = [
        torch.nn.Conv2d(4, 4, 3, stride=2),
        torch.nn.Conv2d(4, 4, 3, groups=2),
        torch.nn.Conv2d(4, 4, 3, dilation=2),
        torch.nn.Conv2d(4, 4, (1, 3)),
        torch.nn.Conv2d(4, 4, 3, padding="same"),
        torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ]
    quicken(torch.nn.Sequential(*kinds), "bfloat16", CPU)
    assert all(type(conv) is torch.nn.Conv2d for conv in kinds)


# ------------------------------------------------------------------------------------------ the optimiser


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_channels_last_weights_move_as_pytorchs_own_optimiser_moves_them(optimizer):
    settings = {"weight_decay": 1e-2, "learning_rate": 0.01, "trunk_rate": 0.5, "momentum": 0.9}
    experiment = tiny("pfsa", optimizer=optimizer, **settings)
    torch.manual_seed(0)
    learner = Learner(experiment, model_from_experiment(experiment, 6).to(**LAST).train(), CPU)
    torch.manual_seed(0)
    model = model_from_experiment(experiment, 6).to(**LAST).train()
    groups = [
        {"params": model.trunk_parameters(), "lr": 0.005},
        {"params": model.new_parameters(), "lr": 0.01},
    ]
    plain = (
        torch.optim.Adam(groups, weight_decay=1e-2, fused=True)
        if optimizer == "adam"
        else torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=1e-2, fused=True)
    )
    images, labels = torch.randn(8, 3, 96, 48).contiguous(**LAST), torch.arange(8) // 4
    start = copied(model)
    learner.set_rate(0.01)
    for step in range(3):
        torch.manual_seed(step)
        learner.step(images, labels, 0)
        torch.manual_seed(step)
        model.zero_grad()
        Learner(experiment, model, CPU).gradients(images, labels, 0)
        plain.step()
    assert_same_weights(learner.model.state_dict(), model.state_dict())
    assert not any(torch.equal(value, start[name]) for name, value in model.named_parameters())
