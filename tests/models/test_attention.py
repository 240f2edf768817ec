"""Attention layers: the released code's numbers, hand-computed cases, and autocast."""

import pytest
import torch
from conftest import golden
from torch import nn

from reidlib.errors import ReidError
from reidlib.models.attention import AttentionHead, ChannelAttention, PositionAttention, SpatialAttention

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
RELEASED_NAMES = {"conv5c": "before", "attention_module": "module", "conv52": "after", "conv7": "out"}


def position_attention(state: dict[str, torch.Tensor], channels: int) -> PositionAttention:
    module = PositionAttention(channels)
    module.load_state_dict({name.replace("_conv", ""): value for name, value in state.items()})
    return module


def test_channel_attention_golden():
    values = golden("attention")
    module = ChannelAttention()
    module.load_state_dict({"gamma": values["cam_gamma"]})
    torch.testing.assert_close(module(values["x"]), values["cam_out"], **CLOSE)


def test_position_attention_golden():
    values = golden("attention")
    state = {name.removeprefix("pam."): value for name, value in values.items() if name.startswith("pam.")}
    torch.testing.assert_close(position_attention(state, 16)(values["x"]), values["pam_out"], **CLOSE)


@pytest.mark.parametrize(
    ("name", "module"),
    [("cam", ChannelAttention()), ("pam", PositionAttention(8)), ("identity", nn.Identity())],
)
def test_head_golden(name, module):
    values = golden(f"danet_head_{name}")
    head = AttentionHead(module, 16, 8)
    state = {}
    for released, value in values.items():
        if released.startswith("state."):
            part, rest = released.removeprefix("state.").split(".", 1)
            state[f"{RELEASED_NAMES[part]}.{rest.replace('_conv', '')}"] = value
    head.load_state_dict(state)
    torch.testing.assert_close(head.eval()(values["x"]), values["out"], **CLOSE)


@pytest.mark.parametrize(
    ("normalization", "key"), [("sum", "attention_code"), ("softmax", "attention_paper")]
)
def test_spatial_attention_golden(normalization, key):
    values = golden("spatial_attention")
    attention = SpatialAttention(normalization).attention(values["x"])
    torch.testing.assert_close(attention, values[key], **CLOSE)
    torch.testing.assert_close(attention.sum((1, 2, 3)), torch.ones(len(attention)))


def test_spatial_attention_pooling_golden():
    values = golden("spatial_attention")
    module = SpatialAttention()
    torch.testing.assert_close(module(values["x"]).mean((2, 3)), values["gap_code"], **CLOSE)
    torch.testing.assert_close(
        module.pool(values["x"], module.attention(values["x"])), values["gap_code"], **CLOSE
    )


def test_spatial_attention_by_hand():
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # channel sums 1 and 7 at two positions
    torch.testing.assert_close(SpatialAttention("sum").attention(x).flatten(), torch.tensor([1 / 8, 7 / 8]))
    expected = torch.tensor([1.0, 7.0]).softmax(0)
    torch.testing.assert_close(SpatialAttention("softmax").attention(x).flatten(), expected)
    torch.testing.assert_close(SpatialAttention("softmax")(x)[0, 1, 0, 1], 4 * expected[1])


def test_spatial_attention_of_a_dead_map_is_finite():
    assert SpatialAttention("sum")(torch.zeros(1, 4, 3, 2)).isfinite().all()


def test_channel_attention_sign():
    """Channels (1, 0), (1, 0), (0, 1).

    As released, the first channel attends most to the third; as in the paper, to itself and the second.
    """
    x = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]]])
    e = torch.e
    released = ChannelAttention().attention(x)[0]
    torch.testing.assert_close(released[0], torch.tensor([1 / e, 1 / e, 1.0]) / (1 + 2 / e))
    published = ChannelAttention(most_similar_first=True).attention(x)[0]
    torch.testing.assert_close(published[0], torch.tensor([e, e, 1.0]) / (1 + 2 * e))


@pytest.mark.parametrize("module", [ChannelAttention(), PositionAttention(8)])
def test_starts_as_identity(module):
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(module(x), x, rtol=0, atol=0)


def test_position_attention_by_hand():
    """One channel, positions 0 and 2: query = key = value = x, energies x_i·x_j."""
    module = PositionAttention(1)
    ones = {f"{name}.weight": torch.ones(1, 1, 1, 1) for name in ("query", "key", "value")}
    zeros = {f"{name}.bias": torch.zeros(1) for name in ("query", "key", "value")}
    module.load_state_dict({**ones, **zeros, "gamma": torch.tensor([0.5])})
    out = module(torch.tensor([[[[0.0, 2.0]]]])).flatten()
    second = torch.tensor([0.0, 4.0]).softmax(0)[1] * 2
    torch.testing.assert_close(out, torch.stack([0.5 * torch.tensor(1.0), 2 + 0.5 * second]))


def test_energies_stay_in_float32_under_autocast():
    """Energies near 1000 differ by less than bfloat16 can hold; attention is the same as without autocast."""
    x = (4 + torch.rand(2, 8, 8, 8)).bfloat16()
    module = ChannelAttention()
    expected = module.attention(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        attention = module.attention(x)
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention, expected)

    position = PositionAttention(8)
    with torch.autocast("cpu", torch.bfloat16):
        query, key = position.query(x).flatten(2), position.key(x).flatten(2)
        attention = position.attention(x)
    assert query.dtype == torch.bfloat16  # autocast is on
    torch.testing.assert_close(attention, (query.float().mT @ key.float()).softmax(-1))
    assert SpatialAttention().attention(x).dtype == torch.float32


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_attention_that_is_shown_is_the_one_that_is_used(precision):
    """`forward` lets PyTorch compute the attention; `attention` computes the maps for figures. They agree.

    Energies go up to a few hundred.
    """
    torch.manual_seed(0)
    module = PositionAttention(16)
    torch.nn.init.ones_(module.gamma)
    x = 6 * torch.randn(2, 16, 5, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        added = (module(x.to(precision)) - x.to(precision)).float()
        attention, value = module.attention(x.to(precision)), module.value(x.to(precision)).flatten(2).float()
        energies = attention.log().amax(-1) - attention.log().amin(-1)
    assert energies.max() > 100
    expected = (value @ attention.mT).view_as(x)
    error = (added - expected).norm() / expected.norm()
    # bfloat16 keeps 8 bits of the values and of the sum
    assert error < (1e-6 if precision == torch.float32 else 1e-2)


def test_unknown_normalization_is_refused():
    with pytest.raises(ReidError, match="'softmax' .* or 'sum'"):
        SpatialAttention("mean")
