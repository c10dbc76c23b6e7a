"""The load client: one process, one epoll loop, many connections, parsed samples.

session.py starts it with a JSON object as its argument. Commands come over an inherited socket, one
JSON object per line, and each has one answer:


    connect  open `connections`, `at_once` at a time, each until it has its `until`:
             "open" (the handshake is answered), "id" (the first event id, which is kept), or a
             number of messages; with `resume`, each presents one of the kept event ids, and the
             first few are sampled from their first byte
    sample   keep everything that `samples` of the connections receive
    expect   answer after `total` deliveries, or after `timeout` seconds
    check    whether the samples have `count` messages from `first` on, once and in order
    close    close all connections
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import re
import select
import socket
import struct
import sys
import time
from typing import Any

from tests.benchmarks.wire import latencies, without_chunks
from tests.support.sockets import reset_on_close

REQUEST = "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n"
EVENT_STREAM = "Accept: text/event-stream\r\n"
WEBSOCKET = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)
NAMESPACE = b"\x81\x82\0\0\0\x0040"  # the client's answer to Engine.IO's OPEN, masked with zeros
EVENT_ID = re.compile(rb"\nid: (\S+)\n\n")
FAULTS_TOLD = 3
SAMPLED_RESUMES = 10


class Connection:
    """A socket. `head` collects its bytes until it is open, `reads` the sampled ones."""

    __slots__ = ("answered", "chunked", "head", "reads", "simple", "socket")

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self.simple = False  # open, and not sampled: its bytes are only counted
        self.answered = self.chunked = False
        self.head = bytearray()
        self.reads: list[tuple[int, bytes]] | None = None


class Client:
    """The whole client. `run` returns when the channel is closed."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.contestant = importlib.import_module(
            f"tests.benchmarks.contestants.{spec['contestant']}"
        )
        self.polite, self.port = spec["polite"], spec["port"]
        with open(spec["received"], "r+b") as file:
            self.shared = mmap.mmap(file.fileno(), 8)
        self.channel = socket.socket(fileno=spec["channel"])
        self.epoll = select.epoll()
        self.epoll.register(self.channel, select.EPOLLIN)
        self.connections: dict[int, Connection] = {}
        self.opening: set[int] = set()
        self.ids: list[bytes] = []
        self.total = self.bytes = self.lost = 0
        self.target: int | None = None
        self.deadline = self.began = 0.0
        self.to_open = 0
        self.until: str | int = "open"
        self.resume, self.path, self.to_sample = False, "", 0

    def answer(self, **values: Any) -> None:
        self.channel.sendall(json.dumps(values).encode() + b"\n")

    # -- opening -------------------------------------------------------------------------------

    def connect(self, spec: dict[str, Any]) -> None:
        self.until, self.resume = spec["until"], spec["resume"]
        self.path = spec["path"] or self.contestant.PATH
        self.to_sample = SAMPLED_RESUMES if self.resume else 0
        at_once = min(spec["connections"], spec["at_once"])
        self.to_open = spec["connections"] - at_once
        self.began = time.monotonic()
        for _ in range(at_once):
            self.open_one()

    def open_one(self) -> None:
        made = socket.create_connection(("127.0.0.1", self.port))
        made.setblocking(False)
        headers = EVENT_STREAM if self.contestant.KIND == "sse" else WEBSOCKET
        if self.resume:
            headers += f"Last-Event-ID: {self.ids.pop().decode()}\r\n"
        made.send(REQUEST.format(path=self.path, headers=headers).encode())
        self.connections[made.fileno()] = Connection(made)
        self.opening.add(made.fileno())
        self.epoll.register(made, select.EPOLLIN)

    def on_head(self, fd: int, connection: Connection, data: bytes) -> None:
        """Take more bytes of a connection that is being opened."""
        head = connection.head
        head += data
        if not connection.answered:
            end = head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not head.startswith(
                b"HTTP/1.1 200" if self.contestant.KIND == "sse" else b"HTTP/1.1 101"
            ):
                raise RuntimeError(f"refused: {bytes(head)!r}")
            connection.chunked = b"transfer-encoding: chunked" in head[:end].lower()
            connection.answered = True
            del head[: end + 4]
        if self.contestant.KIND == "sio" and b"40{" not in head:
            if b"0{" in head:
                connection.socket.send(NAMESPACE)
            return
        if self.until == "id":
            found = EVENT_ID.search(head)
            if found is None:
                return
            self.ids.append(found[1])
        elif self.until != "open" and head.count(b"^") < int(self.until):
            return
        if self.to_sample:
            self.to_sample -= 1
            connection.reads = [(time.monotonic_ns(), bytes(head))]
        head.clear()
        connection.simple = connection.reads is None
        self.opening.discard(fd)
        if self.to_open:
            self.to_open -= 1
            self.open_one()
        elif not self.opening:
            self.answer(seconds=time.monotonic() - self.began)

    # -- commands ------------------------------------------------------------------------------

    def command(self, spec: dict[str, Any]) -> None:
        match spec["command"]:
            case "connect":
                self.connect(spec)
            case "sample":
                self.sample(spec["samples"])
                self.answer()
            case "expect":
                self.total = self.bytes = 0
                self.target, self.deadline = spec["total"], time.monotonic() + spec["timeout"]
                struct.pack_into("<q", self.shared, 0, 0)
                for connection in self.connections.values():
                    if connection.reads is not None:
                        connection.reads.clear()
                self.answer()
            case "check":
                self.answer(**self.check(spec["first"], spec["count"]))
            case "close":
                for connection in self.connections.values():
                    # A reset: thousands of connections in TIME_WAIT would use up the ports.
                    reset_on_close(connection.socket)
                    connection.socket.close()
                self.connections.clear()
                self.answer()

    def sample(self, samples: int) -> None:
        """Sample the last connection of each stretch, and so the very last one."""
        every = max(1, len(self.connections) // samples)
        for connection in list(self.connections.values())[every - 1 :: every][:samples]:
            connection.reads, connection.simple = [], False

    def check(self, first: int, count: int) -> dict[str, Any]:
        wanted, faults, waited = list(range(first, first + count)), list[str](), list[int]()
        sampled = [each for each in self.connections.values() if each.reads is not None]
        for connection in sampled:
            reads = connection.reads or []
            data = b"".join(chunk for _, chunk in reads)
            try:
                got = self.contestant.decode(without_chunks(data) if connection.chunked else data)
            except (ValueError, KeyError) as error:
                faults.append(repr(error))
                continue
            if got != wanted:
                faults.append(f"{len(got)} of {count} messages, the first are {got[:3]}")
            waited += latencies(reads)
        waited.sort()
        shares = {"p50_ms": 0.5, "p99_ms": 0.99}
        at = {name: waited[int(share * len(waited))] / 1e6 for name, share in shares.items()}
        return {"sampled": len(sampled), "faults": faults[:FAULTS_TOLD], **at}

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        buffer = bytearray(1 << 18)
        view, connections = memoryview(buffer), self.connections
        commands, channel = b"", self.channel.fileno()
        while True:
            # The client polls without sleeping while deliveries are awaited, so that the server
            # never pays for waking it, as it would not with a client on another machine.
            busy = self.target is not None and not self.polite
            for fd, _ in self.epoll.poll(0 if busy else 0.2, 4096):
                if fd == channel:
                    data = self.channel.recv(65536)
                    if not data:
                        return
                    *lines, commands = (commands + data).split(b"\n")
                    for line in lines:
                        self.command(json.loads(line))
                    continue
                connection = connections.get(fd)
                if connection is None:
                    continue
                try:
                    got = connection.socket.recv_into(buffer)
                except BlockingIOError:
                    continue
                except OSError:
                    got = 0
                if not got:
                    if fd in self.opening:
                        raise RuntimeError(f"closed while it was opened: {connection.head!r}")
                    self.lost += 1
                    connections.pop(fd).socket.close()
                    continue
                self.total += buffer.count(94, 0, got)  # the mark
                self.bytes += got
                if connection.simple:
                    continue
                if connection.reads is not None:
                    connection.reads.append((time.monotonic_ns(), bytes(view[:got])))
                else:
                    self.on_head(fd, connection, bytes(view[:got]))
            if self.target is not None:
                struct.pack_into("<q", self.shared, 0, self.total)
                if self.total >= self.target or time.monotonic() > self.deadline:
                    self.target = None
                    self.answer(
                        received=self.total,
                        bytes=self.bytes,
                        lost=self.lost,
                        at=time.monotonic(),
                    )


def main() -> None:
    """Run until session.py closes the channel."""
    spec = json.loads(sys.argv[1])
    if spec["cpu"] is not None:
        os.sched_setaffinity(0, {spec["cpu"]})
    Client(spec).run()


if __name__ == "__main__":
    main()
