"""``import holdfast`` binds names, and has no other effect."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import holdfast

ALLOWED = {"holdfast", "anyio", "typing-extensions", "idna", "sniffio", "exceptiongroup"}
MAX_NAMES = 45

# Run in a fresh isolated interpreter. The probe imports its own modules before it reads the state.
PROBE = r"""
import gc, json, logging, os, re, signal, sys, threading
from importlib.metadata import packages_distributions


def handlers():
    return {str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()}


def state():
    return {
        "threads": len(threading.enumerate()),
        "signal handlers": handlers(),
        "wakeup fd": signal.set_wakeup_fd(-1),
        "environment": dict(os.environ),
        "log handlers": repr(logging.root.handlers),
        "log level": logging.root.level,
        "search path": list(sys.path),
        "hooks": repr([sys.excepthook, sys.unraisablehook, threading.excepthook]),
    }


def audit(event, arguments):
    if not watching:
        return
    if event == "open" and str(arguments[0]).endswith((".py", ".pyc")):
        return  # the import itself
    if event == "open" or event.startswith(
        ("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.system")
    ):
        events.append(f"{event} {arguments!r}")


def start(thread):
    events.append(f"thread {thread.name}")
    started(thread)


events, watching = [], False
sys.addaudithook(audit)
loaded, before = set(sys.modules), state()
started, threading.Thread.start = threading.Thread.start, start
watching = True
import holdfast
watching = False
after = state()

tops = {name.partition(".")[0] for name in set(sys.modules) - loaded}
homes = packages_distributions()
distributions = {
    home
    for top in tops - set(sys.stdlib_module_names)
    for home in homes.get(top, [top])
}
asyncio = sys.modules.get("asyncio")
loops = asyncio and [
    repr(each) for each in gc.get_objects() if isinstance(each, asyncio.AbstractEventLoop)
]
print(json.dumps({
    "distributions": sorted({re.sub(r"[-_.]+", "-", home).lower() for home in distributions}),
    "changed": {key: [before[key], after[key]] for key in before if before[key] != after[key]},
    "events": events,
    "loops": loops or [],
}))
"""


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The effects of the import in a fresh interpreter that turns warnings into errors."""
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-W", "error", "-c", PROBE],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_loads_no_optional_package(report: dict[str, Any]) -> None:
    """The import loads the two dependencies, their dependencies, and no other package."""
    assert "holdfast" in report["distributions"]
    assert set(report["distributions"]) <= ALLOWED


def test_import_opens_and_starts_nothing(report: dict[str, Any]) -> None:
    """The import opens no file or socket, and starts no thread or process."""
    assert report["events"] == []


def test_import_makes_no_event_loop(report: dict[str, Any]) -> None:
    """The import creates no event loop."""
    assert report["loops"] == []


def test_import_changes_no_global_state(report: dict[str, Any]) -> None:
    """The import leaves threads, signal handlers, logging, hooks and environment as they were."""
    assert report["changed"] == {}


def test_every_public_name_exists() -> None:
    """Each name in ``__all__`` can be imported."""
    assert [name for name in holdfast.__all__ if not hasattr(holdfast, name)] == []


def test_public_names_are_sorted_and_few() -> None:
    """``__all__`` is sorted, has no name twice, and is no longer than a page."""
    assert list(holdfast.__all__) == sorted(set(holdfast.__all__))
    assert 0 < len(holdfast.__all__) <= MAX_NAMES
