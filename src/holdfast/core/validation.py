"""Numbers that configure something: which of them are any use."""

from __future__ import annotations

import math

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
