"""The script that reads and changes a namespace: its text, its arguments, its reply."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from ...core.cursor import Epoch
from ...core.message import Offset

SHARED = (
    "call",
    "storage",
    "settings",
    "log",
    "entry",
    "topic_log",
    "feed",
    "idempotency",
    "reading",
    "sessions",
    "presence",
)
"""The shared parts in lua/, in the order of their dependencies."""


def _join() -> str:
    """Join the files of lua/ into the text of the script.

    Each shared part becomes a local table of its name. Each file of lua/operations becomes an
    entry of `operations` that makes the operation, so that a call makes only those that it runs.
    """
    folder = files("holdfast.brokers.redis").joinpath("lua")
    parts = [
        f"local {name} = (function()\n{folder.joinpath(f'{name}.lua').read_text('utf-8')}end)()\n"
        for name in SHARED
    ]
    operations = sorted(folder.joinpath("operations").iterdir(), key=lambda file: file.name)
    made = [
        f"{file.name.removesuffix('.lua')} = function()\n{file.read_text('utf-8')}end,\n"
        for file in operations
    ]
    run = folder.joinpath("run.lua").read_text("utf-8")
    return "".join([*parts, "local operations = {\n", *made, "}\n", run])


TEXT = _join()
"""The script, as it is sent with EVAL."""

SHA = hashlib.sha1(TEXT.encode(), usedforsecurity=False).hexdigest()
"""The name of the script for EVALSHA."""

Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a call. The files of lua/operations name the arguments and the output."""

    name: str
    arguments: Sequence[Argument] = field(default=(), repr=False)  # bodies, nonces, hashes

    @property
    def size(self) -> int:
        """The length of the texts among the arguments, about that in bytes."""
        return sum(len(each) for each in self.arguments if isinstance(each, (str, bytes)))


HEAD = Operation("head")
"""Does nothing; the reply to it has the state of the log, as every reply."""


@dataclass(frozen=True, slots=True)
class LogState:
    """The state of the log after a call.

    `log_id` names the keys of the log. `forks` are earlier epochs of the same log, each with the
    offset up to which the log is the same: a server that took over may have lacked the rest.
    `is_configured` is false if the namespace has lost its limits, so that the defaults apply.
    """

    epoch: Epoch
    log_id: str
    head: Offset
    forks: dict[Epoch, Offset]
    is_configured: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one call: the state of the log, and the output of each operation."""

    log_state: LogState
    outputs: list[Any] = field(repr=False)


class CallIds(threading.local):
    """The names of calls: the name of the calling thread, and an ascending number.

    The script recognizes a repeated call by both. A forked process takes a name of its own, because
    under the name of its parent it would get the replies of its parent.
    """

    def __init__(self) -> None:
        self._process = 0
        self._caller = ""
        self._number = 0

    def next(self) -> tuple[str, int]:
        """Return the caller and the number of the next call."""
        if self._process != os.getpid():
            self._process, self._caller = os.getpid(), secrets.token_urlsafe(9)
        self._number += 1
        return self._caller, self._number


def encode_call(ids: CallIds, now: float, operations: Sequence[Operation]) -> list[Argument]:
    """Return the arguments of one call (lua/call.lua), which may be repeated as they are."""
    new_epoch = secrets.token_urlsafe(9)
    arguments: list[Argument] = [new_epoch, *ids.next(), repr(now)]
    for operation in operations:
        arguments += (operation.name, len(operation.arguments), *operation.arguments)
    return arguments


def decode_reply(raw: Any) -> Reply:
    """Return the reply to one call (lua/call.lua)."""
    epoch, log_id, head, forks, is_configured, outputs = raw
    state = LogState(
        epoch=Epoch(to_text(epoch)),
        log_id=to_text(log_id),
        head=Offset(head),
        forks=dict(_parse_forks(to_text(forks))),
        is_configured=is_configured == 1,
    )
    return Reply(state, outputs)


def error_text(output: Any) -> str | None:
    """Return the error of an operation that failed, and `None` for the output of any other."""
    match output:
        case [b"error", error]:
            return to_text(error)
        case _:
            return None


def to_text(value: Any) -> str:
    """Decode a text from Redis."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _parse_forks(forks: str) -> Iterator[tuple[Epoch, Offset]]:
    for fork in forks.split():
        epoch, _, offset = fork.partition("=")
        yield Epoch(epoch), Offset(int(offset))
