"""Configuration that cannot work fails at start, and the error names the setting and the form."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from holdfast import Broadcaster, ConfigurationError, MemoryBroker, Retention, TokenLimits
from holdfast.asgi import LiveApp
from holdfast.auth import anonymous
from holdfast.auth.jwt import JWTAuthenticator
from holdfast.runtime.options import Options
from holdfast.settings import Settings
from holdfast.transports.websocket import InboundLimits
from tests.bad_inputs.inputs import HUGE, MARK, NUMBERS, TEXTS, THING

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "kZ3v9Qm1xLw8Rt5Yp2Bn7Hc4Jd6Fg0Sa"
MILLISECONDS = [
    "REAL_TIME_UPDATE_INTERVAL", "REAL_TIME_HEARTBEAT_INTERVAL", "REAL_TIME_CLEANUP_INTERVAL",
    "REAL_TIME_BUFFER_FLUSH_INTERVAL", "WEBSOCKET_PING_INTERVAL",
]  # fmt: skip
SWITCHES = ["REAL_TIME_ENABLED", "WEBSOCKET_ENABLED"]
OUT_OF_RANGE: list[Any] = [
    -1, -0.5, math.nan, math.inf, -math.inf, -HUGE, "", "0", "-1", "1e3", "true", True, False,
    b"1", [], {}, 1j, THING,
]  # fmt: skip
OPTIONS = sorted(Options.__dataclass_fields__.keys() - {"drain_at_signal"})


def taken(name: str, values: list[Any], make: Callable[[Any], object]) -> list[Any]:
    """Those of the values with which something is made; all others are refused by name."""
    found = []
    for value in values:
        try:
            make({name: value})
        except ConfigurationError as error:
            if name not in str(error):
                raise
        else:
            found.append(value)
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_the_broadcaster(name: str) -> None:
    """Every nonsense in every option is a ConfigurationError that names it."""
    assert not taken(name, OUT_OF_RANGE, lambda options: Broadcaster(**options))
    assert set(taken(name, [HUGE], lambda options: Broadcaster(**options))) <= {HUGE}


def test_switch_of_the_broadcaster() -> None:
    """The one switch among the options takes True and False, and refuses the rest by name."""
    values = taken("drain_at_signal", OUT_OF_RANGE, lambda options: Broadcaster(**options))
    assert values == [True, False]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("limit", [-1, 1.5, math.nan, "5"]), ("age", [0, -1, math.nan, "5"]),
        ("max_bytes", [-1, 1.5, "5"]), ("total_bytes", [-1, 1.5, "5"]),
        ("max_logs", [-1, 1.5, "5"]),
    ],
)  # fmt: skip
def test_retention(name: str, values: list[Any]) -> None:
    """The same for the bounds of a memory broker that one makes oneself, as the guide shows."""
    assert not taken(name, values, lambda o: MemoryBroker(retention=Retention(**o)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lifetime", [0, -1, math.nan, math.inf, "5"]), ("grace", [-1, math.nan, "5"]),
        ("per_user", [-1, 1.5, "5"]), ("total", [-1, 1.5, "5"]),
    ],
)  # fmt: skip
def test_token_limits(name: str, values: list[Any]) -> None:
    """And for its tokens: with a life of NaN seconds nothing could ever be resumed."""
    assert not taken(name, values, lambda o: MemoryBroker(tokens=TokenLimits(**o)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_bytes", [0, -1, math.nan, "5"]), ("rate", [0, -1, math.nan, math.inf, "5"]),
        ("burst", [0, -1, math.nan, "5"]),
    ],
)  # fmt: skip
def test_inbound_limits(name: str, values: list[Any]) -> None:
    """Limits under which every client, or none, would be closed as abusive."""

    def make(options: Any) -> LiveApp:
        limits = InboundLimits(**options)
        return LiveApp(Broadcaster(), authenticate=anonymous, inbound=limits)

    assert not taken(name, values, make)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, -math.inf, "5", True], ids=repr)
def test_leeway_under_which_no_token_would_expire(value: Any) -> None:
    """A leeway that is no number of seconds would let an expired token in, for ever."""
    with pytest.raises(ConfigurationError, match="leeway"):
        JWTAuthenticator(KEY, leeway=value)


@pytest.mark.parametrize(
    "key",
    [None, "", b"", "x", 5, True, [], "secret", "changeme", "CHANGE-ME-" * 5, "your-256-bit-secret",
     "password" * 8, "example" * 8, "0" * 64, "ab" * 32, " " * 64, "\0" * 64, "secret-" + KEY],
    ids=lambda key: repr(key)[:20],
)  # fmt: skip
def test_secrets_that_are_none(key: Any) -> None:
    """Missing, short, a placeholder, of another type: refused at start, and not shown."""
    with pytest.raises(ConfigurationError) as caught:
        JWTAuthenticator(key)
    assert not isinstance(key, str) or len(key) < 12 or key not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("websocket_path", ["", "ws", "ws/", " /ws", "http://x/ws", "\0", "*"]),
        ("allowed_origins", ["https://page.test", "*", ""]),
    ],
)
def test_arguments_of_the_app(name: str, values: list[Any]) -> None:
    """A path or a list of origins that could never match."""
    for value in values:
        options: dict[str, Any] = {name: value}
        with pytest.raises(ConfigurationError, match=name):
            LiveApp(Broadcaster(), authenticate=anonymous, **options)


# -- the environment -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MILLISECONDS)
def test_numbers_in_the_environment(name: str) -> None:
    """Any text but decimal digits fails by the name of the variable, with the accepted form."""
    for text in {*NUMBERS, *TEXTS} - {"05", "00", "9" * 19}:
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_env({name: text})
        assert str(caught.value).startswith(f"{name}=")
        assert "milliseconds" in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", SWITCHES)
def test_switches_in_the_environment(name: str) -> None:
    """Any text but the documented words fails by name."""
    for text in {*NUMBERS, *TEXTS, " true", "true ", "\uff34RUE", "t", "enabled", "ON\n"} - {
        "true"
    }:
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_env({name: text})
        assert str(caught.value).startswith(f"{name}=")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["REAL_TIME_", "REAL_TIME_ENABLE", "REAL_TIME_enabled", "REAL_TIME_ENABLED ",
             "REAL_TIME_HEARTBEAT_INTERVAL_MS", "REAL_TIME_\u00e9", "REAL_TIME_ENABLED\n"]
)  # fmt: skip
def test_unknown_variables_with_our_prefix(name: str) -> None:
    """A misspelt variable fails, whatever it holds, and its value is not shown."""
    for text in ("", "true", MARK):
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_env({name: text})
        assert name in str(caught.value)
        assert MARK not in str(caught.value)


def test_process_with_a_wrong_variable_does_not_start() -> None:
    """In a real process, the first line of the way in ends it, with one line that says why."""
    done = subprocess.run(
        [sys.executable, "-c", "from holdfast.settings import Settings; Settings.from_env()"],
        env={"REAL_TIME_HEARTBEAT_INTERVAL": "30s", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ConfigurationError: REAL_TIME_HEARTBEAT_INTERVAL='30s'" in last
    assert "milliseconds" in last
