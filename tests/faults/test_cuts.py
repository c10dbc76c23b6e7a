"""A stream is cut at every byte, and the reconnecting client has everything exactly once."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.faults.parsers import (
    STREAM_PARSERS,
    ClientType,
    ParsedEvent,
    StreamClient,
    WebsocketsClient,
    WsprotoClient,
    by_sseclient,
    by_test_decoder,
)
from tests.faults.transport import (
    check,
    data,
    has_last_message,
    position,
    publish,
    receive,
    reconnect,
    run_concurrently,
)
from tests.support import SERVERS, ServerProcess
from tests.support.live_server import serve
from tests.support.proxy import CutKind, Fault, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

LONG = os.environ.get("HOLDFAST_LONG") == "1"


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """Start one server of each kind."""
    with serve(request.param) as server:
        yield server


def check_torn_event(
    events: list[ParsedEvent], tail: ParsedEvent, before: str, later: list[ParsedEvent]
) -> str:
    """Check the result of a parser that dispatches a torn event. No loss is silent.

    `before` is the id of the last whole event, `tail` is the torn event, and `later` are the events
    after the reconnect.
    """
    if tail.frame is None:  # not JSON: the client ignores it, and keeps its id
        check([*events, *later])
        return "not JSON"
    if tail.id == before:  # the data is whole, and the id has not begun
        again = data([tail])
        assert data(later)[: len(again)] == again
        check([*events, *later])
        return "twice"
    if later[0].frame["data"]["session"] == "resumed":
        check([*events, tail, *later])
        return "whole"
    # A torn id is never mistaken for another id.
    assert later[0].frame["data"]["gap"] == {"cause": "unknown", "count": None}
    return "declared"


async def run_cut(proxy: Proxy, make: ClientType, topic: str, at: str, after: int) -> list[str]:
    """Connect, cut, and reconnect with the last id of each parser."""
    client = make(proxy.port, topic, at)
    received = await receive(proxy.port, client, has_last_message)
    if not has_last_message(client):
        assert received == after
    returned: dict[str, list[ParsedEvent]] = {}
    outcomes = []
    for parse in STREAM_PARSERS if make is StreamClient else (by_test_decoder,):
        events = client.events(parse)
        id = events[-1].id or at if events else at
        if id not in returned:
            returned[id] = await reconnect(proxy.target, make, topic, id)
        whole = len(client.events())
        if len(events) > whole:
            assert parse is by_sseclient, "the others wait for the end of an event"
            before = events[-2].id if whole else ""
            outcomes.append(check_torn_event(events[:-1], events[-1], before, returned[id]))
        else:
            check([*events, *returned[id]])
    return outcomes


async def count_bytes(port: int, make: ClientType) -> int:
    """Return the bytes of an uncut connection, plus 8, because timestamps differ in length."""
    at = await position(port, "whole")
    await publish(port, "whole")
    return await receive(port, make(port, "whole", at), has_last_message) + 8


async def run_cuts(
    port: int, make: ClientType, topic: str, cuts: Iterable[tuple[int, CutKind]]
) -> Counter[str]:
    """Run each cut in a session of its own that was created before the messages."""
    todo: list[tuple[tuple[int, CutKind], str]] = []
    found: Counter[str] = Counter()

    async def prepare(cut: tuple[int, CutKind]) -> None:
        todo.append((cut, await position(port, topic)))

    async def run(item: tuple[tuple[int, CutKind], str]) -> None:
        cut, at = item
        async with Proxy(port, lambda _: Fault(cut_after=cut[0], how=cut[1])) as proxy:
            try:
                found.update(await run_cut(proxy, make, topic, at, cut[0]))
            except BaseException as error:
                error.add_note(f"cut after byte {cut[0]} by {cut[1]}")
                raise
        found["trials"] += 1

    await run_concurrently(cuts, prepare)
    await publish(port, topic)
    await run_concurrently(todo, run)
    return found


def cuts(server: ServerProcess, make: ClientType, end: int) -> list[tuple[int, CutKind]]:
    """Return every byte on uvicorn, every seventh elsewhere; each WebSocket parser has one method.

    `HOLDFAST_LONG=1`: every byte on every server, with both methods.
    """
    fine = {StreamClient: ("fin", "rst"), WebsocketsClient: ("fin",), WsprotoClient: ("rst",)}
    hows: tuple[CutKind, ...] = ("fin", "rst")
    found: list[tuple[int, CutKind]] = []
    for how in hows:
        every = LONG or (server.kind == "uvicorn" and how in fine[make])
        found += [(after, how) for after in range(0, end, 1 if every else 7)]
    return found


@pytest.mark.timeout(1200 if LONG else 120)
@pytest.mark.parametrize("make", [StreamClient, WebsocketsClient, WsprotoClient])
async def test_client_resumes_after_a_cut_at_any_byte(
    server: ServerProcess, make: ClientType
) -> None:
    """After a cut at any byte, by FIN or RST, the client receives everything exactly once.

    Three parsers read each event stream. sseclient-py dispatches a torn event: it has a message
    twice, or gets a gap, if the cut went through the line of the id.
    """
    todo = cuts(server, make, await count_bytes(server.port, make))
    found = await run_cuts(server.port, make, f"cuts-{make.__name__}", todo)
    assert found.pop("trials") == len(todo) > 400
    kinds = {"not JSON", "twice", "declared", "whole"} if make is StreamClient else set()
    assert set(found) <= kinds
    assert kinds - {"whole"} <= set(found)
