"""The check of settings, on a small class: types, rules, stored values and messages."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest

from reidlib.errors import ReidError
from reidlib.settings import (
    Amount,
    ConfigError,
    Count,
    PositiveAmount,
    Probability,
    Rule,
    Size,
    at_least,
    between,
    check_settings,
    choose,
)

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
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(name, value, expected):
    with pytest.raises(OvenError) as error:
        Oven(**{name: value})
    assert str(error.value) == f"{name} = {value!r}: expected {expected}."


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
    ],
)
def test_an_accepted_value_is_stored_as_the_declared_type(name, value, kept):
    stored = getattr(Oven(**{name: value}), name)
    assert stored == kept
    assert type(stored) is type(kept)


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
