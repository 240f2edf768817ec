"""What each switch between paper and released code changes, without training and after training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import pdist

from reidlib.config import run_of, title_of
from reidlib.datasets.types import ReidDataset
from reidlib.devices import autocast
from reidlib.evaluation.distance_blocks import Labels
from reidlib.evaluation.embedding import embed, embed_test_set
from reidlib.evaluation.ranking import people_and_cameras, rank
from reidlib.evaluation.scoring import per_query, rerank
from reidlib.evaluation.shared_ranks import average_precision_with_shared_ranks
from reidlib.experiment import Experiment
from reidlib.images.augmentation import TrainingImages, draw_augmentation, enlarged_size
from reidlib.images.decoding import load_images, load_sizes
from reidlib.images.samplers import epoch_batches
from reidlib.models.backbone import ReidNetwork
from reidlib.models.networks import FAMILIES, model_from_experiment
from reidlib.progress import track_progress
from reidlib.run import DID_NOT_LEARN, Run
from reidlib.settings import ConfigError
from reidlib.show.learning import learned
from reidlib.show.paired import (
    DIFFERS,
    NO_VERDICT,
    SMALL,
    PairedEffect,
    by_seed,
    corrected_p,
    paired_effect,
    verdict,
)
from reidlib.show.text import DASH, NOT_COMPUTED, NOT_RUN, numbered_seeds, p_value, points
from reidlib.statistics import interval_columns
from reidlib.switches import RELEASED, SWITCHES, Switch
from reidlib.training.epoch import augmentation_of
from reidlib.training.objective import loss_terms
from reidlib.training.records import OF_EMBEDDINGS

# Settings that change no single training step, as it is compared here: with every term, and without dropout.
NOT_IN_A_STEP = frozenset(
    {"epochs", "warmup_epochs", "milestones", "of_start_epoch", "report_epoch", "score_test_every", "dropout"}
)
IMPOSSIBLE = "not possible with these settings"
SAME_HERE = "the same with these settings"  # of the profile or the call, which make both sides one run
NOISE = "branch-order"  # the switch that changes nothing but the random draws
BATCH = 8  # images in the untrained comparison: a step of ResNet-50 at 384 × 128 then takes seconds
_Weights = Mapping[str, torch.Tensor]  # a state dict
_NAMES = ("paper", "number", "name", "side", "what", "base", "effect")
_IN_A_STEP = ("loss_written", "loss_released", "gradient_cosine", "gradient_ratio", "distance_change")
_Call = tuple[torch.Tensor, torch.Tensor]  # the input and the output of a module


# ------------------------------------------------------------------------------------------- without training


def untrained_effects(
    runs: Mapping[str, Run], dataset: ReidDataset, *, cache: Path, images: int = 64, seed: int = 0
) -> pd.DataFrame:
    """Compares the sides of each switch that changes training, on the same weights: gradients and distances.

    The weights are those of the finished run of the switch's row. Parameters that only one side has keep
    their random start. Both sides get the same batch, augmentation and start vectors, in float32 (unless the
    switch is about that) and with every loss term active. Dropout is off: with different layers the random
    streams would differ, and that noise exceeds most effects. Sides that change no single step, such as the
    number of epochs, and those that the runs' other settings rule out are left out.

    Args:
        runs: row → its finished run.
        images: number of query images whose distances are compared.

    Returns:
        One row for each side that is not the released one: paper, number, name, side, what; seed, of the run
        whose weights these are; loss_written and loss_released, of that side and the released one;
        gradient_cosine, between their gradients over the parameters that both have; gradient_ratio of their
        norms (that side / released); distance_change, the relative root-mean-square change of the distances
        between query images.
    """
    chosen = [switch for switch in SWITCHES if switch.is_trained and switch.base in runs]
    bases = dict.fromkeys(switch.base for switch in chosen)
    weights = {base: runs[base].model().state_dict() for base in bases}
    trunks = {base: SharedTrunk(weights[base]) for base in bases}
    of_rows = {
        base: TrainingStep(
            runs[base].experiment, weights[base], dataset, cache, images, seed, trunk=trunks[base]
        )
        for base in bases
    }
    rows = []
    distances = {(base, network_settings(step.experiment)): step.distances for base, step in of_rows.items()}
    with track_progress(len(chosen), "switches", "switch") as bar:
        for switch in chosen:
            base, own = switch.base, runs[switch.base].experiment
            experiments = possible_sides(own, switch)
            steps = {
                name: of_rows[base]
                if _in_a_step(experiment) == _in_a_step(own)
                else TrainingStep(
                    experiment,
                    weights[base],
                    dataset,
                    cache,
                    images,
                    seed,
                    trunk=trunks[base],
                    distances=distances.get((base, network_settings(experiment))),
                )
                for name, experiment in experiments.items()
            }
            for other in switch.others:
                if other in steps:
                    found = compare_steps(steps[other], steps[RELEASED])
                    rows.append({**names_of(switch, other), "seed": runs[base].seed, **found})
            bar.update(1)
    return pd.DataFrame(rows, columns=[*_NAMES, "seed", *_IN_A_STEP])


def possible_sides(own: Experiment, switch: Switch) -> dict[str, Experiment]:
    """The released side and those that differ from it in a training step, as far as a row can have them."""
    experiments = {}
    for name in (RELEASED, *switch.others):
        try:
            experiments[name] = replace(own, **switch.sides[name].settings)
        except ConfigError:  # other settings of this call rule it out
            continue
        released = experiments.get(RELEASED)
        if released is None:
            return {}
        differ = {
            setting
            for setting in switch.settings
            if getattr(experiments[name], setting) != getattr(released, setting)
        }
        if name != RELEASED and differ <= NOT_IN_A_STEP:
            del experiments[name]
    return experiments if len(experiments) > 1 else {}


def names_of(switch: Switch, side: str) -> dict[str, str]:
    """The columns that name a side's comparison with the released one."""
    what = switch.what if len(switch.others) == 1 else f"{switch.what}: {side.replace('-', ' ')}"
    return {
        "paper": switch.paper,
        "number": switch.number,
        "name": switch.name,
        "side": side,
        "what": what,
        "base": switch.base,
        "effect": switch.effect,
    }


