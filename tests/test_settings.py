"""Settings.from_env: the documented values of each variable."""

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
NOT_MILLISECONDS = [
    "", " ", "-1", "+1", "1e3", "1_000", "1.5", "0x10", "true", "٥", " 5", "5 ", "5\n", "5s",
    "9" * 13, "9" * 5000, "\0", "NaN", "inf",
]  # fmt: skip


def test_defaults() -> None:
    """An empty environment gives the documented defaults."""
    assert Settings.from_env({}) == Settings()
    settings = Settings.from_env({})
    assert (settings.update_interval, settings.heartbeat_interval, settings.cleanup_interval) == (
        30,
        30,
        300,
    )
    assert (settings.flush_interval, settings.websocket_path) == (None, "/websocket")


@pytest.mark.parametrize(("name", "field"), MILLISECONDS.items())
@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 0.001), ("1500", 1.5), ("007", 0.007), ("999999999999", 1e9)]
)
def test_milliseconds(name: str, field: str, text: str, seconds: float) -> None:
    """A whole number of milliseconds is read, and kept in seconds."""
    assert getattr(Settings.from_env({name: text}), field) == pytest.approx(seconds)


@pytest.mark.parametrize("name", MILLISECONDS)
@pytest.mark.parametrize("text", NOT_MILLISECONDS, ids=lambda text: repr(text)[:20])
def test_other_text_is_refused(name: str, text: str) -> None:
    """Any other text raises an error that names the variable and the accepted form."""
    with pytest.raises(ConfigurationError, match=f"(?s){name}=.*milliseconds"):
        Settings.from_env({name: text})


@pytest.mark.parametrize("name", MILLISECONDS)
def test_zero(name: str) -> None:
    """Zero disables the flush interval, and is refused for the other variables."""
    if name == "REAL_TIME_BUFFER_FLUSH_INTERVAL":
        assert Settings.from_env({name: "0"}).flush_interval is None
    else:
        with pytest.raises(ConfigurationError, match=name):
            Settings.from_env({name: "0"})


@pytest.mark.parametrize(("name", "field"), SWITCHES.items())
def test_switches(name: str, field: str) -> None:
    """A switch accepts the usual words in any case, and refuses others."""
    for text in ("true", "TRUE", "1", "yes", "on", "On"):
        assert getattr(Settings.from_env({name: text}), field) is True
    for text in ("false", "False", "0", "no", "off"):
        assert getattr(Settings.from_env({name: text}), field) is False
    for text in ("", " true", "2", "-1", "y", "none", "true\n", "1e0"):
        with pytest.raises(ConfigurationError, match=name):
            Settings.from_env({name: text})


@pytest.mark.parametrize("path", ["/", "/ws", "/a/b-c_d.e~f", "/ws/"])
def test_path(path: str) -> None:
    """LiveApp accepts the path."""
    settings = Settings.from_env({"WEBSOCKET_PATH": path})
    assert settings.websocket_path == path
    LiveApp(Broadcaster(), authenticate=anonymous, **settings.for_app())


@pytest.mark.parametrize(
    "path",
    ["", "ws", "ws/", "/a b", "/a?b", "/a#b", "/a\r\nb", "/é", "http://x/ws", "/a\0b", "/\x7f"],
)
def test_invalid_path(path: str) -> None:
    """An invalid path raises an error that names the variable."""
    with pytest.raises(ConfigurationError, match="WEBSOCKET_PATH"):
        Settings.from_env({"WEBSOCKET_PATH": path})


def test_unknown_variable_with_our_prefix() -> None:
    """A misspelt variable of ours is refused, and other variables are ignored."""
    with pytest.raises(ConfigurationError, match="REAL_TIME_HEARTBEAT: "):
        Settings.from_env({"REAL_TIME_HEARTBEAT": "5"})
    Settings.from_env({"PATH": "x", "HOME": "", "real_time_x": "1"})


def test_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_env` without a mapping reads the environment of the process."""
    for name in (*MILLISECONDS, *SWITCHES, "WEBSOCKET_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REAL_TIME_UPDATE_INTERVAL", "2500")
    assert Settings.from_env().update_interval == 2.5


def test_settings_are_options() -> None:
    """The settings are options of Broadcaster and LiveApp, with the shorter heartbeat interval."""
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
    enabled: dict[str, Any] = {**environment, "WEBSOCKET_ENABLED": "on", "REAL_TIME_ENABLED": "on"}
    assert Settings.from_env(enabled).for_app() == {"enabled": True, "websocket_path": "/ws"}


def test_defaults_are_those_of_the_broadcaster() -> None:
    """Settings without variables are the defaults of Broadcaster."""
    defaults, from_settings = (
        Broadcaster().options,
        Broadcaster(**Settings().for_broadcaster()).options,
    )
    assert defaults == from_settings
    assert len(fields(Settings)) == len(MILLISECONDS) + len(SWITCHES) + 1
