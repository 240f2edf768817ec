"""Shares of a network's activation on masks: by hand, and without the branch that has no part in it."""

import numpy as np
import pytest
import torch
from torch import nn

from reidlib.evaluation import mask_shares
from reidlib.evaluation.distance_blocks import EvaluationError
from reidlib.evaluation.mask_shares import shares_on_masks
from reidlib.models import ABDNet

pytestmark = pytest.mark.usefixtures("steady")

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 96, 48, 3), dtype=np.uint8)


def test_shares_on_masks_by_hand(monkeypatch):
    """Two channels at 2 × 2 places; masks at 4 × 4 pixels. Activation is the sum of squares."""
    maps = torch.tensor([[[[1.0, 0], [2, 0]], [[2.0, 0], [-1, 0]]], [[[0.0, 0], [0, 0]], [[0.0, 0], [0, 0]]]])
    monkeypatch.setattr(mask_shares, "last_maps", lambda model, images: maps[: len(images)])
    upper, corner = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    upper[:, :2] = True
    corner[:, 3, 0] = True  # a quarter of a place
    found = shares_on_masks(nn.Identity(), PIXELS[:2], {"upper": upper, "corner": corner})
    assert list(found) == ["upper", "corner"]
    assert found.loc[0].tolist() == pytest.approx([5 / 10, 5 / 10 / 4])
    assert found.loc[1].isna().all(), "a map of zeros"


def abdnet():
    return ABDNet(4, backbone="resnet18", embedding_dim=8, reduced_dim=16, head_dim=8)


def test_each_image_meets_its_own_masks_whatever_the_batch():
    model = abdnet().train()
    masks = np.random.default_rng(1).random((4, 96, 48)) < 0.4
    found = shares_on_masks(model, PIXELS, {"one": masks, "rest": ~masks}, batch_size=3)
    assert not model.training
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    alone = shares_on_masks(model, PIXELS[3:], {"one": masks[3:]})
    np.testing.assert_allclose(alone["one"][0], found["one"][3], atol=1e-5)
    assert found["one"].nunique() == 4


def test_the_global_branch_is_not_asked_and_stays_in_place(monkeypatch):
    """It is a third of the work. An error in the middle leaves the network whole, too."""
    model, masks = abdnet(), {"one": np.ones((4, 96, 48), bool)}
    branch, asked = model.global_branch, []
    branch.register_forward_pre_hook(lambda *call: asked.append(call))
    names = list(model.state_dict())
    shares_on_masks(model, PIXELS, masks)
    assert not asked and model.global_branch is branch and list(model.state_dict()) == names
    with torch.no_grad():
        model.attentive_branch.sum_conv[1].bias.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="NaN"):
        shares_on_masks(model, PIXELS, masks)
    assert model.global_branch is branch
    only = ABDNet(4, backbone="resnet18", cam=False, pam=False, shallow_cam=False, attentive_branch=False)
    np.testing.assert_allclose(shares_on_masks(only, PIXELS, masks), 1, atol=1e-5)