def network_settings(experiment: Experiment) -> tuple[Any, ...]:
    """What decides the embeddings of given weights: experiments that agree in it have the same."""
    _, settings = FAMILIES[experiment.family]
    names = ("family", "height", "width", "flip_evaluation", "classes", *settings)
    return tuple(getattr(experiment, name) for name in names)


def _in_a_step(experiment: Experiment) -> Experiment:
    """The experiment as `TrainingStep` computes it: only bfloat16 by name is not float32."""
    half = experiment.precision == "bfloat16"
    return replace(experiment, precision="bfloat16" if half else "float32")


class SharedTrunk:
    """Embeds the same images with the networks of a row's sides, and runs what they share only once.

    The sides have the same weights in the trunk. So the outputs of each of its modules, as the first network
    gave them, serve the others where their inputs are the same (at the papers' size they take about a
    gigabyte). The embeddings are the same to the bit.

    Args:
        weights: of the row. Trunk modules without weights there are not shared.
    """

    def __init__(self, weights: _Weights):
        self.weights = weights
        self.calls: dict[str, list[_Call]] = {}  # module → its calls, batch by batch

    def embed(self, network: ReidNetwork, images: np.ndarray, *, flip: bool) -> np.ndarray:
        """`evaluation.embed` in float32; of every network of this row with the same images and `flip`."""
        trunk = {id(module) for module in network.trunk_modules()}
        shared = {
            name: module
            for name, module in network.named_modules()
            if id(module) in trunk and all(f"{name}.{key}" in self.weights for key in module.state_dict())
        }
        try:
            for name, module in shared.items():
                network.set_submodule(name, _Remembered(module, self.calls.setdefault(name, [])))
            return embed(network, images, flip=flip, precision="float32")
        finally:
            for name, module in shared.items():
                network.set_submodule(name, module)


