"""Options: what they take, and that nonsense fails at start and names the option."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

from holdfast import Broadcaster, ConfigurationError
from holdfast.runtime.options import Options

WHOLE = (
    "buffer_capacity buffer_bytes max_message_bytes max_connections max_connections_per_user"
    " max_topics history_limit history_bytes window_bytes"
).split()
SECONDS = (
    "token_lifetime token_grace heartbeat_interval idle_timeout send_timeout cleanup_interval"
    " flush_interval history_age"
).split()
ZERO = {"history_limit", "history_bytes", "token_grace"}
OFF = {"heartbeat_interval", "idle_timeout", "send_timeout", "flush_interval", "window_bytes"}
NONSENSE: list[Any] = [
    -1, -0.5, float("nan"), float("inf"), float("-inf"), "5", "", True, False, [], b"1", 1j,
]  # fmt: skip


def made(name: str, value: Any) -> Broadcaster:
    """A Broadcaster with one option."""
    options: dict[str, Any] = {name: value}
    return Broadcaster(**options)


def test_names_are_the_same_everywhere() -> None:
    """The signature of `Broadcaster`, its docstring and the record of its options agree."""
    parameters = inspect.signature(Broadcaster).parameters
    document = inspect.getdoc(Broadcaster) or ""
    for field in fields(Options):
        assert parameters[field.name].default == field.default, field.name
        assert parameters[field.name].annotation == field.type, field.name
        assert f"\n    {field.name}: " in document, field.name
    assert {field.name for field in fields(Options)} == {*WHOLE, *SECONDS, "drain_at_signal"}


@pytest.mark.parametrize("name", [*WHOLE, *SECONDS])
@pytest.mark.parametrize("value", NONSENSE, ids=repr)
def test_nonsense_is_refused_by_name(name: str, value: Any) -> None:
    """No option takes what is no number in its range; the error names it."""
    with pytest.raises(ConfigurationError, match=name):
        made(name, value)


@pytest.mark.parametrize("name", [*WHOLE, *SECONDS])
def test_zero(name: str) -> None:
    """Zero is refused, but where it is documented."""
    if name in ZERO:
        made(name, 0)
    else:
        with pytest.raises(ConfigurationError, match=name):
            made(name, 0)


@pytest.mark.parametrize("name", WHOLE)
def test_fractions_of_what_is_counted_are_refused(name: str) -> None:
    """Messages, bytes and connections come whole."""
    with pytest.raises(ConfigurationError, match=name):
        made(name, 1.5)


@pytest.mark.parametrize("name", sorted(OFF))
def test_none_is_off(name: str) -> None:
    """What can be switched off takes None."""
    assert getattr(made(name, None).options, name) is None


@pytest.mark.parametrize("name", ["cleanup_interval", "buffer_capacity", "max_topics"])
def test_none_is_refused_where_nothing_can_be_off(name: str) -> None:
    """What cannot be switched off refuses None."""
    with pytest.raises(ConfigurationError, match=name):
        made(name, None)


@pytest.mark.parametrize("name", SECONDS)
def test_seconds_may_be_fractions(name: str) -> None:
    """Half a second is a time."""
    assert getattr(made(name, 0.5).options, name) == 0.5


def test_message_that_could_never_be_delivered() -> None:
    """A message limit over the buffer's bytes names both."""
    with pytest.raises(ConfigurationError, match=r"max_message_bytes=2000 .* buffer_bytes"):
        Broadcaster(max_message_bytes=2000, buffer_bytes=1000)
    Broadcaster(max_message_bytes=1000, buffer_bytes=1000)


def test_unknown_option() -> None:
    """A misspelt option is an error."""
    with pytest.raises(TypeError, match="no option 'heartbeat': did you mean 'heartbeat_interval'"):
        Broadcaster(heartbeat=5)  # type: ignore[arg-type]


def test_memory_broker_gets_its_options() -> None:
    """What configures the memory broker reaches it."""
    whole = Broadcaster(
        history_limit=5, history_age=6.0, history_bytes=7, token_lifetime=8.0, token_grace=9.0
    )
    broker: Any = whole._broker
    keep, limits = broker.history.retention, broker.tokens.registry.limits
    assert (keep.limit, keep.age, keep.max_bytes) == (5, 6.0, 7)
    assert (limits.lifetime, limits.grace) == (8.0, 9.0)
