"""Measures the papers' claims on finished runs, and judges them.

Runs of equal seeds are compared. Intervals and p cover trainings and people together (`crossed_effect`). p is
corrected by Holm's method: on each data set, over the claims of one question (`claims.QUESTIONS`) that have
a p there. The intervals are not: one without 0 may stand beside "cannot tell".
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from reidlib.claims import CLAIMS, CLASSIFICATION, MEASURES, Claim
from reidlib.config import VARIANTS
from reidlib.crossed import crossed_effect
from reidlib.errors import ReidError
from reidlib.run import Run
from reidlib.show.text import runs_in_short
from reidlib.show.verdicts import Evidence, judge, margin_of
from reidlib.statistics import holm

if TYPE_CHECKING:
    from reidlib.classification.pooling_runs import ClassificationRun

CIFAR = "CIFAR-100"  # the data set of the claim about classification

RunsByDataset = Mapping[str, Sequence[Run]]  # data set in words → its runs, which belong together


class FindingsError(ReidError):
    """Runs that are compared do not fit together."""


class Sample(NamedTuple):
    """One training: what a claim is measured by, for each query or image.

    values, people: (Q,); values is None if the training does not hold them.
    """

    name: str
    values: np.ndarray | None
    people: np.ndarray
    hours: float = 0.0
    learned: bool = True


Samples = Mapping[int, Sample]  # by seed


def runs_of(row: str, runs: Iterable[Run]) -> dict[int, Run]:
    """Seed → the run of a row or variant. A variant may be shown by a run of its row with the same settings.

    Raises:
        FindingsError: two runs of the row have the same seed.
    """
    found = [run for run in runs if run.method == row]
    if not found and row in VARIANTS:
        variant = VARIANTS[row]
        found = [
            run
            for run in runs
            if run.method == variant.differs_from
            and all(getattr(run.experiment, name) == value for name, value in variant.by.items())
        ]
    by_seed = {run.seed: run for run in found}
    if len(by_seed) < len(found):
        raise FindingsError(
            f"Two runs of {row} have the same seed: {', '.join(str(run.folder) for run in found)}. Only one "
            "can be compared: make runs with other settings as another study."
        )
    return by_seed


def retrieval_samples(row: str, column: str, runs: Iterable[Run]) -> Samples:
    """The runs of a row, measured by a column of their queries."""
    return {
        seed: Sample(
            run.name,
            run.queries[column].to_numpy(float) if column in run.queries else None,
            run.queries["identity"].to_numpy(),
            run.metrics["train_seconds"] / 3600,
            run.learned is not False,
        )
        for seed, run in runs_of(row, runs).items()
    }


def classification_samples(runs: Iterable["ClassificationRun"]) -> dict[str, Samples]:
    """Pooling → its runs by seed. Each image counts as a person.

    Args:
        runs: of `23_classification`, which belong together (`study.classified` chooses them).
    """
    found: dict[str, dict[int, Sample]] = {}
    for run in runs:
        right, hours = run.correct.astype(float), float(run.curves["seconds"].sum()) / 3600
        sample = Sample(run.name, right, np.arange(len(right)), hours)
        found.setdefault(run.pooling, {})[run.seed] = sample
    return found


def evidence(claim: Claim, first: Samples, second: Samples) -> Evidence:
    """What these trainings say about a claim. Those of equal seeds that learned are compared.

    Raises:
        FindingsError: they were scored on different queries.
    """
    missing = {claim.first: first, claim.second: second}
    missing = tuple(row for row, samples in missing.items() if not samples)
    if missing:
        return Evidence(missing=missing)
    pairs = [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
    if not pairs:
        return Evidence(missing=(f"a seed that both {claim.first} and {claim.second} have",))
    pairs = [pair for pair in pairs if all(one.values is not None for one in pair)]
    if not pairs:
        return Evidence(unmeasured=True)
    not_learned = tuple(dict.fromkeys(one.name for pair in pairs for one in pair if not one.learned))
    pairs = [pair for pair in pairs if all(one.learned for one in pair)]
    if not pairs:
        return Evidence(not_learned=not_learned)
    people = pairs[0][0].people
    for one in (one for pair in pairs for one in pair):
        if not np.array_equal(one.people, people):
            raise FindingsError(
                f"{one.name} was scored on other queries than {pairs[0][0].name}. Compare runs of one test "
                "set, or score them again on it."
            )
    values = [np.stack([pair[side].values for pair in pairs]) for side in (0, 1)]
    known = ~np.isnan(values).all(axis=(0, 1))  # for no run does the gallery have a match of the others
    effects = [
        crossed_effect(*(side[:, known] for side in values), people[known], confidence=confidence)
        for confidence in (0.95, 0.9)
    ]
    level = float(np.nanmean(values[1]))
    return Evidence(*effects, level, not_learned=not_learned)


def findings(
    runs: RunsByDataset,
    classified: Mapping[str, Samples] | None = None,
    claims: Sequence[Claim] = CLAIMS,
) -> pd.DataFrame:
    """Every claim on every data set.

    Args:
        classified: `classification_samples` on CIFAR-100; None: the claim about classification was not run.

    Returns:
        One row for each claim and data set, with the columns

        - data_set, question, name, claim (text), first and second (rows), sign, margin, published (NaN if it
          is not), published_in; measure, unit, scale (from the numbers here to the unit);
        - difference, low, high (95 %), p, p_holm, seeds (pairs of runs), people. Without an effect they are
          NaN and seeds is 0; with one seed low, high and p are NaN;
        - verdict, why, seeds_needed (NaN: more do not help, or are not needed), more_hours (of training, to
          get there), not_learned (names of the runs that are left out).
    """
    rows = []
    for data_set, own in {**runs, CIFAR: None}.items():
        chosen = [claim for claim in claims if (claim.measure == CLASSIFICATION) == (own is None)]
        sides = [_sides(claim, own, classified or {}) for claim in chosen]
        found = [evidence(claim, *samples) for claim, samples in zip(chosen, sides, strict=True)]
        corrected = _corrected(chosen, [one.effect.p if one.effect else np.nan for one in found])
        parts = zip(chosen, sides, found, corrected, strict=True)
        rows += [{"data_set": data_set, **_row(*part)} for part in parts]
    return pd.DataFrame(rows)


def _corrected(claims: Sequence[Claim], p_values: Sequence[float]) -> np.ndarray:
    """Holm's p over the claims of each question whose p is not NaN."""
    corrected, questions = np.array(p_values, dtype=float), np.array([claim.question for claim in claims])
    for question in set(questions):
        tested = (questions == question) & ~np.isnan(corrected)
        corrected[tested] = holm(corrected[tested])
    return corrected


