"""In which settings a run differs from its row, and the sentences about runs that are left out."""

from collections.abc import Iterable, Mapping
from typing import Any

from reidlib.config import OF_FILES
from reidlib.experiment import Experiment, ScoringSettings, TrainingSettings
from reidlib.run import Run

# Settings that change no score that tables compare: how finely an interval is estimated, and a further score.
NO_SCORE = ("bootstrap_resamples", "single_shot")
OTHER_DATA = "other images"


def differences(run: Run, row: Experiment) -> dict[str, tuple[Any, Any]]:
    """The settings in which a run differs from its row: name → (the run's, the row's).

    Args:
        row: the row's experiment, with digests in place of the paths of files.
    """
    record = run.made_from["weights"]
    own = _comparable(run.experiment) | {name: record[name] for name in OF_FILES if name in record}
    wanted = _comparable(row)
    return {name: (own[name], wanted[name]) for name in own if own[name] != wanted[name]}


def _comparable(experiment: Experiment) -> dict[str, Any]:
    settings = experiment.group(TrainingSettings) | experiment.group(ScoringSettings)
    return {name: value for name, value in settings.items() if name not in NO_SCORE}


def differences_in_words(found: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [
        in_words(name, own) + ("" if name in OF_FILES else f" in place of {wanted}")
        for name, (own, wanted) in found.items()
    ]


def in_words(name: str, value: Any) -> str:
    """A setting and its value. Of a file, only whether there is one: its digest means nothing to a reader."""
    if name not in OF_FILES or isinstance(value, bool):
        return f"{name} = {value}"
    return f"other {name} weights" if value else f"no {name} weights"


def left_out_sentences(left_out: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence (Markdown) for each reason why runs are left out.

    Args:
        left_out: (name of the run, what it was made with).
    """
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out:
        reasons.setdefault(reason, []).append(f"`{name}`")
    return [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} left out, made with {reason}."
        for reason, names in reasons.items()
    ]
