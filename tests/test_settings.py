"""The check of settings, on a small class: types, rules, stored values and messages."""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import numpy as np
import pytest

from reidlib.classification.pooling_runs import Settings
from reidlib.errors import ReidError
from reidlib.experiment import Experiment
from reidlib.settings import (
    LARGEST,
    LARGEST_SEED,
    LONGEST_TEXT,
    MOST_ENTRIES,
    Amount,
    ConfigError,
    Count,
    PositiveAmount,
    Probability,
    Rule,
    Seed,
    Size,
    at_least,
    at_most,
    between,
    check_settings,
    choose,
    in_short,
)
from reidlib.synthetic import SyntheticSpec

EVEN = Rule(lambda value: value % 2 == 0, "an even number")


class OvenError(ReidError):
    pass


@dataclass(frozen=True, kw_only=True)
class Oven:
    trays: Count = 0
    width: Size = 60
    heat: Amount = 180.0
    hours: PositiveAmount = 1.5
    humidity: Probability = 0.5
    shelf: Annotated[int, between(1, 4)] = 2
    rolls: Annotated[int, at_least(2, "rolls"), EVEN] = 12
    fan: bool = False
    mode: Literal["bake", "grill"] = "bake"
    recipe: bool | str = False
    pauses: Annotated[tuple[int, ...], Rule(lambda value: len(value) < 3, "at most two numbers")] = ()
    limit: float | None = None
    seed: Seed = 0
    batches: Annotated[int, at_least(1), at_most(50)] = 1
    times: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self, OvenError)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("trays", -1, "0 or more"),
        ("trays", 1.0, "a whole number, got float"),
        ("trays", True, "a whole number, got bool"),
        ("width", 0, "a value above 0"),
        ("heat", -0.5, "0 or more"),
        ("heat", float("nan"), "0 or more"),
        ("heat", float("inf"), "0 or more"),
        ("heat", "hot", "a number, got str"),
        ("heat", False, "a number, got bool"),
        ("hours", 0, "a value above 0"),
        ("humidity", 1.01, "a value from 0 to 1"),
        ("humidity", float("nan"), "a value from 0 to 1"),
        ("shelf", 5, "a whole number from 1 to 4"),
        ("shelf", 0, "a whole number from 1 to 4"),
        ("rolls", 1, "at least 2 rolls"),
        ("rolls", 3, "an even number"),
        ("fan", 1, "True or False, got int"),
        ("mode", "boil", "one of bake, grill"),
        ("mode", None, "one of bake, grill"),
        ("recipe", 1, "True or False or a string, got int"),
        ("pauses", (1, 2, 3), "at most two numbers"),
        ("pauses", (1, 2.5), "at most two numbers, got tuple"),
        ("pauses", 5, "at most two numbers, got int"),
        ("trays", LARGEST + 1, "at most 1000000"),
        ("width", 10**400, "at most 1000000"),
        ("heat", 1e300, "at most 1000000"),
        ("heat", 10**400, "0 or more"),  # no float holds it
        ("limit", -1e7, "at most 1000000"),
        ("limit", float("nan"), "at most 1000000"),
        ("rolls", 10**7, "at most 1000000"),
        ("batches", 51, "at most 50"),
        ("seed", LARGEST_SEED + 1, "at most 4294967295"),
        ("recipe", "x" * (LONGEST_TEXT + 1), "at most 4096 characters"),
        ("times", (1, LARGEST + 1), "numbers of at most 1000000"),
        ("times", (1,) * (MOST_ENTRIES + 1), "at most 1000 entries"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(name, value, expected):
    with pytest.raises(OvenError) as error:
        Oven(**{name: value})
    assert str(error.value) == f"{name} = {in_short(value)}: expected {expected}."


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("trays", np.int64(3), 3),
        ("heat", 200, 200.0),
        ("heat", np.float32(0.5), 0.5),
        ("hours", 1e-9, 1e-9),
        ("humidity", 0, 0.0),
        ("humidity", 1, 1.0),
        ("shelf", 4, 4),
        ("recipe", True, True),
        ("recipe", "bread", "bread"),
        ("pauses", [3, 5], (3, 5)),
        ("pauses", (), ()),
        ("limit", None, None),
        ("limit", 3, 3.0),
        ("trays", LARGEST, LARGEST),
        ("seed", LARGEST_SEED, LARGEST_SEED),
        ("recipe", "x" * LONGEST_TEXT, "x" * LONGEST_TEXT),
        ("times", (LARGEST,) * MOST_ENTRIES, (LARGEST,) * MOST_ENTRIES),
    ],
)
def test_an_accepted_value_is_stored_as_the_declared_type(name, value, kept):
    stored = getattr(Oven(**{name: value}), name)
    assert stored == kept
    assert type(stored) is type(kept)


def test_a_negative_zero_is_stored_as_zero():
    """Records are compared as text, too, where -0.0 differs from 0.0."""
    assert math.copysign(1, Oven(humidity=-0.0).humidity) == 1


DEEP: list = []
for _ in range(10_000):
    DEEP = [DEEP]
BEYOND_REASON = (
    10**12, -(10**12), 10**5000, 1e300, -1e300, math.inf, math.nan, "x" * 10**6, (10**12,), (1,) * 10**5,
    (10**5000,), ["x" * 10**6], DEEP, {"a": DEEP}, b"x" * 10**6, 1j, object(), {1: 10**5000}, range(10**12),
)  # fmt: skip


@pytest.mark.parametrize("settings", [Experiment, SyntheticSpec, Settings])
def test_no_setting_takes_a_value_beyond_reason(settings):
    """A new setting has an upper bound, too. The message stays one short line that names the setting."""
    for field in fields(settings):
        for value in BEYOND_REASON:
            with pytest.raises(ReidError) as error:
                settings(**{field.name: value})
            message = str(error.value)
            assert message.startswith(f"{field.name} = ") and "expected" in message
            assert len(message) < 300 and "\n" not in message


@pytest.mark.parametrize("value", BEYOND_REASON, ids=range(len(BEYOND_REASON)))
def test_an_unknown_name_of_any_kind_gives_a_short_line(value):
    with pytest.raises(ConfigError) as error:
        choose("profile", value, ["demo", "full"])
    assert len(str(error.value)) < 300 and str(error.value).endswith("Known: demo, full.")


def test_a_wrong_setting_is_a_config_error_by_default():
    @dataclass(frozen=True)
    class Plain:
        count: Size = 1

        def __post_init__(self) -> None:
            check_settings(self)

    assert Plain(2).count == 2
    with pytest.raises(ConfigError, match=r"^count = 0: expected a value above 0\.$"):
        Plain(0)


def test_a_known_name_is_chosen_and_another_refused_with_the_nearest():
    known = {"demo": 1, "full": 2}
    assert choose("profile", "demo", known) == "demo"
    with pytest.raises(ConfigError) as error:
        choose("profile", "dmeo", known)
    assert str(error.value) == "Unknown profile 'dmeo'. Did you mean 'demo'? Known: demo, full."
    with pytest.raises(ConfigError) as error:
        choose("profile", "", iter(known))
    assert str(error.value) == "Unknown profile ''. Known: demo, full."
