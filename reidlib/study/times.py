"""How long steps take: what earlier calls recorded, and what is left by it, corrected as the work goes on.

<study>/events.jsonl has a line for every event of every call: {"time", "event", "step", …}. Events are
"begin" and "end" of a call, "start", "done", "failed", "lacks runs" and "skipped" of a step.
"""

import contextlib
import datetime
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reidlib.progress import write_line
from reidlib.study.results import Study
from reidlib.study.steps import Step

FIRST_GUESS = 60.0  # seconds of a step of weight 1, where nothing is known


def events_file(study: Study) -> Path:
    return study.root / "events.jsonl"


def record_event(study: Study, event: str, **facts: Any) -> None:
    """Adds a line to the study's events. Where that cannot be written, the work goes on without."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    with contextlib.suppress(OSError):
        write_line(events_file(study), json.dumps({"time": now, "event": event, **facts}))


def earlier_seconds(study: Study) -> dict[str, float]:
    """Step → seconds that it took when it was last done; damaged lines do not count."""
    try:
        lines = events_file(study).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    seconds = {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            event = json.loads(line)
            if event["event"] == "done" and event["seconds"] > 0:
                seconds[str(event["step"])] = float(event["seconds"])
    return seconds


def expected_seconds(steps: Iterable[Step], earlier: Mapping[str, float]) -> dict[str, float]:
    """Step → seconds that it will probably take: as earlier, as others of its notebook, or by its weight."""
    steps = list(steps)
    by_notebook: dict[str, list[float]] = {}
    for step in steps:
        if step.name in earlier:
            by_notebook.setdefault(step.notebook, []).append(earlier[step.name] / step.weight)
    known = [value for values in by_notebook.values() for value in values]
    unit = statistics.median(known) if known else FIRST_GUESS
    return {
        step.name: earlier.get(
            step.name, step.weight * statistics.median(by_notebook.get(step.notebook, [unit]))
        )
        for step in steps
    }


def seconds_to_the_end(steps: Iterable[Step], expected: Mapping[str, float]) -> dict[str, float]:
    """Step → seconds from its start to the end of the longest chain of steps that wait for it.

    With several workers, the study ends soonest if the step with the most seconds starts first.

    Args:
        steps: each comes after those that it needs.
        expected: step → seconds that it will take.
    """
    steps = list(steps)
    after = dict.fromkeys(expected, 0.0)
    for step in reversed(steps):
        whole = expected[step.name] + after[step.name]
        for name in step.needs:
            if name in after:
                after[name] = max(after[name], whole)
    return {step.name: expected[step.name] + after[step.name] for step in steps}


def seconds_left(
    expected: Mapping[str, float],
    done: Mapping[str, float],
    running: Mapping[str, tuple[float, float]],
    workers: int,
) -> float:
    """Seconds until the last step is done.

    Args:
        expected: step → seconds, for every step of the call; what is neither done nor running waits.
        done: step → seconds that it took. They correct what is expected of the others.
        running: step → (seconds since its start, share that is done, 0 to 1).
        workers: steps at a time.
    """
    usual = statistics.fmean(expected.values()) if expected else 0.0
    took, thought = sum(done.values()), sum(expected[name] for name in done)
    factor = (took + usual) / (thought + usual) if usual else 1.0  # one usual step speaks for the guess
    left = {}
    for name, seconds in expected.items():
        if name in done:
            continue
        since, share = running.get(name, (0.0, 0.0))
        if share > 0.05:  # before, the time to start counts for too much
            left[name] = since * (1 - share) / share
        else:
            left[name] = max(seconds * factor - since, 0.1 * seconds)
    return max([sum(left.values()) / workers, *left.values()], default=0.0)


def in_words(seconds: float) -> str:
    """A time for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