class _Remembered(torch.nn.Module):
    """A module whose n-th call gives the n-th output in the list if the inputs are equal.

    Calls that the list lacks are added to it.
    """

    def __init__(self, module: torch.nn.Module, calls: list[_Call]):
        super().__init__()
        self.module, self.calls, self.place = module, calls, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        place, self.place = self.place, self.place + 1
        if place < len(self.calls) and torch.equal(self.calls[place][0], x):
            return self.calls[place][1]
        output = self.module(x)
        if place == len(self.calls):
            self.calls.append((x, output))
        return output


class TrainingStep:
    """One side of a switch on given weights.

    Args:
        trunk: of the row, on the same query images.
        distances: the result of the same network on these weights, if it is known.

    Attributes:
        loss: of one training batch of up to `BATCH` images.
        gradients: parameter name → gradient of this loss.
        distances: between `images` query images, one per pair.
    """

    def __init__(
        self,
        experiment: Experiment,
        weights: _Weights,
        dataset: ReidDataset,
        cache: Path,
        images: int,
        seed: int,
        *,
        trunk: SharedTrunk,
        distances: np.ndarray | None = None,
    ):
        self.experiment = experiment
        size = (experiment.height, experiment.width)
        network = network_with_weights(weights, experiment, dataset.num_train_identities, seed)
        rows = epoch_batches(
            dataset.train_labels, experiment.batch_size, experiment.images_per_identity, 1, seed, 0
        )[0]
        rows = rows[:BATCH]  # whole people, if batches are people × images
        decoded = load_sizes(dataset.train.paths, [size, enlarged_size(*size)], cache=cache)
        drawn = draw_augmentation(
            len(rows), *size, torch.Generator().manual_seed(seed), **augmentation_of(experiment)
        )
        batch = TrainingImages(*decoded, torch.device("cpu")).batch(rows, drawn)
        if distances is None:
            # Evaluated first: the training step changes the statistics of batch normalisation.
            shown = load_images(dataset.query.paths, *size, cache=cache)[:images]
            distances = pdist(trunk.embed(network, shown, flip=experiment.flip_evaluation))
        self.distances = distances
        torch.manual_seed(seed)
        network.cpu().train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
                module.eval()
        epoch = max(experiment.epochs, experiment.of_start_epoch)
        # Only the switch of the precision asks for bfloat16; "auto" counts as float32 here.
        with autocast(_in_a_step(experiment).precision, torch.device("cpu")):
            output = network(batch)
        terms = loss_terms(experiment, network, output, torch.from_numpy(dataset.train_labels[rows]), epoch)
        loss = sum(terms.values())
        self.loss = loss.item()
        names, parameters = zip(*network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        self.gradients = {
            name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None
        }


def compare_steps(written: TrainingStep, released: TrainingStep) -> dict[str, float]:
    shared = [
        name
        for name, gradient in written.gradients.items()
        if name in released.gradients and released.gradients[name].shape == gradient.shape
    ]

    # In float64: some effects are smaller than the rounding of float32.
    pairs = [(written.gradients[name], released.gradients[name]) for name in shared]
    product = sum(torch.dot(a.flatten().double(), b.flatten().double()).item() for a, b in pairs)
    norms = [
        sum(torch.linalg.vector_norm(one, dtype=torch.float64).item() ** 2 for one in side) ** 0.5
        for side in zip(*pairs, strict=True)
    ]
    change = np.nan  # a single query image has no distance to another one
    if len(released.distances):
        change = np.linalg.norm(written.distances - released.distances) / np.linalg.norm(released.distances)
    return {
        "loss_written": written.loss,
        "loss_released": released.loss,
        "gradient_cosine": product / (norms[0] * norms[1]),
        "gradient_ratio": norms[0] / norms[1],
        "distance_change": float(change),
    }


def network_with_weights(
    weights: _Weights, experiment: Experiment, num_identities: int, seed: int
) -> ReidNetwork:
    """The experiment's network with given weights; of classifiers, only the rows that both have."""
    experiment = replace(experiment, pretrained=False)
    with torch.device("meta"):  # without values: drawing them takes longer than loading given ones
        network = model_from_experiment(experiment, num_identities)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    if all(name in weights and weights[name].shape == shape for name, shape in shapes.items()):
        network.load_state_dict({name: weights[name].clone() for name in shapes}, assign=True)
        return network
    torch.manual_seed(seed)
    network = model_from_experiment(experiment, num_identities)
    state = network.state_dict()
    for name, value in state.items():
        if name in weights and weights[name].shape[1:] == value.shape[1:]:
            known = weights[name][: len(value)] if value.ndim else weights[name]
            state[name] = torch.cat([known, value[len(known) :]]) if value.ndim else known
    network.load_state_dict(state)
    return network


def untrained_table(effects: pd.DataFrame) -> pd.DataFrame:
    """`untrained_effects` as text."""
    return pd.DataFrame(
        {
            "paper": effects["paper"],
            "no.": effects["number"],
            "what": effects["what"].str.replace("`", ""),
            "seed": effects["seed"],
            "loss": [f"{value:.4g}" for value in effects["loss_written"]],
            "released": [f"{value:.4g}" for value in effects["loss_released"]],
            "cosine": [f"{value:.3f}" for value in effects["gradient_cosine"]],
            "norm ratio": [f"{value:.3g}" for value in effects["gradient_ratio"]],
            "distances": [
                DASH if np.isnan(value) else f"{100 * value:.2g} %" for value in effects["distance_change"]
            ],
        }
    )


def untrained_sentence(effects: pd.DataFrame) -> str:
    """Of which seeds the weights in `untrained_effects` are, in words."""
    seeds = sorted(set(effects["seed"]))
    if not seeds:
        return "No side of a switch can be compared on the weights that are there."
    return (
        f"These are the weights of {numbered_seeds(seeds)} alone, because each further one takes as long "
        "again: how far other trainings would move these numbers is not known here."
    )


# --------------------------------------------------------------------------------------------- after training


def trained_effects(
    runs: Sequence[Run],
    dataset: ReidDataset,
    seeds: Sequence[int],
    profile: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    cache: Path,
    scoring: bool = True,
) -> pd.DataFrame:
    """The difference in scores, each other side minus the released one, for every switch that changes scores.

    Both sides of a seed are scored on the same queries, and compared as in `paired_effect`. map_by_seed shows
    how much the seed changes.

    Args:
        runs: the finished runs of rows and variants. They must belong together: the same data, and the
            settings of their row or variant with `overrides` (`study.runs.belonging` chooses them).
        dataset: their data.
        seeds: those to compare. One that is named twice counts once.
        overrides: settings that replace the profile's in every run.
        cache: folder of decoded images and embeddings.
        scoring: also the switches of scoring. They need the runs' weights, embeddings and images.

    Returns:
        One row for each side that is not the released one: paper, number, name, side, what, base, effect (of
        the switch); seeds (how many have both sides); rank1 and map of the released side (fractions, means
        over seeds); rank1_difference, map_difference, each with _low and _high (95 %, over seeds and people;
        of one seed over people); map_by_seed (list); p (two-sided, of mAP, Holm-corrected over the rows of
        several seeds; NaN for one); verdict (`paired.verdict`, "noise", or why there is nothing to compare).
        NaN if a side was not run. A seed of which a side did not learn does not count.

    Raises:
        PairingError: two runs of a method have the same seed.
    """
    rows, found_effects = [], []
    known = {
        (method, seed): run
        for method in {run.method for run in runs}
        for seed, run in by_seed(one for one in runs if one.method == method).items()
    }
    chosen = [switch for switch in SWITCHES if switch.is_trained or (scoring and switch.effect == "scoring")]
    for switch in chosen:
        for side in switch.others:
            methods, nothing = _compared_methods(switch, side, profile, overrides or {})
            pairs = []
            for seed in dict.fromkeys(seeds) if methods else ():
                found = tuple(known.get((method, seed)) for method in methods)
                if all(found) and len(learned(found)) < len(found):
                    nothing = DID_NOT_LEARN
                else:
                    pairs.append(_sides(found, dataset, switch, side, cache))
            pairs = [pair for pair in pairs if pair]
            effect = paired_effect(pairs) if pairs else None
            row = {**names_of(switch, side), "verdict": nothing, "seeds": len(pairs)}
            rows.append({**row, **(_columns(effect) if effect else {})})
            found_effects.append(effect)
    columns = [*_NAMES, "verdict"]
    columns += ["seeds", "rank1", "map"]
    columns += [f"{key}_difference{bound}" for key in ("rank1", "map") for bound in ("", "_low", "_high")]
    frame = pd.DataFrame(rows, columns=[*columns, "map_by_seed", "p"])
    compared = frame.index[frame["seeds"] > 0]
    frame.loc[compared, "p"] = corrected_p([found_effects[row].mean_ap for row in compared])
    draws = frame.loc[compared, "name"] == NOISE
    noise = max((abs(value) for value in frame.loc[compared, "map_difference"][draws]), default=0.0)
    words = [verdict(found_effects[row].mean_ap, frame.loc[row, "p"], noise=noise) for row in compared]
    frame.loc[compared, "verdict"] = np.where(draws, "noise", words)
    return frame


def noise_of(effects: pd.DataFrame) -> float:
    """The largest change of mAP in any seed from other random draws alone; 0 if that switch was not run."""
    draws = effects[(effects["name"] == NOISE) & (effects["seeds"] > 0)]["map_by_seed"]
    return max((abs(value) for values in draws for value in values), default=0.0)


def runs_of_rows(runs: Sequence[Run], seed: int) -> dict[str, Run]:
    """Row → its run of this seed, for the rows that switches change."""
    rows = {switch.base for switch in SWITCHES}
    return {run.method: run for run in runs if run.seed == seed and run.method in rows}


def _compared_methods(
    switch: Switch, side: str, profile: str, overrides: Mapping[str, Any]
) -> tuple[tuple[str, str] | None, str]:
    """The two rows or variants whose runs show a side and the released one.

    None if there are no two, with the reason; the reason is `NOT_RUN` as long as they have no runs.
    """
    if switch.effect == "scoring":
        return (switch.base, switch.base), NOT_RUN
    if switch.effect == "schedule" and profile != "paper":
        return None, NOT_RUN
    try:
        other, released = (run_of(switch, name, profile, **overrides) for name in (side, RELEASED))
    except ConfigError:
        return None, IMPOSSIBLE
    return (None, SAME_HERE) if other == released else ((other, released), NOT_RUN)


def _sides(
    runs: tuple[Run | None, Run | None], dataset: ReidDataset, switch: Switch, side: str, cache: Path
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The queries of a side and of the released one, or None if one was not run."""
    other, released = runs
    if other is None or released is None:
        return None
    if switch.effect != "scoring":
        return other.queries, released.queries
    return tuple(
        _scored_again(run, dataset, switch.sides[name].settings, cache)
        for run, name in zip(runs, (side, RELEASED), strict=True)
    )


def _scored_again(run: Run, dataset: ReidDataset, settings: Mapping[str, Any], cache: Path) -> pd.DataFrame:
    """`per_query` of a run's weights under other settings of scoring."""
    experiment = replace(run.experiment, **settings)
    # Forms of re-ranking only change re-ranked scores.
    reranked = any(name.startswith("rerank_") for name in settings) or settings.get("rerank", False)
    embeddings = run.embeddings
    if any(getattr(experiment, name) != getattr(run.experiment, name) for name in OF_EMBEDDINGS):
        embeddings = embed_test_set(run.model(), experiment, dataset, cache=cache)
    query, gallery = embeddings["query"], embeddings["gallery"]
    form = {
        "merge_threshold": experiment.rerank_merge_threshold,
        "half_precision": experiment.rerank_half_precision,
    }
    return per_query(
        rerank(query, gallery, dataset, **form) if reranked else rank(query, gallery, dataset), dataset
    )


def _columns(effect: PairedEffect) -> dict[str, Any]:
    found: dict[str, Any] = {"rank1": effect.second_rank1, "map": effect.second_map}
    for key, crossed, over_people in (
        ("rank1", effect.rank1, effect.rank1_over_people),
        ("map", effect.mean_ap, effect.map_over_people),
    ):
        found[f"{key}_difference"] = crossed.difference
        found |= interval_columns(f"{key}_difference", (over_people or crossed)[1:3])
    return {**found, "map_by_seed": effect.map_by_seed}


def switch_table(effects: pd.DataFrame) -> pd.DataFrame:
    """`trained_effects` as text, in points. One seed's interval is named.

    "not run" if a side was not run, "not computed" if the settings of this call leave nothing to compare.
    """

    def difference(row: pd.Series, key: str) -> str:
        bounds = (row[f"{key}_difference{bound}"] for bound in ("", "_low", "_high"))
        return points(*bounds, over="people" if row["seeds"] == 1 else "")

    rows = []
    for _, row in effects.iterrows():
        run = row["seeds"] > 0
        reasons = {DID_NOT_LEARN: DID_NOT_LEARN, IMPOSSIBLE: NOT_COMPUTED, SAME_HERE: NOT_COMPUTED}
        missing = reasons.get(row["verdict"], NOT_RUN)
        each = ", ".join(f"{100 * value:+z.1f}" for value in row["map_by_seed"]) if run else missing
        rows.append(
            {
                "paper": row["paper"],
                "no.": row["number"],
                "what": row["what"].replace("`", ""),
                "released: rank-1 / mAP": f"{100 * row['rank1']:.1f} / {100 * row['map']:.1f}"
                if run
                else missing,
                "rank-1 [95 %]": difference(row, "rank1") if run else missing,
                "mAP [95 %]": difference(row, "map") if run else missing,
                "by seed": each,
                "p (Holm)": p_value(row["p"]) if run else missing,
                "verdict": row["verdict"],
            }
        )
    return pd.DataFrame(rows)


def switch_sentence(effects: pd.DataFrame) -> str:
    """The result of `trained_effects` in words."""
    run = effects[effects["seeds"] > 0]
    without = int((effects["verdict"] == DID_NOT_LEARN).sum())
    unknown = f" Of {without} sides a run {DID_NOT_LEARN}: they are not compared." if without else ""
    if run.empty:
        return (
            "No two sides of a switch were scored here: nothing can be said about effects on the scores."
            + unknown
        )
    text = f"{len(run)} of {len(effects)} sides were scored here beside the released one."
    if (run["seeds"] > 1).any():
        apart, small = (run[run["verdict"] == word] for word in (DIFFERS, SMALL))
        text += (
            f" With several seeds, {len(apart)} of {(run['seeds'] > 1).sum()} change mAP "
            "(over seeds and people together, Holm-corrected, 5 %)"
        )
        named = "; ".join(f"{row['what']} {100 * row['map_difference']:+z.1f}" for _, row in apart.iterrows())
        text += f": {named} points, against as released." if named else "."
        text += f" The change is {SMALL}: {'; '.join(small['what'])}." if len(small) else ""
    if NOISE in set(run["name"]):
        text += (
            " The order of the branches changes only the random draws, "
            f"and moves mAP by up to {100 * noise_of(run):.1f} points in one seed. A difference only "
            "counts if it is larger than what that does to the mean over seeds."
        )
    if (run["verdict"] == NO_VERDICT).any():
        text += (
            " Where there is one seed of each, how much seeds move a difference is not known: "
            "there is no verdict."
        )
    return text + unknown


def ties_sentence(runs: Sequence[Run], dataset: ReidDataset) -> str:
    """How much mAP changes if gallery images at the same distance share a rank, as in scikit-learn.

    Args:
        runs: of one method, one or more, with their embeddings; all of them count.
    """
    labels, moved, changes, scored = Labels(*people_and_cameras(dataset)), [], [], 0
    for run in runs:
        own = run.queries["average_precision"].to_numpy(float)
        shared = average_precision_with_shared_ranks(
            run.embeddings["query"], run.embeddings["gallery"], labels
        )
        moved.append(int((np.abs(shared - own) > 1e-6).sum()))
        changes.append(100 * abs(np.nanmean(shared) - np.nanmean(own)))
        scored = int(np.isfinite(own).sum())
    up_to = "up to " if len(runs) > 1 else ""
    return (
        "The released spatial-attention code takes its mAP from scikit-learn, where gallery images at the "
        f"same distance share a rank. On the embeddings of {title_of(runs[0].method)}, "
        f"{numbered_seeds([run.seed for run in runs])}, that changes the average precision of "
        f"{up_to}{max(moved)} of {scored:,} queries, and mAP by {up_to}{max(changes):.1g} points."
    )
