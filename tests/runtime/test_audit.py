"""The audit hook: the events that it gets, and the secrets that no event contains."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from holdfast import AuditAction, AuditEvent, Broadcaster, Reason, logging_audit
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import wall_clock


async def test_life_of_a_connection() -> None:
    """Connect, subscribe, refusal, unsubscribe and disconnect are one event each."""
    events: list[AuditEvent] = []

    async def may_subscribe(topic: str) -> bool:
        return topic != "secret"

    async with Broadcaster(audit=events.append, clock=wall_clock) as broadcaster:
        async with broadcaster.connect(
            user="ann", topics=["t"], transport="sse", may_subscribe=may_subscribe
        ) as connection:
            event_id = (await FrameReader(connection).first_frame()).id
            await broadcaster.subscribe(connection, ["u", "secret"])
            await broadcaster.unsubscribe(connection, ["t"])
            id = connection.id
        assert [(event.action, event.detail) for event in events] == [
            (AuditAction.CONNECTED, ""),
            (AuditAction.SUBSCRIPTION_REFUSED, "secret"),
            (AuditAction.SUBSCRIBED, "u"),
            (AuditAction.UNSUBSCRIBED, "t"),
            (AuditAction.DISCONNECTED, "the client left"),
        ]
        assert {(event.user, event.transport) for event in events} == {("ann", "sse")}
        assert {
            event.connection
            for event in events
            if event.action is not AuditAction.SUBSCRIPTION_REFUSED
        } <= {id}
        assert all(event.at == wall_clock() for event in events)
        events.clear()
        async with broadcaster.connect(
            user="ann", topics=["t"], last_event_id=event_id
        ) as connection:
            connection.close(Reason.CREDENTIALS_EXPIRED)
        assert [(event.action, event.detail) for event in events] == [
            (AuditAction.CONNECTED, "resumed"),
            (AuditAction.DISCONNECTED, "credentials_expired"),
        ]


@pytest.mark.parametrize("reason", ["taken_over", "replaced"])
async def test_each_connected_event_has_a_disconnected_event(reason: str) -> None:
    """Each connection has one event for its start and one for its end."""
    events: list[AuditEvent] = []
    async with (
        Broadcaster(audit=events.append, max_connections_per_user=1) as broadcaster,
        broadcaster.connect(user="ann", topics=["t"]) as first,
    ):
        event_id = (await FrameReader(first).first_frame()).id
        last_event_id = event_id if reason == "taken_over" else None
        async with broadcaster.connect(user="ann", topics=["t"], last_event_id=last_event_id):
            pass
    connected = [event.connection for event in events if event.action is AuditAction.CONNECTED]
    disconnected = [
        event.connection for event in events if event.action is AuditAction.DISCONNECTED
    ]
    assert len(connected) == 2
    assert sorted(map(str, disconnected)) == sorted(map(str, connected))


async def test_failing_hook_is_logged() -> None:
    """An exception in the audit hook is logged, and everything else continues."""

    def hook(event: AuditEvent) -> None:
        raise ZeroDivisionError

    async with (
        Broadcaster(audit=hook) as broadcaster,
        broadcaster.connect(topics=["t"]) as connection,
    ):
        reader = FrameReader(connection)
        await reader.first_frame()
        await broadcaster.publish("t", 1)
        assert await reader.take(1) == [1]


async def test_no_token_is_ever_in_an_event(caplog: pytest.LogCaptureFixture) -> None:
    """Neither an event nor its line in the log contains a token."""
    events: list[Any] = []
    with caplog.at_level(logging.INFO):
        write = logging_audit()

        def hook(event: AuditEvent) -> None:
            events.append(event)
            write(event)

        async with Broadcaster(audit=hook) as broadcaster:
            tokens = []
            event_id: str | None = None
            for user in ("ann", "ann", "bob"):
                async with broadcaster.connect(
                    user=user, topics=["t"], last_event_id=event_id
                ) as connection:
                    first_frame = await FrameReader(connection).first_frame()
                    tokens.append(str(first_frame.data["reconnectToken"]))
                    event_id = first_frame.id
    text = repr(events) + caplog.text
    assert text.count("connected") >= 6
    assert not any(token in text for token in tokens)


def test_refusals_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    """`logging_audit` writes refusals as warnings and other events as information."""
    write = logging_audit()
    with caplog.at_level(logging.INFO, logger="holdfast.audit"):
        for action in AuditAction:
            write(AuditEvent(action=action, at=0.0, user="a\nb"))
    levels = {record.getMessage().split(" user=")[0]: record.levelname for record in caplog.records}
    assert len(levels) == len(AuditAction)
    for name, level in levels.items():
        assert level == ("WARNING" if "refused" in name else "INFO"), name
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_own_logger(caplog: pytest.LogCaptureFixture) -> None:
    """`logging_audit` writes to the given logger."""
    with caplog.at_level(logging.INFO, logger="mine"):
        logging_audit(logging.getLogger("mine"))(AuditEvent(action=AuditAction.CONNECTED, at=0.0))
    assert [record.name for record in caplog.records] == ["mine"]


async def test_refusal_before_the_start_is_audited() -> None:
    """A foreign origin is refused, and audited, before the first request starts the Broadcaster."""
    events: list[AuditEvent] = []
    broadcaster = Broadcaster(audit=events.append, clock=wall_clock)
    broadcaster.audit(AuditAction.ORIGIN_REFUSED, detail="https://evil.example")
    assert events == [
        AuditEvent(
            action=AuditAction.ORIGIN_REFUSED, at=wall_clock(), detail="https://evil.example"
        )
    ]
