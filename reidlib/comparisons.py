"""Paper against released code: what each switch of `reidlib.switches` changes, before any training and after it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import pdist

from reidlib.augmentation import TrainingImages, draw_augmentation, enlarged_size
from reidlib.batches import epoch_batches, load_images, load_sizes
from reidlib.config import Experiment, run_of
from reidlib.datasets import ReidDataset
from reidlib.embedding import embed
from reidlib.models import ReidNetwork, model_from_experiment
from reidlib.optimisation import loss_terms
from reidlib.progress import progress
from reidlib.results import Study, read_json
from reidlib.runs import Run, finished_run
from reidlib.scoring import per_query, rank, rerank
from reidlib.statistics import holm, paired_difference, seed_summary
from reidlib.switches import SIDES, SWITCHES, Switch

NOT_RUN = "not run"
NOISE = "branch-order"  # the switch that changes nothing but the random draws
BATCH = 16  # images in the untrained comparison: a CPU holds ResNet-50's gradients of so many at 384 × 128
_Weights = Mapping[str, torch.Tensor]  # a network's state


def deviations_table() -> pd.DataFrame:
    """Every difference between paper and released code in words, the settings that switch it, and the side taken here."""
    rows = []
    for switch in SWITCHES:
        if switch.number == "all":
            continue
        pairs = [f"{name}: {switch.as_written[name]!r} / {switch.as_released[name]!r}" for name in switch.as_written]
        row = (switch.paper, switch.number, switch.what, switch.written, switch.released, switch.here, "; ".join(pairs) or "–")
        rows.append(row)
    columns = ["paper", "no.", "what", "as written", "as released", "here", "setting: written / released"]
    return pd.DataFrame(rows, columns=columns)


# ---------------------------------------------------------------------------------------------------- without training


def untrained_effects(
    runs: Mapping[str, Run], dataset: ReidDataset, *, cache: Path, images: int = 64, seed: int = 0
) -> pd.DataFrame:
    """Both sides of every trained switch on the same weights: what one step would do, and how far the embeddings move.

    The weights are those of the finished run of the switch's row; parameters that only one side has keep that side's own.
    Batch, augmentation and start vectors come from the same seed, in float32, with every loss term active. Dropout is off: a
    side with other layers, or the same in another order, would draw other numbers, which part gradients more than most switches.

    Args:
        runs: row → its run.
        images: how many query images the distances are taken over.

    Returns:
        One row a switch: paper, number, name, what; loss_written, loss_released; gradient_cosine between the sides' gradients
        over the parameters that both have, gradient_ratio of their norms (written / released); distance_change, the
        relative root-mean-square change of the distances between test images.
    """
    chosen = [switch for switch in SWITCHES if switch.effect == "training" and switch.base in runs]
    bases = dict.fromkeys(switch.base for switch in chosen)
    weights = {base: runs[base].model().state_dict() for base in bases}
    of_rows = {base: _Step(runs[base].experiment, weights[base], dataset, cache, images, seed) for base in bases}
    rows = []
    with progress(len(chosen), "switches", "switch") as bar:
        for switch in chosen:
            base, own = switch.base, runs[switch.base].experiment
            experiments = [replace(own, **switch.side(side)) for side in SIDES]
            steps = [
                of_rows[base] if experiment == own else _Step(experiment, weights[base], dataset, cache, images, seed)
                for experiment in experiments
            ]
            names = {"paper": switch.paper, "number": switch.number, "name": switch.name, "what": switch.what}
            rows.append({**names, **_compare(*steps)})
            bar.update(1)
    return pd.DataFrame(rows)


class _Step:
    """One side: the loss and gradient of a training batch of up to `BATCH` images, and distances between test images."""

    def __init__(self, experiment: Experiment, weights: _Weights, dataset: ReidDataset, cache: Path, images: int, seed: int):
        size = (experiment.height, experiment.width)
        network = _network_with(weights, experiment, dataset.num_train_identities, seed)
        rows = epoch_batches(dataset.train_labels, experiment.batch_size, experiment.images_per_identity, 1, seed, 0)[0]
        rows = rows[:BATCH]  # of person × image batches whole people
        decoded = load_sizes(dataset.train.paths, [size, enlarged_size(*size)], cache=cache)
        drawn = draw_augmentation(len(rows), *size, torch.Generator().manual_seed(seed), **experiment.augmentation)
        batch = TrainingImages(*decoded, torch.device("cpu")).batch(rows, drawn)
        # Evaluated first: the training step changes the statistics of batch normalisation.
        shown = load_images(dataset.query.paths, *size, cache=cache)[:images]
        self.distances = pdist(embed(network, shown, flip=experiment.flip_evaluation, precision="float32"))
        torch.manual_seed(seed)
        network.cpu().train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout | torch.nn.Dropout2d):
                module.eval()
        epoch = max(experiment.epochs, experiment.of_start_epoch)
        terms = loss_terms(experiment, network, network(batch), torch.from_numpy(dataset.train_labels[rows]), epoch)
        loss = sum(terms.values())
        self.loss = loss.item()
        names, parameters = zip(*network.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        self.gradients = {name: gradient for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def _compare(written: _Step, released: _Step) -> dict[str, float]:
    shared = [
        name
        for name, gradient in written.gradients.items()
        if name in released.gradients and released.gradients[name].shape == gradient.shape
    ]

    def product(one: _Step, two: _Step) -> float:
        return sum(torch.dot(one.gradients[name].flatten(), two.gradients[name].flatten()).item() for name in shared)

    norms = [product(step, step) ** 0.5 for step in (written, released)]
    change = np.linalg.norm(written.distances - released.distances) / np.linalg.norm(released.distances)
    return {
        "loss_written": written.loss,
        "loss_released": released.loss,
        "gradient_cosine": product(written, released) / (norms[0] * norms[1]),
        "gradient_ratio": norms[0] / norms[1],
        "distance_change": float(change),
    }


def _network_with(weights: _Weights, experiment: Experiment, num_identities: int, seed: int) -> ReidNetwork:
    """The experiment's network with those weights; of classifiers the first rows that both have."""
    torch.manual_seed(seed)
    network = model_from_experiment(replace(experiment, pretrained=False), num_identities)
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
            "what": effects["what"],
            "loss written": [f"{value:.4g}" for value in effects["loss_written"]],
            "released": [f"{value:.4g}" for value in effects["loss_released"]],
            "cosine": [f"{value:.3f}" for value in effects["gradient_cosine"]],
            "norm ratio": [f"{value:.3g}" for value in effects["gradient_ratio"]],
            "distances": [f"{100 * value:.2g} %" for value in effects["distance_change"]],
        }
    )


