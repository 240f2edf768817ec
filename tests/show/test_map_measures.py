"""Measures of maps with intervals: numbers by hand, what the table and the sentence say of them."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from reidlib.crossed import crossed_effect
from reidlib.show import map_measures
from reidlib.show.map_measures import AREA, FLAT
from reidlib.statistics import bootstrap_interval

PEOPLE = np.arange(20) // 2
RNG = np.random.default_rng(0)
MASKS = {"person": np.array([[[True, False], [False, False]], [[True, True], [False, False]]])}  # 3 of 8


def run(name, seed=0, learned=True):
    return SimpleNamespace(name=f"{name}-seed{seed}", seed=seed, learned=learned)


def frame(area, person=0.5):
    """Measures of the queries: a mean, or one value a query."""
    values = {AREA: area, "person": person}
    return pd.DataFrame({"identity": PEOPLE, **{name: np.full(20, 1.0) * of for name, of in values.items()}})


def numbers_of(columns, measured, pairs=(("b", "a"),), masks=MASKS):
    return map_measures.measure_numbers(columns, measured, pairs, masks, resamples=200)


def at(numbers, measure, first, second=""):
    rows = numbers[(numbers[["measure", "first", "second"]] == [measure, first, second]).all(axis=1)]
    return rows.squeeze(axis=0)


def test_one_seed_has_intervals_over_people_and_differences_are_paired():
    low, gain = RNG.uniform(0.3, 0.5, 20), RNG.uniform(0.1, 0.2, 20)
    measured = {"a-seed0": frame(low), "b-seed0": frame(low + gain, person=0.25)}
    numbers = numbers_of({"a": [run("a")], "b": [run("b")]}, measured)
    for number, values in ((at(numbers, AREA, "a"), low), (at(numbers, AREA, "b", "a"), gain)):
        expected = bootstrap_interval(values, PEOPLE, resamples=200)
        assert number[["estimate", "low", "high"]].tolist() == pytest.approx(list(expected))
        assert (number["seeds"], number["state"]) == (1, "")
    assert at(numbers, "person", "b", "a")["estimate"] == pytest.approx(-0.25)
    assert at(numbers, AREA, FLAT)["estimate"] == 1
    assert at(numbers, "person", FLAT)["estimate"] == 3 / 8, "the mask's own area"


def test_several_seeds_have_intervals_over_seeds_and_people():
    """Runs of the same seed are paired, in whatever order they come; a seed of one side only has no pair."""
    values = RNG.uniform(0.3, 0.5, (2, 3, 20))
    measured = {
        f"{name}-seed{seed}": frame(values[side, seed]) for side, name in enumerate("ab") for seed in range(3)
    }
    columns = {"a": [run("a", 0), run("a", 1), run("a", 2)], "b": [run("b", 2), run("b", 0)]}
    numbers = numbers_of(columns, measured)
    one = at(numbers, AREA, "a")
    expected = crossed_effect(values[0], np.zeros((3, 20)), PEOPLE)
    assert one[["estimate", "low", "high"]].tolist() == pytest.approx(list(expected[:3]))
    both = at(numbers, AREA, "b", "a")
    expected = crossed_effect(values[1, [0, 2]], values[0, [0, 2]], PEOPLE)
    assert both[["estimate", "low", "high"]].tolist() == pytest.approx(list(expected[:3]))
    assert (one["seeds"], both["seeds"]) == (3, 2)
    table = map_measures.measures_table(numbers)
    assert list(table) == [
        "measure",
        "queries",
        FLAT,
        "a [95 %, 3 seeds and people]",
        "b [95 %, 2 seeds and people]",
        "b − a [95 %, 2 seeds and people]",
    ]


def test_queries_without_a_value_are_left_out_of_all_runs():
    """A map of zeros has no shares; most queries have no masks."""
    first, second = np.full(20, 0.2), np.full(20, 0.6)
    first[10:], second[4] = np.nan, np.nan
    first[4], first[5] = 0.9, 0.4
    measured = {"a-seed0": frame(0.5, first), "b-seed0": frame(0.5, second)}
    numbers = numbers_of({"a": [run("a")], "b": [run("b")]}, measured)
    assert at(numbers, "person", "a")["estimate"] == pytest.approx((8 * 0.2 + 0.9 + 0.4) / 10)
    assert at(numbers, "person", "b", "a")["estimate"] == pytest.approx((8 * 0.4 + 0.2) / 9)
    measured["b-seed0"]["person"] = np.nan
    numbers = numbers_of({"a": [run("a")], "b": [run("b")]}, measured)
    assert np.isnan(at(numbers, "person", "b", "a")["estimate"])
    table = map_measures.measures_table(numbers).set_index("measure")
    row = table.loc["on the person (% of the activation)"]
    assert (row["b − a [95 %, people]"], row["queries"]) == ("–", 10)


def test_a_query_without_a_value_in_one_seed_is_left_out_of_the_others():
    values = RNG.uniform(0.3, 0.5, (2, 20))
    values[1, 7] = np.nan
    measured = {f"a-seed{seed}": frame(values[seed]) for seed in (0, 1)}
    numbers = map_measures.measure_numbers({"a": [run("a", 0), run("a", 1)]}, measured, [], None)
    known = np.arange(20) != 7
    found = at(numbers, AREA, "a")
    assert found["estimate"] == pytest.approx(values[:, known].mean())
    assert found["queries"] == 19


def test_a_single_person_has_no_interval():
    measured = {"a-seed0": frame(0.4).assign(identity=1)}
    numbers = map_measures.measure_numbers({"a": [run("a")]}, measured, [], None)
    assert at(numbers, AREA, "a")[["estimate", "low"]].isna().tolist() == [False, True]


def test_what_was_not_run_or_did_not_learn_is_said_in_place_of_a_number():
    columns = {
        "a": [run("a")],
        "b": [run("b", learned=False)],
        "c": [],
        "d": [run("d", seed=1)],
        "e": [run("e"), run("e", seed=1, learned=False)],
    }
    measured = {one.name: frame(0.25) for runs in columns.values() for one in runs}
    measured["e-seed1"] = frame(0.75)
    pairs = [(name, "a") for name in "bcde"]
    numbers = numbers_of(columns, measured, pairs)
    table = map_measures.measures_table(numbers).iloc[0]
    assert table["b"] == "did not learn (25.0)"
    assert table["c"] == "not run"
    assert [table[f"{name} − a"] for name in "bcd"] == ["did not learn", "not run", "no seed in common"]
    assert table["e [95 %, people]"].startswith("25.0"), "without the seed that did not learn"
    assert table["e − a [95 %, people]"].startswith("+0.0")


def test_cells_of_the_table():
    low = np.full(20, 0.4)
    numbers = numbers_of(
        {"a": [run("a")], "b": [run("b")]},
        {"a-seed0": frame(low), "b-seed0": frame(low + 0.125)},
    )
    table = map_measures.measures_table(numbers).set_index("measure")
    assert table.loc["effective area (% of the map)"].tolist() == [
        20,
        "100.0",
        "40.0 [40.0, 40.0]",
        "52.5 [52.5, 52.5]",
        "+12.5 [+12.5, +12.5]",
    ]
    assert table.loc["on the person (% of the activation)", FLAT] == "37.5"


def told(differences, seeds, masks=MASKS, profile="demo", learned=True, person=0.5):
    """The takeaway if b's area is a's plus these differences, one a seed. person: b's share; a's is 0.5."""
    columns = {name: [run(name, seed, learned) for seed in range(seeds)] for name in "ab"}
    noise = np.linspace(-0.01, 0.01, 20)
    measured = {f"a-seed{seed}": frame(0.5 + noise) for seed in range(seeds)}
    measured |= {f"b-seed{seed}": frame(0.5 + differences[seed] + 0 * noise, person) for seed in range(seeds)}
    numbers = numbers_of(columns, measured, masks=masks)
    return map_measures.takeaway(numbers, [("b", "a")], "Diversity", profile)


def test_the_takeaway_judges_by_the_interval_over_seeds_and_people():
    wider, narrower = told([0.2, 0.21, 0.19], 3), told([-0.2, -0.21, -0.19], 3)
    assert "a 50.0 %, b 70.0 %" in wider
    assert "Diversity (b − a): +20.0 [" in wider and "over 3 seeds and people, wider, as the paper" in wider
    assert "narrower, the opposite of what the paper claims" in narrower
    unclear = told([0.2, -0.2, 0.1], 3)
    assert "one cannot tell: the interval holds 0" in unclear
    assert "claims" not in unclear and "wider" not in unclear.split("\n")[1]


def test_a_wider_map_with_less_on_the_person_is_no_confirmation():
    """A map that is active everywhere is the widest, and tells nothing of the person."""
    text = told([0.2, 0.21, 0.19], 3, person=0.3 + np.linspace(-0.01, 0.01, 20))
    assert "wider, but with less on the person, which is not what the paper claims" in text
    assert "(of the activation, -20.0 [" in text and "wider, as the paper claims" not in text
    more = told([0.2, 0.21, 0.19], 3, person=0.7)
    assert "wider, as the paper claims (of the activation, +20.0 [" in more
    assert "-20.0 [" in told([0.2], 1, person=0.3), "said of one seed, too"
    assert "lie on the person" not in told([0.2, 0.21, 0.19], 3, masks=None)


def test_one_seed_has_no_verdict_in_the_takeaway():
    """However far its interval over people is from 0."""
    for difference, word in ((0.2, "wider"), (-0.2, "narrower"), (1e-9, "as wide")):
        text = told([difference], 1)
        assert f"{word} in this one training" in text and "over people only: no verdict" in text
        assert "claims" not in text
    assert "smoke run means nothing" in told([0.2], 1, profile="smoke")
    assert "smoke" not in told([0.2], 1)


def test_the_takeaway_sets_the_share_on_the_person_beside_a_flat_maps():
    text = told([0.2], 1)
    assert "a 50.0 %, b 50.0 %. A flat map has 37.5 % there" in text
    without = told([0.2], 1, masks=None)
    assert "have no masks" in without and "flat map" not in without


def test_the_takeaway_concludes_nothing_from_runs_that_did_not_learn_or_are_not_there():
    text = told([0.2], 1, learned=False)
    assert "Diversity (b − a) cannot be judged: did not learn." in text
    assert "a 50.0 % (did not learn)" in text and "wider" not in text
    numbers = numbers_of({"a": [run("a")], "b": []}, {"a-seed0": frame(0.5)})
    text = map_measures.takeaway(numbers, [("b", "a")], "Diversity", "demo")
    assert "b not run" in text and "cannot be judged: not run." in text


def test_only_rendered_images_have_masks():
    photographs = SimpleNamespace(is_synthetic=False)
    assert map_measures.known_masks(photographs, np.array([0]), 8, 4) is None


def test_measures_of_a_run_are_its_record_and_shares_of_the_rows_asked_for(monkeypatch):
    made = SimpleNamespace(queries=frame(0.25).drop(columns="person"), model=lambda: "its network")
    images, asked = np.arange(20), []

    def shares(model, pixels, masks):
        asked.append((model, pixels.tolist()))
        return pd.DataFrame({"person": [0.1, 0.2]})

    monkeypatch.setattr(map_measures, "shares_on_masks", shares)
    found = map_measures.measures_of(made, images, np.array([3, 9]), MASKS)
    assert found.index[found["person"].notna()].tolist() == [3, 9] and len(found) == 20
    assert found.loc[[3, 9], "person"].tolist() == [0.1, 0.2] and (found[AREA] == 0.25).all()
    map_measures.measures_of(made, images, np.array([3, 9]), MASKS, "loaded already")
    assert asked == [("its network", [3, 9]), ("loaded already", [3, 9])]
    assert list(map_measures.measures_of(made, images, np.array([3]), None)) == ["identity", AREA]


def test_the_alternative_text_says_how_wide_the_drawn_maps_are():
    one, flat, empty = np.zeros((2, 2, 2)), np.ones((2, 2, 2)), np.zeros((2, 2, 2))
    one[0, 0, 0] = 0.7  # one of four places; the second map is empty
    text = map_measures.heat_text(
        "2 people with maps", {"x": one, "y": flat, "z": empty}, {"x": "GAP", "y": "SA", "z": "none"}
    )
    assert text.startswith("2 people with maps of 3 models, in jet and in viridis.")
    assert "GAP 25.0 % (1 without any positive place), SA 100.0 %, none none (2 without" in text
