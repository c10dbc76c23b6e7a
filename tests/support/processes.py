"""Real ASGI server processes, each on a port of its own. None outlives its test."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

import pytest

from tests.support.requirements import require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[2]

ServerKind = Literal["uvicorn", "hypercorn", "granian", "daphne"]
SERVERS: tuple[ServerKind, ...] = get_args(ServerKind)

ARGS: dict[ServerKind, list[str]] = {
    "uvicorn": ["--log-level", "warning", "--timeout-graceful-shutdown", "1"],
    "hypercorn": ["-w", "0", "--graceful-timeout", "1"],
    "granian": ["--log-level", "warning", "--workers-kill-timeout", "1"],
    "daphne": ["-v", "0"],
}
"""The options that docs/guide.md (Stopping) advises for each server, and quiet logs."""


def _ports() -> itertools.cycle[int]:
    """Return ports below the kernel's range for clients, with a separate range per worker."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = range(20_000 + 500 * worker, 20_500 + 500 * worker)
    start = random.randrange(len(ports))
    return itertools.cycle([*ports[start:], *ports[:start]])


_candidates = _ports()


def free_port() -> int:
    """Return a port of 127.0.0.1 that has no listener, and that no other test is about to take."""
    for port in itertools.islice(_candidates, 500):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port of this worker's range is in use")


def wait_listening(
    port: int, *, timeout: float = 20.0, alive: Callable[[], bool] = lambda: True
) -> None:
    """Return when a server listens on the port of 127.0.0.1.

    Raises TimeoutError after `timeout` seconds, and at once if `alive()` is false.
    """
    deadline = time.monotonic() + timeout
    while alive():
        try:
            socket.create_connection((HOST, port), timeout=1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        else:
            return
    raise TimeoutError(f"no server listens on {HOST}:{port}")


def _command(kind: ServerKind, app: str, port: int) -> list[str]:
    options = {
        "uvicorn": ["--host", HOST, "--port", str(port)],
        "hypercorn": ["--bind", f"{HOST}:{port}"],
        "granian": ["--interface", "asgi", "--host", HOST, "--port", str(port)],
        "daphne": ["--bind", HOST, "--port", str(port)],
    }
    return [sys.executable, "-m", kind, *options[kind], app]


class Starts:
    """The permission to start a program: a test has it if it has the mark `slow`."""

    are_allowed = True

    @classmethod
    def check(cls) -> None:
        """Fail the running test if it is not marked: the fast tests need no program."""
        if not cls.are_allowed:
            pytest.fail("a test that starts a program has the marks slow and real_time")


class Process:
    """A server process that listens on `port`, during a `with` block.

    The block begins when the process listens, and ends by killing it and all its children. They are
    also killed if the tests are: a shell kills them at the end of its input. An exception that
    leaves the block has the last lines of the output as a note.

    `env` is added to the environment. Starting and `terminate` block. Run them in a worker thread
    if a client in the same event loop has to keep reading.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        start_timeout: float = 20.0,
    ) -> None:
        self.name = name
        self.port = port
        self.process: subprocess.Popen[bytes]
        self._command = list(command)
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._start_timeout = start_timeout

    def __enter__(self) -> Self:
        Starts.check()
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            self._command,
            cwd=self._cwd,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -KILL "-$0"', str(self.process.pid)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_listening(self.port, timeout=self._start_timeout, alive=self.running)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._guard.communicate()
        if error is not None:
            error.add_note(self._last_output())
        self._log.close()

    def running(self) -> bool:
        """Return whether the server's main process is running."""
        return self.process.poll() is None

    def output(self) -> str:
        """Return the output so far, standard output and error together."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def terminate(self, timeout: float = 5.0) -> float:
        """Send SIGTERM to the main process, as a supervisor does. Returns the seconds it took.

        Fails if the server had ended by itself, or still runs after `timeout` seconds.
        """
        assert self.running(), f"{self.name} had ended by itself with {self.process.returncode}"
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} runs {timeout} s after SIGTERM") from None
        return time.monotonic() - started

    def kill(self) -> None:
        """Kill the main process and all its workers, as a crash of the machine would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _last_output(self) -> str:
        lines = self.output().splitlines()[-60:]
        return f"{self.name} on port {self.port} wrote:\n" + "\n".join(
            f"  {line}" for line in lines
        )


class ServerProcess(Process):
    """An ASGI app in a real server process, during a `with` block (see `Process`).

    `port` is a free one by default. `app` is an import string such as `"tests.apps.live:app"`,
    resolved from `cwd` (the project's root). `args` is added to the server's command line.
    """

    def __init__(
        self,
        kind: ServerKind,
        app: str,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        port: int | None = None,
        start_timeout: float = 20.0,
    ) -> None:
        port = free_port() if port is None else port
        command = [*_command(kind, app, port), *args]
        super().__init__(kind, command, port, env=env, cwd=cwd, start_timeout=start_timeout)
        self.kind = kind

    def __enter__(self) -> Self:
        require(module=self.kind, reason="a real server serves this test")
        return super().__enter__()