# ---------------------------------------------------------------------------------------------------- after training


def switch_effects(
    study: Study, dataset: ReidDataset, seeds: Sequence[int], overrides: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """As written minus as released over the same queries, for every switch that changes scores.

    Both sides of a seed are scored on the same queries; the per-query differences are averaged over the seeds that
    have both sides, and the interval and p come from resampling people (paired). What seeds do shows in the range over seeds.
    Runs on other data, or whose settings differ by more than the switch (left from another call), are no sides of it.

    Returns:
        One row a switch: paper, number, name, what, base; seeds (how many have both sides); rank1 and map of the released
        side (fractions, means over seeds); rank1_difference, map_difference, each with _low and _high (95 %); map_by_seed
        (list); p (two-sided, of mAP, Holm-corrected over the rows that were run); verdict (see `_verdict`). NaN where a side
        was not run.
    """
    rows = []
    chosen = [switch for switch in SWITCHES if switch.effect in ("training", "evaluation")]
    for switch in chosen:
        pairs = [sides for seed in seeds if (sides := _sides(study, dataset, switch, seed, overrides or {}))]
        row = {"paper": switch.paper, "number": switch.number, "name": switch.name, "what": switch.what, "base": switch.base}
        rows.append({**row, "seeds": len(pairs), **(_paired(pairs) if pairs else {})})
    columns = ["paper", "number", "name", "what", "base", "seeds", "rank1", "map"]
    columns += [f"{key}_difference{bound}" for key in ("rank1", "map") for bound in ("", "_low", "_high")]
    frame = pd.DataFrame(rows, columns=[*columns, "map_by_seed", "p"])
    compared = frame["seeds"] > 0
    if compared.any():
        frame.loc[compared, "p"] = holm(frame.loc[compared, "p"].to_numpy(float))
    noise = noise_of(frame)
    return frame.assign(verdict=[_verdict(row, noise) for _, row in frame.iterrows()])


def noise_of(effects: pd.DataFrame) -> float:
    """The largest difference in mAP that a seed's other random draws alone made, or 0 where that was not run."""
    draws = effects[(effects["name"] == NOISE) & (effects["seeds"] > 0)]["map_by_seed"]
    return max((abs(value) for values in draws for value in values), default=0.0)


def _verdict(row: pd.Series, noise: float) -> str:
    """Whether mAP differs: over people (p), beyond what other random draws do, and over seeds where there are several."""
    if not row["seeds"]:
        return NOT_RUN
    if row["name"] == NOISE:
        return "noise"
    if row["p"] >= 0.05:
        return "indistinguishable"
    if abs(row["map_difference"]) <= noise:
        return "within the noise"
    if row["seeds"] == 1:
        return "differs (one seed)"
    over_seeds = seed_summary(row["map_by_seed"])
    return "differs" if over_seeds.low > 0 or over_seeds.high < 0 else "varies with the seed"


_Scores = tuple[np.ndarray, np.ndarray, np.ndarray]  # per query: identity, hit at rank 1, average precision; NaN: not scored


def _sides(
    study: Study, dataset: ReidDataset, switch: Switch, seed: int, overrides: Mapping[str, Any]
) -> tuple[_Scores, _Scores] | None:
    """What both sides scored on every query, as written and as released, or None where they cannot be compared."""
    if switch.effect == "evaluation":
        run = _run(study, dataset, switch.base, seed)
        return run and tuple(_scores(_ranked_again(run, dataset, switch.side(side))) for side in SIDES)
    written, released = (_run(study, dataset, run_of(switch, side, study.profile, **overrides), seed) for side in SIDES)
    if written is None or released is None:
        return None
    one, two = (run.experiment.as_dict() for run in (written, released))
    differ = {name for name in one if name != "method" and one[name] != two[name]}
    if not differ or not differ <= set(switch.as_written):
        return None
    return _scores(written.queries), _scores(released.queries)


def _run(study: Study, dataset: ReidDataset, method: str, seed: int) -> Run | None:
    """The finished run, if there is one that was made from these data."""
    run = finished_run(study, method, seed)
    return run if run and read_json(run.folder / "experiment.json")["data"] == dataset.fingerprint else None


def _ranked_again(run: Run, dataset: ReidDataset, side: Mapping[str, Any]) -> pd.DataFrame:
    experiment = replace(run.experiment, **{"rerank": True, **side})  # a form of re-ranking shows in re-ranked scores only
    query, gallery = run.embeddings["query"], run.embeddings["gallery"]
    form = {"merge_threshold": experiment.rerank_merge_threshold, "half_precision": experiment.rerank_half_precision}
    return per_query(rerank(query, gallery, dataset, **form) if experiment.rerank else rank(query, gallery, dataset), dataset)


def _scores(queries: pd.DataFrame) -> _Scores:
    hits = (queries["first_match_rank"] == 1).where(queries["average_precision"].notna()).to_numpy(float)
    return queries["identity"].to_numpy(), hits, queries["average_precision"].to_numpy(float)


def _paired(pairs: list[tuple[_Scores, _Scores]]) -> dict[str, Any]:
    people = pairs[0][0][0]
    found: dict[str, Any] = {}
    for key, column in (("rank1", 1), ("map", 2)):
        written, released = (np.mean([sides[i][column] for sides in pairs], axis=0) for i in (0, 1))
        effect = paired_difference(written, released, people)
        found |= {key: float(np.nanmean(released)), f"{key}_difference": effect.estimate}
        found |= {f"{key}_difference_low": effect.low, f"{key}_difference_high": effect.high}
        found["p"] = effect.p_value  # of the last, mAP
    by_seed = [float(np.nanmean(written[2]) - np.nanmean(released[2])) for written, released in pairs]
    return {**found, "map_by_seed": by_seed}


def switch_table(effects: pd.DataFrame) -> pd.DataFrame:
    """`switch_effects` as text, in points; "not run" where a side was not trained."""

    def points(row, key: str) -> str:
        low, high = row[f"{key}_difference_low"], row[f"{key}_difference_high"]
        return f"{100 * row[f'{key}_difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    rows = []
    for _, row in effects.iterrows():
        run = row["seeds"] > 0
        by_seed = ", ".join(f"{100 * value:+.1f}" for value in row["map_by_seed"]) if run else NOT_RUN
        rows.append(
            {
                "paper": row["paper"],
                "no.": row["number"],
                "what": row["what"],
                "released: rank-1 / mAP": f"{100 * row['rank1']:.1f} / {100 * row['map']:.1f}" if run else NOT_RUN,
                "rank-1 [95 %]": points(row, "rank1") if run else NOT_RUN,
                "mAP [95 %]": points(row, "map") if run else NOT_RUN,
                "by seed": by_seed,
                "p (Holm)": (f"{row['p']:.3f}" if row["p"] >= 0.001 else "< 0.001") if run else NOT_RUN,
                "verdict": row["verdict"],
            }
        )
    return pd.DataFrame(rows)


def switch_sentence(effects: pd.DataFrame) -> str:
    """What the table lets one say, in words."""
    run = effects[effects["seeds"] > 0]
    if run.empty:
        return "Neither side of any switch was trained here: nothing can be said about effects on the scores."
    apart = run[run["verdict"].str.startswith("differs")]
    text = f"{len(run)} of {len(effects)} switches have both sides here; {len(apart)} change mAP distinguishably "
    text += "(permutation test over people, Holm-corrected, 5 %)"
    named = "; ".join(f"{row['what']} {100 * row['map_difference']:+.1f}" for _, row in apart.iterrows())
    text += f": {named} points, as written against as released." if named else "."
    if NOISE in set(run["name"]):
        text += f" The order of the branches changes only the random draws, and moves mAP by up to {100 * noise_of(run):.1f} "
        text += "points: what moves it less counts as noise, whatever its p."
    if (run["seeds"] == 1).any():
        text += " Where there is one seed of each, how much seeds move a difference is not known."
    return text