def _sides(claim: Claim, runs: Sequence[Run] | None, classified: Mapping[str, Samples]) -> list[Samples]:
    if runs is None:
        return [classified.get(row, {}) for row in (claim.first, claim.second)]
    measure = MEASURES[claim.measure]
    columns = ((claim.first, measure.column), (claim.second, measure.against))
    return [retrieval_samples(row, column, runs) for row, column in columns]


def _row(claim: Claim, sides: Sequence[Samples], found: Evidence, p: float) -> dict[str, Any]:
    measure, effect, verdict = MEASURES[claim.measure], found.effect, judge(claim, found, p)
    trained = sides if claim.first != claim.second else sides[:1]
    hours = sum(np.mean([one.hours for one in samples.values()]) for samples in trained if samples)
    numbers = ("difference", "low", "high", "people", "p")
    return {
        "question": claim.question, "name": claim.name, "claim": claim.text,
        "measure": measure.title, "unit": measure.unit, "scale": measure.scale,
        "seeds": effect.seeds if effect else 0,
        **{name: getattr(effect, name) if effect else np.nan for name in numbers}, "p_holm": p,
        "sign": claim.sign, "margin": margin_of(claim, found.level),
        "published": np.nan if claim.size is None else claim.size, "published_in": claim.size_source,
        "verdict": verdict.words, "why": verdict.why, "seeds_needed": verdict.seeds or np.nan,
        "more_hours": hours * (verdict.seeds - effect.seeds) if verdict.seeds else np.nan,
        "first": claim.first, "second": claim.second, "not_learned": runs_in_short(found.not_learned),
    }  # fmt: skip
