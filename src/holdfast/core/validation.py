"""Checks of configuration: numbers, and the names of options."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches

from ..errors import ConfigurationError


def is_number(value: object, *, whole: bool = False) -> bool:
    """Whether `value` is finite, an int (or, unless `whole`, a float), and no bool."""
    if isinstance(value, bool) or not isinstance(value, (int,) if whole else (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def check_number(name: str, value: object, *, whole: bool = False, zero: bool = False) -> None:
    """Raise `ConfigurationError` unless `value` is a number over 0, or of 0 if that is allowed."""
    if is_number(value, whole=whole):
        assert isinstance(value, (int, float))
        if value > 0 or (zero and value == 0):
            return
    form = f"{'a whole' if whole else 'a'} number {'of 0 or more' if zero else 'over 0'}"
    raise ConfigurationError(f"{name}={value!r:.40}: it must be {form}")


def check_keywords(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `TypeError` for the first keyword that `function` does not have.

    The error names the nearest keyword that exists: `heartbeat` → `heartbeat_interval`.
    """
    names = sorted(known)
    for name in given:
        if name not in names:
            near = [other for other in names if name in other]
            near = near or get_close_matches(name, names, n=1, cutoff=0.0)
            raise TypeError(f"{function}() has no option {name!r}: did you mean {near[0]!r}?")
