"""How often a 95 % interval of the difference of two methods holds the true one, in simulated studies.

    python benchmarks/bench_coverage.py                       1,000 studies a cell; about a minute on one core
    python benchmarks/bench_coverage.py --repetitions 5000    coverage to ± 0.6 points (two standard errors)

Each study draws S seeds and P people with 1 to 6 queries each. The difference of a query is the sum of
normal effects of its seed, its person, person and seed, the query, and query and seed, in points of mAP. In
"as average precision" the effects of a person are mostly 0, heavy-tailed, and larger with more queries.

The first table shows `reidlib.crossed`: coverage in % and mean half width in points. The second compares
it with other intervals: lowest and highest coverage over all cells of as many seeds, and mean half width. It
leaves out the setting without people's variance, in which all but the interval over people agree.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reidlib.crossed import crossed_effect, half_width, person_values, variance_components

QUERY_SD = 10.0  # of a query, and of a query and seed, where people vary
STUDIES_AT_ONCE = 20  # they share the people's numbers of queries
RESAMPLES = 200
OWN = "seeds and people"


class Setting(NamedTuple):
    """Standard deviations in points: of the mAP of a seed, of a person, and of a person in one seed."""

    seed: float
    person: float
    interaction: float
    as_precision: bool = False

    def __str__(self) -> str:
        words = f"seed {self.seed:g}, person {self.person:g}, interaction {self.interaction:g}"
        return words + (", as average precision" if self.as_precision else "")


SETTINGS = (
    Setting(0, 20, 20),
    Setting(0.5, 20, 20),
    Setting(1, 20, 20),
    Setting(2, 20, 20),
    Setting(1, 20, 20, as_precision=True),
    Setting(1, 10, 10),
    Setting(2, 10, 10),
    Setting(1, 10, 25),
    Setting(1, 0, 0),
)


def effects(rng: np.random.Generator, sd: float, shape: tuple[int, ...], as_precision: bool) -> np.ndarray:
    """Draws with this standard deviation: normal, or 0 for seven of ten and Student's t with 4 degrees."""
    if not as_precision:
        return sd * rng.standard_normal(shape)
    return sd * (rng.random(shape) < 0.3) * rng.standard_t(4, shape) / (0.3 * 2) ** 0.5


