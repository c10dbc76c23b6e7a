"""Tokens that belong to another user."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.reconnecting import ReconnectingClient, running
from tests.support.clients import open_socket, open_stream, request

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.real_time

NEVER_ISSUED = "AAAAAAAAAAAAAAAAAAAAAA"


PRESENTATIONS: dict[str, Callable[[str], tuple[str, dict[str, str]]]] = {
    "Last-Event-ID": lambda id: ("", {"Last-Event-ID": id}),
    "X-Reconnect-Token": lambda id: ("", {"X-Reconnect-Token": id.rpartition("~")[2]}),
    "token": lambda id: (f"&reconnect_token={id.rpartition('~')[2]}", {}),
    "last_event_id": lambda id: (f"&last_event_id={id}", {}),
}
"""The ways to present an event id or its token: an addition to the query, and headers."""


@pytest.mark.parametrize("presentation", PRESENTATIONS)
@pytest.mark.parametrize("state", ["connected", "gone", "previous"])
async def test_stolen_token_opens_no_session_and_costs_its_owner_nothing(
    port: int, presentation: str, state: str
) -> None:
    """A stolen token opens nothing, looks like an unknown one, and does not affect its owner."""
    topic = f"private-{presentation}-{state}"
    name = f"ada-{presentation}-{state}"
    ada = {"X-User": name}
    at = (await request(port, "GET", f"/position?topics={topic}", headers=ada)).json()["id"]
    owner = ReconnectingClient(port, f"/stream?topics={topic}", last_event_id=at, headers=ada)
    secrets = itertools.count()

    async def present(id: str) -> list[Any]:
        """Return what Eve receives on both transports while messages are published to Ada."""
        more, headers = PRESENTATIONS[presentation](id)
        found: list[Any] = []
        for path in ("/stream", "/websocket"):
            arguments = (port, f"{path}?topics=eve{more}")
            headers["X-User"] = "eve"
            messages = [
                {"topic": topic, "data": next(secrets), "priority": "CRITICAL"},
                {"topic": topic, "data": next(secrets), "priority": "CRITICAL", "to_user": name},
                {"topic": "eve", "data": "mine", "priority": "LOW"},
            ]
            if path == "/stream":
                async with open_stream(*arguments, headers=headers) as stream:
                    frames = [(await stream.event()).json()]
                    await request(port, "POST", "/publish", {"messages": messages})
                    frames.append((await stream.event()).json())
                    token = stream.headers.pop("x-reconnect-token")
                    assert token == frames[0]["data"]["reconnectToken"]
                    found.append((stream.status, sorted(stream.headers)))
            else:
                async with open_socket(*arguments, headers=headers) as socket:
                    frames = [await socket.frame()]
                    await request(port, "POST", "/publish", {"messages": messages})
                    frames.append(await socket.frame())
            assert frames[1]["data"] == "mine"
            first = frames[0]["data"]
            for member in ("connectionId", "reconnectToken", "resumableUntil"):
                del first[member]
            found.append(first)
        return found

    seen: list[Any] = []
    async with running(owner):
        await owner.wait_until(lambda owner: owner.connected)
        stolen = at if state == "previous" else str(owner.last_event_id)
        if state != "gone":
            seen = await present(stolen)
    if state == "gone":
        seen = await present(stolen)
    assert seen == await present(f"{stolen.rpartition('~')[0]}~{NEVER_ISSUED}")
    assert seen[1]["gap"] == {"cause": "unknown", "count": None}
    assert seen[1]["topics"] == ["eve"]
    async with running(owner):
        await owner.wait_until(lambda owner: len(owner.messages) == 8)
    assert owner.messages == list(range(8))
    assert owner.sessions == ["resumed"] * 2
