"""Options of Broadcaster: the accepted values, and the errors that name the option."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

from holdfast import Broadcaster, ConfigurationError
from holdfast.runtime.options import Options

WHOLE_NUMBERS = (
    "buffer_capacity buffer_bytes max_message_bytes max_connections max_connections_per_user"
    " max_topics history_limit history_bytes window_bytes"
).split()
SECONDS = (
    "token_lifetime token_grace heartbeat_interval idle_timeout send_timeout cleanup_interval"
    " flush_interval history_age"
).split()
ZERO_ALLOWED = {"history_limit", "history_bytes", "token_grace"}
NONE_ALLOWED = {
    "heartbeat_interval",
    "idle_timeout",
    "send_timeout",
    "flush_interval",
    "window_bytes",
}
INVALID: list[Any] = [
    -1, -0.5, float("nan"), float("inf"), float("-inf"), "5", "", True, False, [], b"1", 1j,
]  # fmt: skip


def broadcaster_with(name: str, value: Any) -> Broadcaster:
    """Return a Broadcaster with one option."""
    options: dict[str, Any] = {name: value}
    return Broadcaster(**options)


def test_signature_docstring_and_record_agree() -> None:
    """The signature of `Broadcaster`, its docstring and the record of its options agree."""
    parameters = inspect.signature(Broadcaster).parameters
    document = inspect.getdoc(Broadcaster) or ""
    for field in fields(Options):
        assert parameters[field.name].default == field.default, field.name
        assert parameters[field.name].annotation == field.type, field.name
        assert f"\n    {field.name}: " in document, field.name
    assert {field.name for field in fields(Options)} == {
        *WHOLE_NUMBERS,
        *SECONDS,
        "drain_at_signal",
    }


@pytest.mark.parametrize("name", [*WHOLE_NUMBERS, *SECONDS])
@pytest.mark.parametrize("value", INVALID, ids=repr)
def test_invalid_value_is_refused_by_name(name: str, value: Any) -> None:
    """A value that is not a number in the range raises an error that names the option."""
    with pytest.raises(ConfigurationError, match=name):
        broadcaster_with(name, value)


@pytest.mark.parametrize("name", [*WHOLE_NUMBERS, *SECONDS])
def test_zero(name: str) -> None:
    """Zero is refused, except where it is documented."""
    if name in ZERO_ALLOWED:
        broadcaster_with(name, 0)
    else:
        with pytest.raises(ConfigurationError, match=name):
            broadcaster_with(name, 0)


@pytest.mark.parametrize("name", WHOLE_NUMBERS)
def test_fraction_of_a_count_is_refused(name: str) -> None:
    """A number of messages, bytes or connections must be a whole number."""
    with pytest.raises(ConfigurationError, match=name):
        broadcaster_with(name, 1.5)


@pytest.mark.parametrize("name", sorted(NONE_ALLOWED))
def test_none_is_off(name: str) -> None:
    """None disables an option that can be disabled."""
    assert getattr(broadcaster_with(name, None).options, name) is None


@pytest.mark.parametrize("name", ["cleanup_interval", "buffer_capacity", "max_topics"])
def test_none_is_refused_elsewhere(name: str) -> None:
    """An option that cannot be disabled refuses None."""
    with pytest.raises(ConfigurationError, match=name):
        broadcaster_with(name, None)


@pytest.mark.parametrize("name", SECONDS)
def test_seconds_may_be_fractions(name: str) -> None:
    """A time may be a fraction of a second."""
    assert getattr(broadcaster_with(name, 0.5).options, name) == 0.5


def test_message_limit_beyond_the_buffer_is_refused() -> None:
    """A message limit over the buffer's bytes raises an error that names both."""
    with pytest.raises(ConfigurationError, match=r"max_message_bytes=2000 .* buffer_bytes"):
        Broadcaster(max_message_bytes=2000, buffer_bytes=1000)
    Broadcaster(max_message_bytes=1000, buffer_bytes=1000)


def test_unknown_option() -> None:
    """An unknown option raises an error that suggests the right name."""
    with pytest.raises(TypeError, match="no option 'heartbeat': did you mean 'heartbeat_interval'"):
        Broadcaster(heartbeat=5)  # type: ignore[arg-type]


def test_memory_broker_gets_its_options() -> None:
    """The options of the memory broker are passed to it."""
    broadcaster = Broadcaster(
        history_limit=5, history_age=6.0, history_bytes=7, token_lifetime=8.0, token_grace=9.0
    )
    broker: Any = broadcaster._broker
    retention, limits = broker.history.retention, broker.tokens.registry.limits
    assert (retention.limit, retention.age, retention.max_bytes) == (5, 6.0, 7)
    assert (limits.lifetime, limits.grace) == (8.0, 9.0)
