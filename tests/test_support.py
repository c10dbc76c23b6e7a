"""tests/support: the requirements of a test, and server processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import SERVERS, ServerKind, ServerProcess, require
from tests.support.processes import ARGS

if TYPE_CHECKING:
    from pathlib import Path

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})
"""

STARTER = """
import sys
from pathlib import Path
from tests.support import ServerProcess
with ServerProcess("uvicorn", "minimal:app", cwd=Path(sys.argv[1])) as server:
    print(server.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def app_folder(tmp_path: Path) -> Path:
    """Return a folder with a minimal application."""
    (tmp_path / "minimal.py").write_text(APP)
    return tmp_path


def members(group: int) -> list[psutil.Process]:
    """Return the running processes of a process group."""
    running = []
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != "zombie":
                running.append(process)
        except ProcessLookupError:
            pass
    return running


def all_end(group: int) -> bool:
    """Return whether all processes of the group end within five seconds."""
    deadline = time.monotonic() + 5.0
    while members(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("ci", [False, True])
def test_missing_requirement_skips_or_fails_in_ci(
    ci: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test with a missing requirement is skipped, and fails if CI=true."""
    monkeypatch.setenv("CI", "true" if ci else "")
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="missing module no_such_module: to see"):
        require(module="no_such_module", reason="to see what happens")


@pytest.mark.parametrize("kind", SERVERS)
def test_idle_server_stops_on_sigterm(kind: ServerKind, app_folder: Path) -> None:
    """Each real server starts, listens, and ends in time after SIGTERM.

    The server runs with the options of the guide: granian 2.8.7 misses, about one time in 60, a
    signal that comes while its worker starts, and then waits for that worker unless it may kill it.
    """
    with ServerProcess(kind, "minimal:app", cwd=app_folder, args=ARGS[kind]) as server:
        assert server.terminate(8.0) < 8.0


@pytest.mark.parametrize("kind", SERVERS)
def test_failed_test_leaves_no_process(kind: ServerKind, app_folder: Path) -> None:
    """A block that raises leaves no process, and adds the output of the server as a note."""
    server = ServerProcess(kind, "minimal:app", cwd=app_folder)
    with pytest.raises(ZeroDivisionError) as caught, server:
        assert members(server.process.pid)
        raise ZeroDivisionError
    assert all_end(server.process.pid)
    assert f"{kind} on port {server.port} wrote:" in caught.value.__notes__[0]


def test_killed_tests_leave_no_process(app_folder: Path) -> None:
    """A server ends with the process that started it, even after SIGKILL."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(app_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with starter:
        assert starter.stdout is not None
        server = int(starter.stdout.readline())
        assert members(server)
        starter.send_signal(signal.SIGKILL)
    assert all_end(server)


def test_server_that_fails_to_start_fails_the_test(app_folder: Path) -> None:
    """A server that ends before it listens fails the test at once, with its output."""
    with (
        pytest.raises(TimeoutError) as caught,
        ServerProcess("uvicorn", "minimal:missing", cwd=app_folder),
    ):
        pass
    assert 'Attribute "missing" not found' in caught.value.__notes__[0]
