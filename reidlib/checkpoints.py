"""Reads the checkpoints that the papers' authors released (`.pth.tar`) into our networks.

Their names are translated to ours. Other differences are handled by name; any that is not listed is an error:
- a `module.` prefix on every key;
- ABD-Net's branches as `branches.0` and `branches.1` in either order; their layers tell which is which;
- ABD-Net's shallow CAM a second time, as `_cam_module_abc`;
- modules that never run: ABD-Net's heads and sum conv in a network without CAM and PAM, PFSA's `base.fc` and
  `fusion_conv`;
- BN without `num_batches_tracked` (from PyTorch before 0.4.1): it counts batches, which nothing here uses.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reidlib.experiment import Experiment
from reidlib.models.abdnet import ABDNet
from reidlib.models.backbone import ReidNetwork, describe_mismatch, with_batch_counts
from reidlib.models.networks import model_from_experiment
from reidlib.models.pfsa import PFSANet
from reidlib.torch_files import CheckpointError, read_torch_file

# Released name → ours. A pattern matches a whole key without its last part (`.weight`, `.gamma`, …).
# ABD-Net's branches are called `global` and `abd` here (see `_name_branches`).
_PFSA = (
    (r"base\.(conv1|bn1)", r"stem.\1"),
    (r"base\.(layer[1-4]\..+)", r"\1"),
    (r"local_conv", "bottleneck.1"),
    (r"feat_bn2d", "bottleneck.2"),
    (r"local_conv_(layer[1-3])", r"supervision_convs.\1"),
    (r"instance_(layer[1-3])", r"supervision_classifiers.\1"),
    (r"instance([0-5])", r"part_classifiers.\1"),
    (r"instance6", "global_classifier"),
)
_PFSA_UNUSED = r"(base\.fc|fusion_conv)\..+"
_HEAD = r"abd\.1\.(before|cam|pam)_module"
_ABDNET = (
    (r"common_branch\.backbone1\.0", "stem.conv1"),
    (r"common_branch\.backbone1\.1", "stem.bn1"),
    (r"common_branch\.backbone1\.4\.(.+)", r"layer1.\1"),
    (r"common_branch\.backbone2\.0\.(.+)", r"layer2.\1"),
    (r"common_branch\.backbone2\.1\.(.+)", r"layer3.\1"),
    (r"common_branch\.shallow_cam\._cam_module", "shallow_cam"),
    (r"global\.0\.backbone\.(.+)", r"global_branch.layer4.\1"),
    (r"abd\.0\.backbone\.(.+)", r"attentive_branch.layer4.\1"),
    (r"global\.1\.(fc\.\d|classifier)", r"global_branch.\1"),
    (r"abd\.1\.(reduction\.\d|sum_conv\.1|classifiers\.\d+)", r"attentive_branch.\1"),
    (_HEAD + r"\.conv5c\.(\d)", r"attentive_branch.heads.\1.before.\2"),
    (_HEAD + r"\.conv52\.(\d)", r"attentive_branch.heads.\1.after.\2"),
    (_HEAD + r"\.conv7\.1", r"attentive_branch.heads.\1.out.1"),
    (_HEAD + r"\.attention_module", r"attentive_branch.heads.\1.module"),
    (_HEAD + r"\.attention_module\.(query|key|value)_conv", r"attentive_branch.heads.\1.module.\2"),
    # Without heads (--abd-dan-no-head) the module holds the attention's own layers.
    (_HEAD, r"attentive_branch.heads.\1"),
    (_HEAD + r"\.(query|key|value)_conv", r"attentive_branch.heads.\1.\2"),
)
# A classifier's weight, in their names and in ours.
_CLASSIFIER = r"classifiers?(\.[\w]+)?\.weight$|(^|\.)instance(\d|_layer[1-3])\.weight$"
_ABDNET_UNUSED_WITHOUT_ATTENTION = r"abd\.1\.(before_module|sum_conv)\..+"


def load_released_checkpoint(
    model: ReidNetwork,
    path_or_state_dict: str | Path | Mapping[str, Tensor],
    *,
    drop_classifiers: bool = False,
    source: str = "The state dict",
    if_people_differ: str = "pass its number of identities or drop_classifiers=True",
) -> ReidNetwork:
    """Fill `model` from a released checkpoint and return it.

    A state dict that already has our names (a `model.pt` of this study) is taken as it is.

    Args:
        path_or_state_dict: a file, the content of such a file, or its state dict.
        drop_classifiers: leave the model's classifiers as they are, so that the number of identities may
            differ.
        source: what error messages call the state dict, where no file is given.
        if_people_differ: the fix that the error message names where only classifiers differ.

    Raises:
        CheckpointError: the file cannot be read, or keys are missing, left over or of another shape (their
            numbers and the first ten of each).
    """
    if isinstance(path_or_state_dict, (str, Path)):
        source, content = str(path_or_state_dict), read_torch_file(Path(path_or_state_dict))
    else:
        content = path_or_state_dict
    given = _matched(model, content, source, drop_classifiers, if_people_differ)
    model.load_state_dict(given, strict=not drop_classifiers)  # all names were compared
    return model


def _matched(
    model: ReidNetwork, content: object, source: str, drop_classifiers: bool, if_people_differ: str
) -> dict[str, Tensor]:
    """The state dict in a file's content under the names of `model`, if it fits."""
    state = state_dict_in(content, source)
    given, wanted = released_state_dict_to_ours(model, state), model.state_dict()
    if drop_classifiers:
        given, wanted = _without_classifiers(given, wanted)
    problems = describe_mismatch(given, wanted)
    if problems:
        fix = (
            "Build the variant that was saved."
            if describe_mismatch(*_without_classifiers(given, wanted))
            else f"Only classifiers differ: {if_people_differ}."
        )
        raise CheckpointError(
            f"{source} does not fit this {type(model).__name__} (names are ours where one exists): "
            f"{problems}. {fix}"
        )
    return given


