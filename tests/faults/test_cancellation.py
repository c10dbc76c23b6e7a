"""Every operation is cancelled at every await, and fails at every external call.

`HOLDFAST_STEPS=1` prints the number of steps and calls at which each operation was interrupted.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth import Action, User, anonymous
from tests.faults import changes, endpoints, operations
from tests.faults.interruption import World, WorldClient, cancel_at_every_step, fail_at_every_point
from tests.support.asgi import HttpExchange
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.virtual_loop import run_virtual

OPERATIONS: dict[Any, tuple[int, int]] = {
    operations.publish: (4, 2),
    operations.publish_with_idempotency_key: (4, 2),
    operations.publish_to_user: (4, 2),
    operations.connect_fresh: (9, 9),
    operations.connect_with_id: (39, 24),
    operations.connect_with_id_and_no_topics: (39, 24),
    operations.connect_with_token: (18, 12),
    operations.connect_with_foreign_token: (13, 12),
    operations.connect_after_log_was_lost: (14, 12),
    operations.connect_refused: (8, 5),
    operations.connect_while_the_old_one_is_alive: (15, 14),
    operations.next_live: (40, 18),
    operations.next_taken_out_by_hand: (15, 6),
    operations.next_with_a_close_pending: (20, 12),
    changes.subscribe: (4, 5),
    changes.unsubscribe: (2, 3),
    changes.reauthorize: (7, 10),
    changes.logout: (5, 4),
    changes.position: (7, 4),
    changes.drain: (2, 0),
    changes.life: (20, 8),
    changes.periodic: (20, 8),
    endpoints.stream_fresh: (13, 12),
    endpoints.stream_resumed: (40, 24),
    endpoints.stream_that_the_server_ends: (40, 24),
    endpoints.poll_fresh: (16, 12),
    endpoints.poll_resumed: (36, 22),
    endpoints.poll_that_waits: (24, 15),
    endpoints.socket_fresh: (15, 12),
    endpoints.socket_resumed_by_header: (40, 24),
    endpoints.socket_resumed_by_message: (60, 36),
    endpoints.socket_resumed_by_message_while_sending: (60, 36),
    endpoints.socket_with_commands: (60, 30),
    endpoints.request("POST", "/subscribe", topics=["u", "secret"]): (8, 8),
    endpoints.request("POST", "/unsubscribe", topics=["t"]): (7, 6),
    endpoints.request("POST", "/ack"): (5, 5),
    endpoints.request("POST", "/test-connection"): (7, 5),
    endpoints.request("GET", "/health"): (4, 4),
    endpoints.request("GET", "/connection-stats"): (5, 6),
    endpoints.request("GET", "/websocket-stats"): (5, 6),
    endpoints.request("GET", "/websocket-info"): (5, 5),
    endpoints.request("HEAD", "/stream"): (5, 5),
    endpoints.request("HEAD", "/poll"): (5, 5),
    endpoints.refused_requests: (20, 15),
    endpoints.lifespan: (9, 4),
}
"""The minimum number of steps and external calls: no operation may become empty."""


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda made: made.__name__)
def test_operation_cancelled_at_every_step_leaves_nothing_behind(operation: Any) -> None:
    """The operation ends, leaves nothing behind, loses no message, and can be repeated."""
    steps = cancel_at_every_step(operation)
    if "HOLDFAST_STEPS" in os.environ:
        print(f"{operation.__name__}: {steps} steps")  # noqa: T201
    assert steps >= OPERATIONS[operation][0]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda made: made.__name__)
def test_operation_failing_at_every_call_leaves_nothing_behind(operation: Any) -> None:
    """A broker, a hook or a server's `send` that raises has no other effect than a cancellation."""
    places = fail_at_every_point(operation, RuntimeError("broken"))
    if "HOLDFAST_STEPS" in os.environ:
        print(f"{operation.__name__}: {places}")  # noqa: T201
    assert len(places) >= OPERATIONS[operation][1]


