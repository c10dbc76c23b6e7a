"""The one script that changes a hub, and what it answers."""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
"""The name by which Redis knows the script (EVALSHA)."""

Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the script: its name and its arguments."""

    name: str
    arguments: Sequence[Argument] = ()

    @property
    def size(self) -> int:
        """Bytes, about."""
        return sum(len(each) for each in self.arguments if isinstance(each, (str, bytes)))


HEAD = Operation("head")
"""Asks for nothing but what comes with every answer: where the log ends."""


@dataclass(frozen=True, slots=True)
class End:
    """Where the log ends, and what else its epoch was.

    `space` names the keys that hold it. `forks` are earlier epochs of the same log, each with the
    offset up to which it is the same: a server that took over may have lacked the rest.
    """

    epoch: Epoch
    space: str
    head: Offset
    forks: dict[Epoch, Offset]
    is_configured: bool
    """Whether the hub still knows its limits; else the default ones rule."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one run of the script answered."""

    end: End
    values: list[Any]


class Caller(threading.local):
    """Under which name a thread calls, and how often it has: a repeated call is known by both.

    A forked process must not call under its parent's name: it would get its parent's answers.
    """

    def __init__(self) -> None:
        self._process = 0
        self._name = ""
        self._number = 0

    def next(self) -> tuple[str, int]:
        """The name and number of the next call."""
        if self._process != os.getpid():
            self._process, self._name = os.getpid(), secrets.token_urlsafe(9)
        self._number += 1
        return self._name, self._number


def call(caller: Caller, now: float, operations: Sequence[Operation]) -> list[Argument]:
    """The arguments of one run, which may be repeated as they are."""
    candidate = secrets.token_urlsafe(9)
    out: list[Argument] = [candidate, *caller.next(), repr(now)]
    for operation in operations:
        out += (operation.name, len(operation.arguments), *operation.arguments)
    return out


def parse(raw: Any) -> Answer:
    """Read the answer of one run."""
    epoch, space, head, forks, is_configured, values = raw
    known = dict(_forks(text(forks)))
    end = End(Epoch(text(epoch)), text(space), Offset(head), known, is_configured == 1)
    return Answer(end, values)


def error_of(value: Any) -> str | None:
    """Why an operation failed; `None` if it did not."""
    match value:
        case [b"error", why]:
            return text(why)
        case _:
            return None


def text(value: Any) -> str:
    """A text that Redis gave."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _forks(forks: str) -> Iterator[tuple[Epoch, Offset]]:
    for fork in forks.split():
        epoch, _, offset = fork.partition("=")
        yield Epoch(epoch), Offset(int(offset))
