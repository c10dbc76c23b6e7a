"""A stream is cut at every byte, and the client that comes back has everything exactly once."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.faults.parsers import (
    STREAM_PARSERS,
    MakeClient,
    Seen,
    StreamClient,
    WebsocketsClient,
    WsprotoClient,
    by_sseclient,
    ours,
)
from tests.faults.wire import (
    by_fifties,
    check,
    come_back,
    data,
    has_end,
    position,
    publish,
    receive,
)
from tests.support import SERVERS, ServerProcess
from tests.support.live import serve
from tests.support.proxy import Fault, How, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONG = os.environ.get("HOLDFAST_LONG") == "1"


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """One server of each kind."""
    with serve(request.param) as server:
        yield server


def check_without_end(seen: list[Seen], tail: Seen, before: str, later: list[Seen]) -> str:
    """What a parser that dispatches an event without its end makes of it; no silent loss.

    The event before it had the id ``before``, ``tail`` is the event in question, and ``later``
    what came after the return.
    """
    if tail.frame is None:  # cut within the data: no JSON, nothing to process, and no id yet
        check([*seen, *later])
        return "not JSON"
    if tail.id == before:  # the data is whole, and its id has not begun
        again = data([tail])
        assert data(later)[: len(again)] == again
        check([*seen, *later])
        return "twice"
    if later[0].frame["data"]["session"] == "resumed":
        check([*seen, tail, *later])
        return "whole"
    # An id that was cut is never taken for another one.
    assert later[0].frame["data"]["gap"] == {"cause": "unknown", "count": None}
    return "declared"


async def trial(proxy: Proxy, make: MakeClient, topic: str, at: str, after: int) -> list[str]:
    """Connect, be cut, and come back with the last id that each parser knows of."""
    client = make(proxy.port, topic, at)
    received = await receive(proxy.port, client, has_end)
    if not has_end(client):
        assert received == after
    returned: dict[str, list[Seen]] = {}
    outcomes = []
    for parse in STREAM_PARSERS if make is StreamClient else (ours,):
        seen = client.seen(parse)
        id = seen[-1].id or at if seen else at
        if id not in returned:
            returned[id] = await come_back(proxy.target, make, topic, id)
        whole = len(client.seen())
        if len(seen) > whole:
            assert parse is by_sseclient, "the others wait for the end of an event"
            before = seen[-2].id if whole else ""
            outcomes.append(check_without_end(seen[:-1], seen[-1], before, returned[id]))
        else:
            check([*seen, *returned[id]])
    return outcomes


async def length(port: int, make: MakeClient) -> int:
    """How many bytes a connection sends that is not cut; the clock's digits make a difference."""
    at = await position(port, "whole")
    await publish(port, "whole")
    return await receive(port, make(port, "whole", at), has_end) + 8


async def sweep(
    port: int, make: MakeClient, topic: str, cuts: Iterable[tuple[int, How]]
) -> Counter[str]:
    """Each cut in a session of its own, that was made before anything was published."""
    todo: list[tuple[tuple[int, How], str]] = []
    found: Counter[str] = Counter()

    async def prepare(cut: tuple[int, How]) -> None:
        todo.append((cut, await position(port, topic)))

    async def run(item: tuple[tuple[int, How], str]) -> None:
        cut, at = item
        async with Proxy(port, lambda _: Fault(cut_after=cut[0], how=cut[1])) as proxy:
            try:
                found.update(await trial(proxy, make, topic, at, cut[0]))
            except BaseException as error:
                error.add_note(f"cut after byte {cut[0]} by {cut[1]}")
                raise
        found["trials"] += 1

    await by_fifties(cuts, prepare)
    await publish(port, topic)
    await by_fifties(todo, run)
    return found


def cuts(server: ServerProcess, make: MakeClient, end: int) -> list[tuple[int, How]]:
    """Every byte on uvicorn, every seventh elsewhere; of a WebSocket, each way by one parser.

    ``HOLDFAST_LONG=1``: every byte everywhere, in both ways.
    """
    fine = {StreamClient: ("fin", "rst"), WebsocketsClient: ("fin",), WsprotoClient: ("rst",)}
    hows: tuple[How, ...] = ("fin", "rst")
    found: list[tuple[int, How]] = []
    for how in hows:
        every = LONG or (server.kind == "uvicorn" and how in fine[make])
        found += [(after, how) for after in range(0, end, 1 if every else 7)]
    return found


@pytest.mark.timeout(1200 if LONG else 120)
@pytest.mark.parametrize("make", [StreamClient, WebsocketsClient, WsprotoClient])
async def test_cut_anywhere(server: ServerProcess, make: MakeClient) -> None:
    """Wherever it is cut, by FIN or RST, the client comes back and has everything exactly once.

    Of an event stream, so says each of three parsers. The one that dispatches an event without
    its end has a message twice, or is told of a gap, where the cut went through the line of the id.
    """
    todo = cuts(server, make, await length(server.port, make))
    found = await sweep(server.port, make, f"cuts-{make.__name__}", todo)
    assert found.pop("trials") == len(todo) > 400
    kinds = {"not JSON", "twice", "declared", "whole"} if make is StreamClient else set()
    assert set(found) <= kinds
    assert kinds - {"whole"} <= set(found)