def require_fit(experiment: Experiment, content: object, *, source: str) -> None:
    """Checks that a file's content fits an experiment's network, but for the number of people.

    Raises:
        CheckpointError: it does not; or it holds no state dict, or no classifiers of one size.
    """
    whole = replace(experiment, pretrained=False, start_from="", start_classifiers=True)
    with torch.device("meta"):  # takes no memory
        network = model_from_experiment(replace(whole, classes=classes_in(content, source)), 0)
    try:
        _matched(network, content, source, False, "")
    except CheckpointError as error:
        raise CheckpointError(f"{experiment.method}: {error}") from None


def _without_classifiers(*sides: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Both state dicts without the classifiers that both have. One that only one side has stays."""
    both = {name for name in sides[0] if name in sides[1] and "classifier" in name}
    return [{name: side[name] for name in side if name not in both} for side in sides]


def state_dict_in(content: object, source: str) -> Mapping[str, Tensor]:
    """The state dict in a file's content: the content itself or what it holds under 'state_dict'.

    Raises:
        CheckpointError: neither is a state dict.
    """
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{source} holds no state dict (names to tensors), neither itself nor under 'state_dict'."
        )
    return state


def classes_in(content: object, source: str) -> int:
    """The number of people that the classifiers of a checkpoint tell apart.

    Raises:
        CheckpointError: there is no classifier, or their sizes differ.
    """
    sizes = {
        len(value) for name, value in state_dict_in(content, source).items() if re.search(_CLASSIFIER, name)
    }
    if len(sizes) != 1:
        found = ", ".join(map(str, sorted(sizes))) or "no classifier"
        raise CheckpointError(
            f"{source} should have classifiers of one size, but has {found}: "
            "is it one of these networks' files?"
        )
    return sizes.pop()


def released_state_dict_to_ours(model: ReidNetwork, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict under the names of `model`, without modules that never run.

    Unknown names stay as they are.

    Raises:
        CheckpointError: the network has no released form, or the shallow CAM's two copies differ.
    """
    state = {name.removeprefix("module."): value for name, value in state_dict.items()}
    if isinstance(model, PFSANet):
        rules, unused = _PFSA, _PFSA_UNUSED
    elif isinstance(model, ABDNet):
        state = _name_branches(_merge_shallow_cam(state))
        has_heads = model.attentive_branch is None or len(model.attentive_branch.heads) > 0
        rules, unused = _ABDNET, None if has_heads else _ABDNET_UNUSED_WITHOUT_ATTENTION
    else:
        raise CheckpointError(
            f"{type(model).__name__} has no released checkpoints: an ABDNet or a PFSANet was expected."
        )
    ours = {
        _rename(name, rules): value
        for name, value in state.items()
        if not (unused and re.fullmatch(unused, name))
    }
    return with_batch_counts(ours, model.state_dict())


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    layer, dot, leaf = name.rpartition(".")
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, layer)
        if match:
            return match.expand(replacement) + dot + leaf
    return name


def _name_branches(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames `branches.0` and `branches.1` to `global` and `abd`.

    Their layers tell them apart: only the global branch has an `fc`, only the other one a `reduction`.
    """
    kind = {}
    for name in state:
        match = re.match(r"(branches\.\d+\.)1\.(fc|reduction)\.", name)
        if match:
            kind[match[1]] = {"fc": "global.", "reduction": "abd."}[match[2]]
    renamed = {}
    for name, value in state.items():
        match = re.match(r"branches\.\d+\.", name)
        prefix = match[0] if match else ""
        renamed[kind.get(prefix, prefix) + name[len(prefix) :]] = value
    return renamed


def _merge_shallow_cam(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes the shallow CAM's second copy, after checking that the two are equal."""
    merged = dict(state)
    for name in state:
        if "._cam_module_abc." in name:
            first = name.replace("._cam_module_abc.", "._cam_module.")
            value = merged.pop(name)
            if not torch.equal(merged.setdefault(first, value), value):
                raise CheckpointError(
                    f"The checkpoint's {name} and {first} should be copies of each other but differ."
                )
    return merged
