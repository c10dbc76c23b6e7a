"""A configuration that cannot work fails at start; the error names the setting and its form."""

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
    """Return the values that `make` accepts; every other value is refused by name."""
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
def test_invalid_broadcaster_option_is_refused_by_name(name: str) -> None:
    """Every invalid value of every option is a ConfigurationError that names the option."""
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
def test_invalid_retention_is_refused_by_name(name: str, values: list[Any]) -> None:
    """The bounds of a memory broker of one's own are checked, as the guide shows."""
    assert not taken(name, values, lambda o: MemoryBroker(retention=Retention(**o)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lifetime", [0, -1, math.nan, math.inf, "5"]), ("grace", [-1, math.nan, "5"]),
        ("per_user", [-1, 1.5, "5"]), ("total", [-1, 1.5, "5"]),
    ],
)  # fmt: skip
def test_invalid_token_limit_is_refused_by_name(name: str, values: list[Any]) -> None:
    """The limits of tokens are checked: with a lifetime of NaN, no session could be resumed."""
    assert not taken(name, values, lambda o: MemoryBroker(tokens=TokenLimits(**o)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_bytes", [0, -1, math.nan, "5"]), ("rate", [0, -1, math.nan, math.inf, "5"]),
        ("burst", [0, -1, math.nan, "5"]),
    ],
)  # fmt: skip
def test_invalid_inbound_limit_is_refused_by_name(name: str, values: list[Any]) -> None:
    """Limits that would close every client, or none, as abusive are refused."""

    def make(options: Any) -> LiveApp:
        limits = InboundLimits(**options)
        return LiveApp(Broadcaster(), authenticate=anonymous, inbound=limits)

    assert not taken(name, values, make)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, -math.inf, "5", True], ids=repr)
def test_leeway_that_disables_expiry_is_refused(value: Any) -> None:
    """A leeway that is not a number of seconds would accept an expired token for ever."""
    with pytest.raises(ConfigurationError, match="leeway"):
        JWTAuthenticator(KEY, leeway=value)


@pytest.mark.parametrize(
    "key",
    [None, "", b"", "x", 5, True, [], "secret", "changeme", "CHANGE-ME-" * 5, "your-256-bit-secret",
     "password" * 8, "example" * 8, "0" * 64, "ab" * 32, " " * 64, "\0" * 64, "secret-" + KEY],
    ids=lambda key: repr(key)[:20],
)  # fmt: skip
def test_unusable_secret_is_refused_and_not_shown(key: Any) -> None:
    """A missing, short, placeholder or mistyped secret is refused at start, and not shown."""
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
def test_unusable_app_argument_is_refused(name: str, values: list[Any]) -> None:
    """A path or an origin that could never match is refused."""
    for value in values:
        options: dict[str, Any] = {name: value}
        with pytest.raises(ConfigurationError, match=name):
            LiveApp(Broadcaster(), authenticate=anonymous, **options)


# -- the environment -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MILLISECONDS)
def test_invalid_number_in_the_environment_is_refused(name: str) -> None:
    """Any text except decimal digits fails with the name of the variable and its form."""
    for text in {*NUMBERS, *TEXTS} - {"05", "00", "9" * 19}:
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_env({name: text})
        assert str(caught.value).startswith(f"{name}=")
        assert "milliseconds" in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", SWITCHES)
def test_invalid_switch_in_the_environment_is_refused(name: str) -> None:
    """Any text except the documented words fails with the name of the variable."""
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
def test_unknown_variable_with_the_prefix_is_refused(name: str) -> None:
    """A misspelt variable fails with any value, and the value is not shown."""
    for text in ("", "true", MARK):
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_env({name: text})
        assert name in str(caught.value)
        assert MARK not in str(caught.value)


def test_process_with_a_wrong_variable_does_not_start() -> None:
    """In a real process, the first line of the entry point ends it with a one-line reason."""
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