@pytest.mark.parametrize(
    "operation",
    [endpoints.stream_resumed, endpoints.socket_resumed_by_header],
    ids=lambda made: made.__name__,
)
def test_oserror_from_send_leaves_nothing_behind(operation: Any) -> None:
    """Some servers raise OSError from `send` when the client has disconnected."""
    assert len(fail_at_every_point(operation, OSError("broken"))) >= 24


@pytest.mark.parametrize("gate", ["call_gate", "answer_gate"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # threads need a real clock
async def test_publish_repeated_after_a_timeout_happens_once(gate: str, anyio_backend: str) -> None:
    """A publish that timed out may have happened; repeated with its key, it happens once."""
    broker = DelayedBroker()
    async with Broadcaster(broker=broker) as broadcaster, broadcaster.connect(topics=["t"]) as box:
        idle = asyncio.all_tasks()

        def publish(timeout: float) -> int:
            return broadcaster.publish_from_thread("t", 1, idempotency_key="k", timeout=timeout)

        getattr(broker, gate).clear()
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(publish, 0.05)
        broker.release()
        async with asyncio.timeout(5.0):
            offset = await asyncio.to_thread(publish, 5.0)
            assert offset == await broadcaster.publish("t", 1, idempotency_key="k") == 1
            assert await broadcaster.publish("t", 2) == 2
            bodies: list[bytes] = []
            while not bodies or b'"data":2' not in bodies[-1]:
                bodies += [frame.body for frame in await box.next_frames() or ()]
                box.mark_sent()
        assert sum(b'"data":1' in body for body in bodies) == 1
        assert asyncio.all_tasks() <= idle, "the abandoned publish is still running"


def test_failing_authorize_hook_loses_no_message_silently() -> None:
    """A client that reconnects while `authorize` fails is later resumed, or gets a gap."""

    async def main() -> None:
        broken = False

        def authorize(user: User, action: Action, topic: str | None) -> bool:
            if broken:
                raise RuntimeError("the database is unavailable")
            return True

        async with Broadcaster() as broadcaster:
            app = LiveApp(broadcaster, authenticate=anonymous, authorize=authorize)
            async with HttpExchange(app, "/stream?topics=t") as call:
                await call.read_head()
                first = await call.event()
            assert first is not None
            await broadcaster.publish("t", 1)
            headers, broken = {"last-event-id": first.last_event_id}, True
            async with HttpExchange(app, "/stream?topics=t", headers=headers) as call:
                await call.read_head()  # the client leaves before it reads the answer
            broken = False
            async with HttpExchange(app, "/stream?topics=t", headers=headers) as call:
                await call.read_head()
                hello = (await call.frame())["data"]
                assert (hello["session"], hello.get("replay")) in (("resumed", 1), ("gap", None))

    run_virtual(main())


def test_logout_drops_a_session_that_is_being_detached() -> None:
    """A logout drops a session at every step of the detach of its connection."""

    async def main(steps: int) -> bool:
        world = World()
        async with world.running():
            leaver = WorldClient(world)
            leaving = asyncio.ensure_future(leaver.read_first_frame())
            for _ in range(steps):
                await asyncio.sleep(0)
            was_here, left = bool(leaver.sessions), leaving.done()
            await world.broadcaster.disconnect_user("ada")
            await asyncio.wait([leaving])
            world.session_dropped = True
            if was_here:
                await leaver.read_first_frame()
                assert leaver.sessions[-1] == "gap", f"{steps} steps: a token outlived the logout"
        return left

    assert any(run_virtual(main(steps)) for steps in range(60))


def test_logout_drops_the_session_of_a_replaced_connection() -> None:
    """A logout also drops the session of a connection that is ending."""

    async def main() -> str:
        async with Broadcaster(max_connections_per_user=1) as broadcaster:
            async with broadcaster.connect(user="ann", topics=["t"]) as oldest:
                reader = FrameReader(oldest)
                at = (await reader.first_frame()).id
                async with broadcaster.connect(user="ann", topics=["t"]):
                    await broadcaster.disconnect_user("ann")
            async with broadcaster.connect(
                user="ann", topics=["t"], last_event_id=at
            ) as connection:
                return str((await FrameReader(connection).first_frame()).data["session"])

    assert run_virtual(main()) == "gap", "a token outlived the logout"
