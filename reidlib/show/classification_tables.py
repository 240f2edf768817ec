"""Tables and sentences about the classification runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reidlib.classification.labelled_images import IMAGE_SET_TITLES, LabelledImages
from reidlib.classification.pooling_runs import POOLINGS, ClassificationRun
from reidlib.crossed import crossed_effect
from reidlib.show.paired import by_seed, corrected_p, over_people, verdict
from reidlib.show.text import DASH, p_value, points
from reidlib.statistics import seed_summary

DIGITS_CAVEAT = (
    "The digits demonstrate the mechanism: "
    "no effect of spatial attention on recognition is claimed from them."
)


def pooling_effects_table(
    runs: Sequence[ClassificationRun], images: str, *, resamples: int = 2000
) -> pd.DataFrame:
    """One row per pooling: test accuracy (%) and its difference from GAP (points), with 95 % intervals.

    - of the accuracy: Student's t over seeds, cut to 0–100.
    - of the difference: over seeds and test images (`crossed_effect`), p Holm-corrected. It is taken between
      runs of the same seed, which start from the same weights. With one seed it is over images, by name.

    Seeds that not all poolings have are left out. The verdict is that of `paired.verdict`.

    Args:
        resamples: of the interval over images.

    Raises:
        PairingError: two runs of a pooling have the same seed.
    """
    of = {pooling: by_seed(run for run in runs if run.pooling == pooling) for pooling in POOLINGS}
    seeds = sorted(set.intersection(*(set(own) for own in of.values())))
    # pooling → (seeds, images)
    right = {pooling: np.stack([own[seed].correct for seed in seeds]) for pooling, own in of.items()}
    gap, others = right["gap"], [pooling for pooling in POOLINGS if pooling != "gap"]
    image = np.arange(gap.shape[1])
    effects = {pooling: crossed_effect(right[pooling], gap, image) for pooling in others}
    p_values = dict(zip(others, corrected_p(list(effects.values())), strict=True))
    rows = []
    for pooling, (title, _) in POOLINGS.items():
        accuracy = seed_summary(right[pooling].mean(1))
        mean, low, high = (
            None if value is None else min(max(value, 0.0), 1.0) for value in (accuracy.mean, *accuracy[2:4])
        )
        row = {"pooling": title, "seeds": accuracy.seeds}
        row["accuracy (%) [95 %, seeds]"] = _percent(mean, low, high, accuracy.std)
        row |= dict.fromkeys(("− GAP [95 %]", "p (Holm)", "verdict"), DASH)
        if pooling != "gap":
            effect, p = effects[pooling], p_values[pooling]
            one_seed = over_people(right[pooling], gap, image, resamples=resamples)
            row["− GAP [95 %]"] = points(*(one_seed or effect)[:3], over="images" if one_seed else "")
            row["p (Holm)"] = p_value(p)
            row["verdict"] = verdict(effect, p)
        rows.append(row | {"paper": "not recovered" if images == "cifar100" else DASH})
    return pd.DataFrame(rows)


def _percent(mean: float, low: float | None, high: float | None, std: float | None) -> str:
    """Fractions in %, as "97.1 ± 0.4 [96.1, 98.1]"; of one seed, which has no deviation, "97.1"."""
    text = f"{100 * mean:.1f}"
    return text if std is None else f"{text} ± {100 * std:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def curves_frame(runs: Sequence[ClassificationRun]) -> pd.DataFrame:
    """The curves of all runs in one table, with the columns pooling and seed added."""
    return pd.concat([run.curves.assign(pooling=run.title, seed=run.seed) for run in runs], ignore_index=True)


def mechanism_table(runs: Sequence[ClassificationRun]) -> pd.DataFrame:
    """One row per pooling, as means over seeds.

    The columns are `pooling_facts` before and after training, and the loss in the first and last epoch.
    """
    rows = []
    for pooling, (title, _) in POOLINGS.items():
        own = [run for run in runs if run.pooling == pooling]
        row: dict[str, Any] = {"pooling": title}
        for fact, label in (
            ("largest_share", "largest share of a place"),
            ("pooled_length", "length of the pooled vector"),
        ):
            for moment in ("before", "after"):
                row[f"{label}, {moment} training"] = float(np.mean([run.facts[moment][fact] for run in own]))
        row["loss in the first epoch"] = float(np.mean([run.curves["loss"].iloc[0] for run in own]))
        row["loss in the last epoch"] = float(np.mean([run.curves["loss"].iloc[-1] for run in own]))
        rows.append(row)
    return pd.DataFrame(rows)


def classification_caveats(profile: str, data: LabelledImages) -> list[str]:
    """What limits the numbers, one sentence each."""
    sentences = [
        "The networks were trained from random weights, all with one learning rate that was tuned for none "
        "of them."
    ]
    sentences += [
        "The paper's own numbers on CIFAR-100 could not be recovered, so nothing here stands beside them."
    ]
    sentences += [DIGITS_CAVEAT] if data.name == "digits" else []
    sentences += data.notes
    return sentences + (
        ["The smoke profile takes a few steps only: its scores mean nothing."] if profile == "smoke" else []
    )


def takeaway(
    runs: Sequence[ClassificationRun], effects: pd.DataFrame, profile: str, data: LabelledImages
) -> str:
    """The result of the runs in words."""
    rows, verdicts = mechanism_table(runs).set_index("pooling"), effects.set_index("pooling")["verdict"]
    accuracy = {
        title: 100 * float(np.mean([run.correct.mean() for run in runs if run.pooling == pooling]))
        for pooling, (title, _) in POOLINGS.items()
    }
    gap, short, *attending = (title for title, _ in POOLINGS.values())
    seeds = len({run.seed for run in runs})
    text = (
        f"On {IMAGE_SET_TITLES[data.name]} ({len(data.test_labels)} test images, seeds: {seeds}) "
        f"GAP reaches {accuracy[gap]:.1f} %"
    )
    for title in attending:
        text += (
            f", {title} {accuracy[title]:.1f} % "
            f"({accuracy[title] - accuracy[gap]:+z.1f} points, {verdicts[title]})"
        )
    length = rows["length of the pooled vector, before training"]
    times = " and ".join(f"{length[gap] / length[title]:.0f}" for title in attending)
    text += (
        f". Before training the pooled vector is {times} times shorter with SA than with GAP. "
        "The control, about as short but "
    )
    text += (
        f"without any attention, reaches {accuracy[short]:.1f} %: "
        "against that, not against GAP, the attention itself is judged."
    )
    text += f" {DIGITS_CAVEAT}" if data.name == "digits" else ""
    return text + (" A smoke run means nothing." if profile == "smoke" else "")