def studies(
    rng: np.random.Generator, setting: Setting, seeds: int, people: int, count: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """(count, S, Q) differences of the queries, (Q,) people, and the true difference."""
    numbers = rng.integers(1, 7, people)
    person = np.repeat(np.arange(people), numbers)
    kind, queries = setting.as_precision, len(person)
    of_person = effects(rng, setting.person, (count, 1, people), kind)
    of_both = effects(rng, setting.interaction, (count, seeds, people), kind)
    found = (of_person + of_both)[..., person]
    found += setting.seed * rng.standard_normal((count, seeds, 1))
    if setting.person:
        found += QUERY_SD * rng.standard_normal((count, 1, queries))
        found += QUERY_SD * rng.standard_normal((count, seeds, queries))
    if not kind:
        return found, person, 0.0
    # n of 1..6 has mean 3.5 and variance 35 / 12: over queries 2 (n - 3.5) has the mean 2 · variance / 3.5.
    return found + 2 * (numbers[person] - 3.5), person, 2 * 35 / 12 / 3.5


def intervals(
    rng: np.random.Generator, differences: np.ndarray, person: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, low and high (studies,) of each kind of interval."""
    values = person_values(differences, person)
    _, seeds, people = values.shape
    mean = values.mean(axis=(1, 2))
    variances = seed, of_person, interaction = variance_components(values)
    of_seeds = np.var(values.mean(axis=2), axis=1, ddof=1) / seeds
    of_people = np.var(values.mean(axis=1), axis=1, ddof=1) / people
    remainder = interaction / (seeds * people)
    both = seed / seeds + of_person / people + remainder
    freedom = (of_seeds**2 / (seeds - 1) + of_people**2 / (people - 1)) + remainder**2 / (
        (seeds - 1) * (people - 1)
    )
    freedom = np.maximum(both**2 / np.where(freedom, freedom, 1), seeds - 1)
    t_seeds, t_people = stats.t.isf(0.025, [seeds - 1, people - 1])
    halves = {
        OWN: half_width(variances, seeds, people),
        "Satterthwaite": stats.t.isf(0.025, freedom) * both**0.5,
        "larger of both": np.maximum(t_seeds * of_seeds**0.5, t_people * of_people**0.5),
        "t of seeds for both": t_seeds * both**0.5,
        "two-way clusters, normal": 1.96 * both**0.5,
        "seeds only": t_seeds * of_seeds**0.5,
        "people only": t_people * of_people**0.5,
    }
    for name, half in halves.items():
        yield name, mean - half, mean + half
    drawn = rng.multinomial(people, np.full(people, 1 / people), RESAMPLES).astype(np.float64)
    numbers = np.bincount(person)
    sums = np.add.reduceat(differences, np.concatenate([[0], numbers.cumsum()[:-1]]), axis=-1)
    trained = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    of_each = (sums.reshape(-1, people) @ drawn.T).reshape(-1, seeds, RESAMPLES)
    means = np.einsum("nsr,rs->nr", of_each, trained) / (drawn @ numbers)
    yield "crossed bootstrap", *np.quantile(means, [0.025, 0.975], axis=1)


def cell(setting: Setting, seeds: int, people: int, repetitions: int) -> dict[str, tuple[float, float]]:
    """Name of an interval → its coverage and its mean half width in points."""
    rng = np.random.default_rng([seeds, people, SETTINGS.index(setting)])
    held: dict[str, list[np.ndarray]] = {}
    for start in range(0, repetitions, STUDIES_AT_ONCE):
        count = min(STUDIES_AT_ONCE, repetitions - start)
        differences, person, truth = studies(rng, setting, seeds, people, count)
        for name, low, high in intervals(rng, differences, person):
            held.setdefault(name, []).append(np.stack([(low <= truth) & (truth <= high), (high - low) / 2]))
            if name == OWN and not start:  # the public function says the same
                one = crossed_effect(differences[0], np.zeros_like(differences[0]), person)
                np.testing.assert_allclose([low[0], high[0]], [one.low, one.high], rtol=1e-9, atol=1e-9)
    return {name: tuple(np.concatenate(found, axis=1).mean(axis=1)) for name, found in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=1000, help="studies of each cell")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5, 10])
    parser.add_argument("--people", type=int, nargs="+", default=[60, 200, 700])
    args = parser.parse_args()
    began = time.perf_counter()
    cells = {
        (setting, seeds, people): cell(setting, seeds, people, args.repetitions)
        for setting in SETTINGS
        for seeds in args.seeds
        for people in args.people
    }
    print("| standard deviations (points) | seeds | " + " | ".join(f"{n} people" for n in args.people) + " |")
    print("|---|---|" + "---|" * len(args.people))
    for setting in SETTINGS:
        for seeds in args.seeds:
            found = [cells[setting, seeds, people][OWN] for people in args.people]
            shown = " | ".join(f"{100 * covered:.1f} (± {half:.2f})" for covered, half in found)
            print(f"| {setting} | {seeds} | {shown} |")
    print("\n| interval | " + " | ".join(f"{seeds} seeds" for seeds in args.seeds) + " |")
    print("|---|" + "---|" * len(args.seeds))
    for name in next(iter(cells.values())):
        row = []
        for seeds in args.seeds:
            found = [cells[key][name] for key in cells if key[1] == seeds and key[0].person]
            covered = [100 * one for one, _ in found]
            half = np.mean([half for _, half in found])
            row.append(f"{min(covered):.1f} to {max(covered):.1f} (± {half:.2f})")
        print(f"| {name} | " + " | ".join(row) + " |")
    print(f"\n{args.repetitions} studies a cell, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
