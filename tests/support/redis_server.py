"""Real Redis processes, each on a port of its own. None outlives its test."""

from __future__ import annotations

import atexit
import functools
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.processes import HOST, Starts, free_port, wait_listening
from tests.support.requirements import require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType


@functools.cache
def shared_server() -> RedisServer:
    """Return the Redis of this process, for tests that each use a log of their own."""
    server = RedisServer()
    server.__enter__()
    atexit.register(server.kill)
    return server


@functools.cache
def shared_cluster() -> RedisServer:
    """Return the Redis Cluster of one node of this process, for the same tests."""
    server = RedisServer("--cluster-enabled", "yes")
    server.__enter__()
    atexit.register(server.kill)
    server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    deadline = time.monotonic() + 15.0
    while "cluster_state:ok" not in server.command("CLUSTER", "INFO"):
        if time.monotonic() > deadline:
            pytest.fail("the cluster of one node did not start")
        time.sleep(0.05)
    return server


class RedisServer:
    """A `redis-server`, during a `with` block.

    The server has no persistence unless `args` add it. Its folder lasts as long as the block, so a
    server that is stopped and started again finds its files. `program` may be `redis-sentinel`,
    which needs a configuration file (`config`).
    """

    def __init__(
        self,
        *args: str,
        port: int | None = None,
        program: str = "redis-server",
        config: str | None = None,
    ) -> None:
        self.port = free_port() if port is None else port
        self.process: subprocess.Popen[bytes] | None = None
        self._args = args
        self._program = program
        self._config = config
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """Return the URL for a client."""
        return f"redis://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._path = require(executable=self._program, reason="a real Redis keeps the log")
        self._folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._stack.callback(self.kill)
        try:
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start the server, also again with its files. Returns when it listens."""
        Starts.check()
        options: Sequence[str] = ["--save", "", "--appendonly", "no"]
        command = [self._path]
        if self._config is not None:
            with open(f"{self._folder}/config", "w", encoding="utf-8") as file:
                file.write(self._config)
            command, options = [self._path, f"{self._folder}/config"], []
        self.process = subprocess.Popen(
            [
                *command, "--port", str(self.port), "--bind", HOST, "--dir", self._folder,
                "--repl-diskless-sync-delay", "0", *options, *self._args,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_listening(
            self.port, alive=lambda: self.process is not None and self.process.poll() is None
        )

    def kill(self) -> None:
        """End the server at once, as a power cut would. A second call has no effect."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End the server gracefully: it writes the configured files."""
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def pause(self) -> None:
        """Stop the process by SIGSTOP: connections stay open, and no request is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process by SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: str, timeout: float = 10.0) -> str:
        """Send one command with redis-cli. Returns its output."""
        program = require(executable="redis-cli", reason="a real Redis keeps the log")
        done = subprocess.run(
            [program, "-h", HOST, "-p", str(self.port), *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
        return done.stdout.strip()

    def wait_for(self, section: str, line: str, timeout: float = 15.0) -> None:
        """Return as soon as `INFO section` contains `line`."""
        deadline = time.monotonic() + timeout
        while line not in self.command("INFO", section).splitlines():
            if time.monotonic() > deadline:
                pytest.fail(f"INFO {section} did not show {line}")
            time.sleep(0.05)
