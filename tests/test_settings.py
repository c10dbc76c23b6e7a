"""Settings.from_env(): every documented boundary of every variable."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from holdfast import Broadcaster, ConfigurationError
from holdfast.asgi import LiveApp
from holdfast.auth import anonymous
from holdfast.settings import Settings

MILLISECONDS = {
    "REAL_TIME_UPDATE_INTERVAL": "update_interval",
    "REAL_TIME_HEARTBEAT_INTERVAL": "heartbeat_interval",
    "REAL_TIME_CLEANUP_INTERVAL": "cleanup_interval",
    "REAL_TIME_BUFFER_FLUSH_INTERVAL": "flush_interval",
    "WEBSOCKET_PING_INTERVAL": "websocket_ping_interval",
}
SWITCHES = {"REAL_TIME_ENABLED": "enabled", "WEBSOCKET_ENABLED": "websocket_enabled"}
NONSENSE = [
    "", " ", "-1", "+1", "1e3", "1_000", "1.5", "0x10", "true", "٥", " 5", "5 ", "5\n", "5s",
    "9" * 13, "9" * 5000, "\0", "NaN", "inf",
]  # fmt: skip


def test_defaults() -> None:
    """An empty environment gives the documented defaults."""
    assert Settings.from_env({}) == Settings()
    made = Settings.from_env({})
    assert (made.update_interval, made.heartbeat_interval, made.cleanup_interval) == (30, 30, 300)
    assert (made.flush_interval, made.websocket_path) == (None, "/websocket")


@pytest.mark.parametrize(("name", "field"), MILLISECONDS.items())
@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 0.001), ("1500", 1.5), ("007", 0.007), ("999999999999", 1e9)]
)
def test_milliseconds(name: str, field: str, text: str, seconds: float) -> None:
    """A whole number of milliseconds is read, and kept in seconds."""
    assert getattr(Settings.from_env({name: text}), field) == pytest.approx(seconds)


@pytest.mark.parametrize("name", MILLISECONDS)
@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: repr(text)[:20])
def test_no_number(name: str, text: str) -> None:
    """Anything else fails, and the error names the variable and the accepted form."""
    with pytest.raises(ConfigurationError, match=f"(?s){name}=.*milliseconds"):
        Settings.from_env({name: text})


@pytest.mark.parametrize("name", MILLISECONDS)
def test_zero_is_off_or_refused(name: str) -> None:
    """Zero is off for the flush interval, and elsewhere a mistake: never "as often as can be"."""
    if name == "REAL_TIME_BUFFER_FLUSH_INTERVAL":
        assert Settings.from_env({name: "0"}).flush_interval is None
    else:
        with pytest.raises(ConfigurationError, match=name):
            Settings.from_env({name: "0"})


@pytest.mark.parametrize(("name", "field"), SWITCHES.items())
def test_switches(name: str, field: str) -> None:
    """The usual words switch on and off, in any case; nothing else does."""
    for text in ("true", "TRUE", "1", "yes", "on", "On"):
        assert getattr(Settings.from_env({name: text}), field) is True
    for text in ("false", "False", "0", "no", "off"):
        assert getattr(Settings.from_env({name: text}), field) is False
    for text in ("", " true", "2", "-1", "y", "none", "true\n", "1e0"):
        with pytest.raises(ConfigurationError, match=name):
            Settings.from_env({name: text})


@pytest.mark.parametrize("path", ["/", "/ws", "/a/b-c_d.e~f", "/ws/"])
def test_path(path: str) -> None:
    """A path is taken as it is, and LiveApp takes it."""
    settings = Settings.from_env({"WEBSOCKET_PATH": path})
    assert settings.websocket_path == path
    LiveApp(Broadcaster(), authenticate=anonymous, **settings.for_app())


@pytest.mark.parametrize(
    "path",
    ["", "ws", "ws/", "/a b", "/a?b", "/a#b", "/a\r\nb", "/é", "http://x/ws", "/a\0b", "/\x7f"],
)
def test_no_path(path: str) -> None:
    """A value that is not a path fails, and the error names the variable."""
    with pytest.raises(ConfigurationError, match="WEBSOCKET_PATH"):
        Settings.from_env({"WEBSOCKET_PATH": path})


def test_unknown_variable_with_our_prefix() -> None:
    """A misspelt variable fails instead of being ignored; others' variables are none of ours."""
    with pytest.raises(ConfigurationError, match="REAL_TIME_HEARTBEAT: "):
        Settings.from_env({"REAL_TIME_HEARTBEAT": "5"})
    Settings.from_env({"PATH": "x", "HOME": "", "real_time_x": "1"})


def test_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping the environment of the process is read."""
    for name in (*MILLISECONDS, *SWITCHES, "WEBSOCKET_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REAL_TIME_UPDATE_INTERVAL", "2500")
    assert Settings.from_env().update_interval == 2.5


def test_everything_reaches_its_place() -> None:
    """The settings are what Broadcaster and LiveApp take, heartbeats the shorter of both."""
    environment = {
        "REAL_TIME_HEARTBEAT_INTERVAL": "9000",
        "WEBSOCKET_PING_INTERVAL": "7000",
        "REAL_TIME_CLEANUP_INTERVAL": "60000",
        "REAL_TIME_BUFFER_FLUSH_INTERVAL": "100",
        "REAL_TIME_ENABLED": "false",
        "WEBSOCKET_ENABLED": "off",
        "WEBSOCKET_PATH": "/ws",
    }
    settings = Settings.from_env(environment)
    options = Broadcaster(**settings.for_broadcaster()).options
    assert options.heartbeat_interval == 7.0
    assert (options.cleanup_interval, options.flush_interval) == (60.0, 0.1)
    assert settings.for_app() == {"enabled": False, "websocket_path": None}
    on: dict[str, Any] = {**environment, "WEBSOCKET_ENABLED": "on", "REAL_TIME_ENABLED": "on"}
    assert Settings.from_env(on).for_app() == {"enabled": True, "websocket_path": "/ws"}


def test_defaults_are_those_of_the_broadcaster() -> None:
    """Without any variable nothing changes against a plain Broadcaster."""
    plain, made = Broadcaster().options, Broadcaster(**Settings().for_broadcaster()).options
    assert plain == made
    assert len(fields(Settings)) == len(MILLISECONDS) + len(SWITCHES) + 1
