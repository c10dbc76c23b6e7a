"""A contestant's server process, and the load clients that are connected to it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.benchmarks.readings import Reading, machine_busy

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).parents[2]
WARM_UP = 5
"""Messages that bring the buffers of every connection to their working state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The CPUs of the processes, and whether the client sleeps between deliveries (`polite`)."""

    server: int | None
    client: int | None
    polite: bool

    @classmethod
    def of_machine(cls, *, polite: bool) -> Place:
        """Pin the server and the clients to a CPU each, unless there is only one, or `polite`."""
        cpus = sorted(os.sched_getaffinity(0))
        if len(cpus) < 2 or polite:
            return cls(server=None, client=None, polite=polite)
        return cls(server=cpus[0], client=cpus[1], polite=polite)


class Failed(Exception):
    """A contestant lost, duplicated or reordered messages, or did not finish."""


class Child:
    """A process that answers JSON lines over a socket. The end of the socket ends it."""

    def __init__(self, module: str, spec: dict[str, Any]) -> None:
        self._name = module
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        ours, theirs = socket.socketpair()
        with theirs:
            argument = json.dumps({**spec, "channel": theirs.fileno()})
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"tests.benchmarks.{module}", argument],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        self.channel = ours
        self._file = ours.makefile("rwb")
        self.pid = self.process.pid

    def tell(self, **command: Any) -> None:
        """Send a command."""
        self._file.write(json.dumps(command).encode() + b"\n")
        self._file.flush()

    def hear(self, within: float = 60.0) -> dict[str, Any]:
        """Return the next answer."""
        if not select.select([self.channel], [], [], within)[0]:
            raise Failed(f"{self._name} said nothing for {within:.0f} s: {self._said()}")
        line = self._file.readline()
        if not line:
            raise Failed(f"{self._name} has ended: {self._said()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, within: float = 60.0, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.tell(**command)
        return self.hear(within)

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        self._file.close()
        self.channel.close()
        try:
            self.process.wait(3.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()

    def _said(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")[-1500:] or "nothing"


class Session:
    """A server process and its clients, ended at the end of the `with` block."""

    def __init__(self, contestant: str, place: Place) -> None:
        self.contestant = contestant
        self._place = place
        self._memory = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the same
        self._memory.write(bytes(8))
        self._memory.flush()
        self._clients: list[Child] = []
        self.published = 0
        self.server = Child("serve", self._spec(place.server))
        try:
            self.port = self.server.hear()["port"]
            self.client = self.add_client()
        except BaseException:
            self.close()
            raise

    def _spec(self, cpu: int | None) -> dict[str, Any]:
        return {"contestant": self.contestant, "cpu": cpu, "received": self._memory.name}

    def add_client(self) -> Child:
        """Add one load client."""
        spec = {"port": self.port, "polite": self._place.polite}
        client = Child("client", {**self._spec(self._place.client), **spec})
        self._clients.append(client)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for child in [*self._clients, self.server]:
            child.close()
        self._clients.clear()
        self._memory.close()

    # -- connections ---------------------------------------------------------------------------

    def wait_subscribers(self, wanted: int, within: float = 60.0) -> None:
        """Return when the contestant counts `wanted` subscribers."""
        deadline = time.monotonic() + within
        while (count := self.server.ask(command="subscribers")["subscribers"]) != wanted:
            if time.monotonic() > deadline:
                raise Failed(f"{count} subscribers instead of {wanted}")
            time.sleep(0.01)

    def connect(
        self,
        connections: int,
        *,
        until: str | int = "open",
        resume: bool = False,
        client: Child | None = None,
        others: int = 0,
        at_once: int = 64,
        path: str | None = None,
    ) -> Reading:
        """Open connections beside `others` existing ones. Returns the cost for the server."""
        before = Reading.of(self.server.pid)
        (client or self.client).ask(
            within=180.0,
            command="connect",
            connections=connections,
            until=until,
            resume=resume,
            at_once=at_once,
            path=path,
        )
        self.wait_subscribers(connections + others)
        return Reading.of(self.server.pid) - before

    # -- publishing ----------------------------------------------------------------------------

    def start_publishing(
        self,
        connections: int,
        count: int,
        *,
        chunk: int = 1,
        window: int = 32,
        rate: float = 0.0,
        topic: str | None = None,
    ) -> int:
        """Start publishing. Returns the number of the first message; `server.hear` ends it."""
        first = self.published + 1
        self.published += count
        self.server.tell(
            command="publish",
            first=first,
            connections=connections,
            count=count,
            chunk=chunk,
            window=window,
            rate=rate,
            topic=topic,
        )
        return first

    def warm_up(self, connections: int) -> None:
        """Publish some messages that are not measured."""
        self.publish(connections, WARM_UP, check=False)

    def publish(
        self, connections: int, count: int, *, check: bool = True, **how: Any
    ) -> dict[str, Any]:
        """Publish, wait until everything has arrived, and return the cost. Raises `Failed`."""
        total = connections * count
        self.client.ask(command="expect", total=total, timeout=100.0)
        busy, began = machine_busy(), time.monotonic()
        before, before_client = Reading.of(self.server.pid), Reading.of(self.client.pid)
        first = self.start_publishing(connections, count, **how)
        done = self.client.hear(within=120.0)
        self.server.hear()
        used = Reading.of(self.server.pid) - before
        own = used.cpu + (Reading.of(self.client.pid) - before_client).cpu
        taken = time.monotonic() - began
        if done["received"] != total or done["lost"]:
            raise Failed(f"{done} instead of {total} deliveries")
        result = {
            "deliveries": total,
            "cpu_s_per_m": used.cpu / total * 1e6,
            "writes_per_delivery": used.writes / total,
            "bytes_per_delivery": done["bytes"] / total,
            "deliveries_per_s": total / (done["at"] - began),
            "foreign": max(0.0, machine_busy() - busy - own) / taken,
        }
        return result | self.check(first, count) if check else result

    def check(self, first: int, count: int) -> dict[str, Any]:
        """Check the samples. Raises `Failed` if they differ from the published messages."""
        time.sleep(0.05)  # the end of a frame may come after its mark
        seen = self.client.ask(command="check", first=first, count=count)
        faults = seen.pop("faults")
        if faults or not seen["sampled"]:
            raise Failed(f"{self.contestant} delivered something else: {faults}")
        return seen
