"""Checks of configuration: numbers, and the names of options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import NoReturn, TypeVar

from ..errors import ConfigurationError

T = TypeVar("T")


def is_number(value: object, *, whole: bool = False) -> bool:
    """True if `value` is a finite int, or float unless `whole`. A bool is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int,) if whole else (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that is larger than every float
        return False


def check_number(name: str, value: object, *, whole: bool = False, zero: bool = False) -> None:
    """Raise `ConfigurationError` unless `value` is a number over 0, or 0 where `zero` allows it."""
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


def suggest_options(cls: type[T]) -> type[T]:
    """Answer a misspelt keyword of the constructor of `cls` with the nearest one that exists."""
    construct = cls.__init__
    known = frozenset(construct.__annotations__) - {"return"}

    @wraps(construct)
    def checked(self: T, *args: object, **options: object) -> None:
        if not options.keys() <= known:
            check_keywords(cls.__name__, options, known)
        construct(self, *args, **options)

    setattr(cls, "__init__", checked)  # noqa: B010 - mypy rejects the assignment, pyright does not
    return cls


def reject(name: str, value: object, form: str) -> NoReturn:
    """Raise `TypeError` for an argument of the wrong type; `form` is the accepted form."""
    raise TypeError(f"{name}={value!r:.80}: it must be {form}")


def check_type(name: str, value: object, kind: type | tuple[type, ...], form: str) -> None:
    """Raise `TypeError` unless `value` is an instance of `kind`."""
    if not isinstance(value, kind):
        reject(name, value, form)


def check_name(name: str, value: object, form: str) -> None:
    """Raise `TypeError` unless `value` is a string with at least one character."""
    if not isinstance(value, str) or not value:
        reject(name, value, form)


def check_function(name: str, value: object, form: str) -> Callable[..., object]:
    """Return `value` if it can be called and is not a class; raise `TypeError` otherwise."""
    if isinstance(value, type) or not callable(value):
        reject(name, value, form)
    return value
