"""Checks settings against the rules in their type hints.

Examples of rules: `Annotated[int, at_least(1)]`, `Literal["adam", "sgd"]`. All frozen dataclasses of settings
use `check_settings`: `Experiment`, `SyntheticSpec` and those of the classification.
"""

import difflib
import functools
import math
import numbers
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from types import UnionType
from typing import Annotated, Any, Literal

from reidlib.errors import ReidError


class ConfigError(ReidError):
    """An unknown or impossible setting."""


@dataclass(frozen=True)
class Rule:
    """Which values a setting may have, as a function and in words (for "expected …" in errors)."""

    accepts: Callable[[Any], bool]
    expected: str
    bounded: bool = False  # it has an upper bound, so that of all settings (`LARGEST`) does not apply


def at_least(least: int, unit: str = "") -> Rule:
    return Rule(lambda value: value >= least, f"at least {least} {unit}".strip())


def at_most(most: int) -> Rule:
    """For a number, or for every number of a tuple."""
    return Rule(
        lambda value: all(one <= most for one in (value if isinstance(value, tuple) else (value,))),
        f"at most {most}",
        bounded=True,
    )


def between(low: int, high: int) -> Rule:
    return Rule(lambda value: low <= value <= high, f"a whole number from {low} to {high}", bounded=True)


# Upper bounds of every setting that has no narrower or wider one. What lies beyond is a slip of the keyboard:
# it would end in a full memory or in years of work, and no message would name the setting.
LARGEST = 10**6  # of a number, whatever its sign
LONGEST_TEXT = 4096  # characters, as long as a path may be
MOST_ENTRIES = 1000  # of a tuple
LARGEST_SEED = 2**32 - 1  # that all random generators take

POSITIVE = Rule(lambda value: 0 < value < math.inf, "a value above 0")
NOT_NEGATIVE = Rule(lambda value: 0 <= value < math.inf, "0 or more")
PROBABILITY = Rule(lambda value: 0 <= value <= 1, "a value from 0 to 1")

Count = Annotated[int, NOT_NEGATIVE]
Size = Annotated[int, POSITIVE]
Amount = Annotated[float, NOT_NEGATIVE]
PositiveAmount = Annotated[float, POSITIVE]
Probability = Annotated[float, PROBABILITY]
Seed = Annotated[int, NOT_NEGATIVE, at_most(LARGEST_SEED)]

_IN_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    dict: "a dictionary",
}


def check_settings(settings: Any, error: type[ReidError] = ConfigError) -> None:
    """Checks every field of a frozen dataclass against its type and rules. Call it in `__post_init__`.

    A whole number may stand for a float, and a list for a tuple; the field then gets the declared type. Every
    value has an upper bound: that of its rules, or else `LARGEST`, `LONGEST_TEXT` or `MOST_ENTRIES`.

    Raises:
        error: a value has another type or breaks a rule. The message names the field, the value and what was
            expected.
    """
    declared = _declared(type(settings))
    for field in fields(settings):
        hint, rules = declared[field.name]
        value = getattr(settings, field.name)
        kept = _as_declared(value, hint)
        if kept is _NOT_OF_THE_TYPE:
            expected = rules[0].expected if typing.get_origin(hint) is tuple and rules else _in_words(hint)
            got = "" if typing.get_origin(hint) is Literal else f", got {type(value).__name__}"
            raise error(f"{field.name} = {in_short(value)}: expected {expected}{got}.")
        broken = next((rule.expected for rule in rules if not rule.accepts(kept)), "")
        broken = broken or _beyond_reason(kept, bounded=any(rule.bounded for rule in rules))
        if broken:
            raise error(f"{field.name} = {in_short(value)}: expected {broken}.")
        object.__setattr__(settings, field.name, kept)


def in_short(value: Any, most: int = 100) -> str:
    """The value as Python writes it, cut to about `most` characters, for messages."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list of thousands of levels
        return f"({type(value).__name__} too long to show)"
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns `name` if it is among `known`.

    Raises:
        ConfigError: it is not. The message lists the known names and suggests the nearest.
    """
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(in_short(name), map(repr, known), n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(f"Unknown {kind} {in_short(name)}.{hint} Known: {', '.join(known)}.")


@functools.cache
def _declared(owner: type) -> dict[str, tuple[Any, tuple[Rule, ...]]]:
    """Field → its type and its rules."""
    declared = {}
    for name, hint in typing.get_type_hints(owner, include_extras=True).items():
        rules: tuple[Rule, ...] = ()
        if typing.get_origin(hint) is Annotated:
            hint, *rules = typing.get_args(hint)
        declared[name] = hint, tuple(rules)
    return declared


def _beyond_reason(value: Any, *, bounded: bool) -> str:
    """The upper bound that a value of any setting breaks, in words; "" if none.

    Args:
        bounded: the setting's own rules bound its numbers.
    """
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"at most {LONGEST_TEXT} characters"
    if isinstance(value, tuple) and len(value) > MOST_ENTRIES:
        return f"at most {MOST_ENTRIES} entries"
    numbers_in = [
        one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, int | float)
    ]
    if bounded or all(-LARGEST <= one <= LARGEST for one in numbers_in):
        return ""
    return f"numbers of at most {LARGEST}" if isinstance(value, tuple) else f"at most {LARGEST}"


_NOT_OF_THE_TYPE = object()


def _as_declared(value: Any, hint: Any) -> Any:
    """The value converted to the declared type, or `_NOT_OF_THE_TYPE`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        same = any(type(value) is type(choice) and value == choice for choice in arguments)
        return value if same else _NOT_OF_THE_TYPE
    if origin in (UnionType, typing.Union):
        kept = (_as_declared(value, one) for one in arguments)
        return next((one for one in kept if one is not _NOT_OF_THE_TYPE), _NOT_OF_THE_TYPE)
    if origin is tuple:  # tuple[int, ...]
        if not isinstance(value, tuple | list):
            return _NOT_OF_THE_TYPE
        kept = tuple(_as_declared(one, arguments[0]) for one in value)
        return _NOT_OF_THE_TYPE if _NOT_OF_THE_TYPE in kept else kept
    if isinstance(value, bool) or hint is bool:
        return value if isinstance(value, bool) and hint is bool else _NOT_OF_THE_TYPE
    if hint is int:
        return int(value) if isinstance(value, numbers.Integral) else _NOT_OF_THE_TYPE
    if hint is float:
        if not isinstance(value, numbers.Real):
            return _NOT_OF_THE_TYPE
        try:
            return float(value) + 0.0  # -0.0 becomes 0.0: records compare settings as text, too
        except OverflowError:  # a whole number of hundreds of digits
            return math.inf
    return value if isinstance(value, hint) else _NOT_OF_THE_TYPE


def _in_words(hint: Any) -> str:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if arguments:
        return " or ".join(_in_words(one) for one in arguments)
    return _IN_WORDS.get(hint, hint.__name__)
