"""Numbers as text, the same everywhere: percentages, points, intervals, p-values. Names from data as text.

An effect that rounds to 0 is "+0.0": the `z` in a format takes the sign of a negative zero away.
"""

import math
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from reidlib.crossed import CrossedEffect
from reidlib.errors import shown
from reidlib.statistics import Interval, seed_summary

# The notebooks show tables as HTML, and a cell may hold a name from data, such as the path of weights.
pd.set_option("styler.format.escape", "html")

DASH, NOT_RUN = "–", "not run"
NOT_COMPUTED = "not computed"  # a setting of the call switched this number of ours off


def percent(fraction: float | None, interval: Sequence[float] | None = None) -> str:
    """0.8731 → "87.3", with an interval "87.3 [84.0, 90.2]"; "–" for None.

    interval: None or NaN bounds: there is none, as with a single person.
    """
    if fraction is None:
        return DASH
    text = f"{100 * fraction:.1f}"
    known = interval is not None and not any(map(math.isnan, interval))
    return f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if known else text


def points(difference: float, low: float, high: float, over: str = "") -> str:
    """A difference of fractions in points: "+1.2 [-0.3, +2.7]"; with NaN bounds "+1.2".

    over: what the interval is over, if that has to be said: "+1.2, over people [-0.3, +2.7]".
    """
    text = f"{100 * difference:+z.1f}"
    if math.isnan(low):
        return text
    return f"{text}{f', over {over}' if over else ''} [{100 * low:+z.1f}, {100 * high:+z.1f}]"


def effect_points(effect: CrossedEffect, over_people: Interval | None = None) -> str:
    """`points` of a difference with its interval over seeds and people; of one seed, over people by name."""
    if over_people is None:
        return points(*effect[:3])
    return points(*over_people, over="people")


def p_value(p: float) -> str:
    """0.0312 → "0.031", "< 0.001" below that, "–" for NaN: there is none."""
    if math.isnan(p):
        return DASH
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def percent_over_seeds(values: Sequence[float]) -> str:
    """Mean ± standard deviation and Student's 95 % interval, in %; a single seed only has the mean."""
    over = seed_summary(values)
    text = percent(over.mean)
    return (
        text
        if over.std is None
        else f"{text} ± {100 * over.std:.1f} [{100 * over.low:.1f}, {100 * over.high:.1f}]"
    )


def percent_of_seeds(values: Sequence[float], interval: Sequence[float] | None = None) -> str:
    """A row's score in %: mean ± standard deviation over its seeds, "60.0 ± 10.0 (3 seeds)".

    A single seed has no deviation: its value with its interval over people, as from `percent`.
    """
    over = seed_summary(values)
    if over.std is None:
        return percent(over.mean, interval)
    return f"{percent(over.mean)} ± {100 * over.std:.1f} ({over.seeds} seeds)"


def numbered_seeds(seeds: Iterable[int]) -> str:
    """The seeds in words, in ascending order: "seed 0", "seeds 0, 1", "seeds 0–2, 5"."""
    groups: list[list[int]] = []  # of consecutive seeds
    for seed in sorted(set(seeds)):
        if groups and seed == groups[-1][-1] + 1:
            groups[-1].append(seed)
        else:
            groups.append([seed])
    parts = [f"{own[0]}–{own[-1]}" if len(own) > 2 else ", ".join(map(str, own)) for own in groups]
    return f"seed{'s' if sum(map(len, groups)) > 1 else ''} {', '.join(parts)}"


def runs_in_short(names: Iterable[str]) -> str:
    """Names of runs as text, a row's several seeds together: "gap-seed0, pfsa (seeds 0–2, 5)"."""
    seeds: dict[str, list[int]] = {}  # row → seeds
    for name in names:
        row, _, seed = name.rpartition("-seed")
        seeds.setdefault(row, []).append(int(seed))
    return ", ".join(
        f"{row} ({numbered_seeds(own)})" if len(own) > 1 else f"{row}-seed{own[0]}"
        for row, own in seeds.items()
    )


def in_markdown(name: str) -> str:
    """A name from data, such as a file's, for Markdown. No sign of it begins an element or a formula.

    Signs become character references. What cannot be printed (line breaks, bytes that are no UTF-8) is
    written as in messages, see `errors.shown`.
    """
    # Within a word, these three stay for the sake of who reads the source.
    signs = r"[^\w .,-]|_|^ |(?<!\w)[.,-]|[.,-](?!\w)"
    return re.sub(signs, lambda found: f"&#{ord(found[0])};", shown(name))
