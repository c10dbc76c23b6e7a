"""Handshake: the position, the reconnect token, the permissions and the limits of a connection."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import (
    AuditAction,
    AuditEvent,
    Broadcaster,
    BrokerUnavailable,
    MemoryBroker,
    Priority,
    Reason,
    Refused,
    TokenLimits,
)
from holdfast.core.cursor import Cursor, EventId
from tests.support.delayed_broker import DelayedBroker
from tests.support.frame_reader import FrameReader
from tests.support.node import node_of
from tests.support.virtual_loop import run_ready, run_virtual, wall_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def broadcaster() -> AsyncIterator[Broadcaster]:
    """Return a running Broadcaster with the loop's clock."""
    async with Broadcaster(clock=wall_clock, token_grace=60.0) as made:
        yield made


async def begin(broadcaster: Broadcaster, **options: Any) -> tuple[dict[str, Any], str]:
    """Connect and disconnect. Returns the data and the id of the first frame."""
    async with broadcaster.connect(**{"topics": ["t"], **options}) as connection:
        first_frame = await FrameReader(connection).first_frame()
    return dict(first_frame.data), first_frame.id


@contextlib.asynccontextmanager
async def acknowledged(broadcaster: Broadcaster) -> AsyncIterator[str]:
    """Open a connection of ann that acknowledges 1 and does not read 2. Yields its token."""
    async with broadcaster.connect(user="ann", topics=["t"], acknowledges=True) as connection:
        reader = FrameReader(connection)
        token = (await reader.first_frame()).data["reconnectToken"]
        await broadcaster.publish("t", 1)
        assert await reader.take(1) == [1]
        assert connection.acknowledge(reader.last_id)
        await broadcaster.publish("t", 2)
        await run_ready()
        yield token


def is_reset(data: dict[str, Any], cause: str = "unknown") -> bool:
    """Return whether the first frame reports a gap of unknown size with this cause."""
    return data["session"] == "gap" and data["gap"] == {"cause": cause, "count": None}


NONSENSE = [
    "0", "-1", "+5", " 5", "5 ", "1_000", "0x10", "٥", "1.2.3", "1.2.3.4.5", "9" * 5000,
    str(2**64), "null", "undefined", "a" * 500, "x.y.z", "~~~~", "~", "../../etc", "%00", "é",
    "\0", "\r\n", "a\nb", "\ud800", "\ufeff", "🦭", "'; --", "1" * 128, "\x7f",
]  # fmt: skip


class TestPosition:
    """The position from which a session continues."""

    @pytest.mark.parametrize("absent", [None, ""])
    async def test_nothing_presented_is_fresh(self, broadcaster: Broadcaster, absent: Any) -> None:
        """A client without an event id and a reconnect token gets a fresh session."""
        await broadcaster.publish("t", "before")
        await run_ready()
        async with broadcaster.connect(
            topics=["t"], last_event_id=absent, reconnect_token=absent
        ) as connection:
            reader = FrameReader(connection)
            data = (await reader.first_frame()).data
            assert data["session"] == "fresh"
            assert "gap" not in data
            await broadcaster.publish("t", "after")
            assert await reader.take(1) == ["after"]

    @pytest.mark.parametrize("text", NONSENSE)
    async def test_invalid_text_is_a_reported_gap(
        self, broadcaster: Broadcaster, text: str
    ) -> None:
        """An invalid event id or reconnect token gives a working session with a gap."""
        for presented in ({"last_event_id": text}, {"reconnect_token": text}):
            async with broadcaster.connect(topics=["t"], **presented) as connection:  # type: ignore[arg-type]
                reader = FrameReader(connection)
                assert is_reset((await reader.first_frame()).data)
                await broadcaster.publish("t", 1)
                assert await reader.take(1) == [1]

    async def test_impossible_cursor_is_a_reported_gap(self, broadcaster: Broadcaster) -> None:
        """A valid token with an invalid cursor, or one beyond the log, gives a gap."""
        for text in ("1", "1.0.0.0", str(2**63 - 1), str(2**63), "00", "-1", "+1", "0.0.0", "٥"):
            _, event_id = await begin(broadcaster)
            epoch, _, token = event_id.split("~")
            data, _ = await begin(broadcaster, last_event_id=f"{epoch}~{text}~{token}")
            assert is_reset(data), text

    async def test_position_that_the_node_has_not_reached(self) -> None:
        """A position that only this node has not reached is valid."""
        broker = MemoryBroker()
        lagging = DelayedBroker(make=lambda: broker)
        async with Broadcaster(broker=broker) as ahead, Broadcaster(broker=lagging) as behind:
            await run_ready()
            lagging.feed_gate.clear()
            await ahead.publish("t", 1)
            event_id = await ahead.position(["t"])
            data, _ = await begin(behind, last_event_id=event_id)
            assert (data["session"], behind.statistics().offset) == ("resumed", 0)

    async def test_message_after_the_summary_is_delivered(self) -> None:
        """A message in a lane that the summary showed as empty is delivered."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker.log) as other, Broadcaster(broker=broker) as slow:
            _, event_id = await begin(slow)
            broker.summary_gate.clear()
            context = slow.connect(topics=["t"], last_event_id=event_id)
            connecting = asyncio.ensure_future(context.__aenter__())
            await run_ready(20)
            await other.publish("t", "late")
            await run_ready(20)
            assert slow.statistics().offset == 1
            broker.summary_gate.set()
            reader = FrameReader(await connecting)
            assert (await reader.first_frame()).data["session"] == "resumed"
            assert await reader.take(1) == ["late"]
            await context.__aexit__()

    async def test_other_epoch_is_a_restart(self, broadcaster: Broadcaster) -> None:
        """An event id of another epoch gives a gap with the cause restart."""
        async with Broadcaster() as other:
            _, event_id = await begin(other)
        data, _ = await begin(broadcaster, last_event_id=event_id)
        assert is_reset(data, "restart")

    async def test_trimmed_messages_are_reported_with_their_count(self) -> None:
        """Trimmed messages are counted in the first frame, and reported in their lane."""
        async with Broadcaster(history_limit=10) as broadcaster:
            _, event_id = await begin(broadcaster)
            for n in range(25):
                await broadcaster.publish("t", n, priority=Priority.HIGH)
            await run_ready()
            async with broadcaster.connect(topics=["t"], last_event_id=event_id) as connection:
                reader = FrameReader(connection)
                data = (await reader.first_frame()).data
                assert data["session"] == "gap"
                assert data["gap"] == {"cause": "trimmed", "count": 15}
                assert data["replay"] == 10
                gap = await reader.frame()
                assert gap is not None
                assert gap.data == {
                    "cause": "trimmed", "count": 15, "topics": ["t"], "priority": "high",
                }  # fmt: skip
                assert await reader.take(10) == list(range(15, 25))

    async def test_trimmed_messages_of_other_topics_are_no_gap(self) -> None:
        """Trimmed messages of topics that are not subscribed do not make a gap."""
        async with Broadcaster(history_limit=2) as broadcaster:
            _, event_id = await begin(broadcaster)
            for n in range(50):
                await broadcaster.publish("other", n)
            data, _ = await begin(broadcaster, last_event_id=event_id)
            assert (data["session"], data["replay"]) == ("resumed", 0)

    async def test_token_without_a_position_resumes_with_a_gap(
        self, broadcaster: Broadcaster
    ) -> None:
        """A token alone resumes from the sent position, and reports a gap."""
        async with broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            token = (await reader.first_frame()).data["reconnectToken"]
            for n in range(4):
                await broadcaster.publish("t", n)
            await run_ready()
            connection.delivery.take(0.0)  # a transport does this next
        async with broadcaster.connect(topics=["t"], reconnect_token=token) as connection:
            reader = FrameReader(connection)
            assert is_reset((await reader.first_frame()).data)
            assert await reader.take(3) == [1, 2, 3]

    async def test_reconnect_token_precedes_the_event_id(self, broadcaster: Broadcaster) -> None:
        """The explicit reconnect token is used, with the position of the event id."""
        first, event_id = await begin(broadcaster, topics=["t"])
        second, _ = await begin(broadcaster, topics=["t"])
        await begin(broadcaster, reconnect_token=second["reconnectToken"], last_event_id=event_id)
        data, _ = await begin(broadcaster, reconnect_token=first["reconnectToken"])
        assert data["session"] != "fresh"

    async def test_resumes_exactly_from_every_frame(self, broadcaster: Broadcaster) -> None:
        """A client that is cut after any frame gets the remaining messages once, in order."""
        topics = ["t", "u"]
        _, start = await begin(broadcaster, topics=topics)
        for n in range(16):
            await broadcaster.publish(topics[n % 2], n, priority=Priority(n % 4))
        await run_ready()
        expected = sorted(range(16), key=lambda n: (-(n % 4), n))
        received: list[Any] = []
        event_id = start
        while len(received) < 16:
            async with broadcaster.connect(topics=topics, last_event_id=event_id) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["replay"] == 16 - len(received)
                received += await reader.take(1)
                event_id = reader.last_id
        assert received == expected

    @pytest.mark.slow
    @settings(max_examples=300)
    @given(st.text(max_size=160) | st.from_regex(r"[A-Za-z0-9_-]{12}~[0-9.]{1,60}~[\w-]{22}"))
    def test_any_text_is_answered(self, text: str) -> None:
        """No text in place of an event id raises, or is a valid position."""

        async def script() -> None:
            async with Broadcaster() as broadcaster:
                data, _ = await begin(broadcaster, last_event_id=text)
                assert data["session"] == ("gap" if text else "fresh")

        run_virtual(script())


class TestToken:
    """The reconnect token and the session that it opens."""

    async def test_each_connection_gets_a_new_token(self, broadcaster: Broadcaster) -> None:
        """Ten resumes in a row issue ten different tokens."""
        event_id: str | None = None
        tokens = set()
        for _ in range(10):
            data, event_id = await begin(broadcaster, last_event_id=event_id)
            tokens.add(data["reconnectToken"])
        assert len(tokens) == 10

    async def test_refused_tokens_look_alike(self, broadcaster: Broadcaster) -> None:
        """Unknown, foreign, spent and malformed tokens get the same answer, and are audited."""
        events: list[AuditEvent] = []
        node_of(broadcaster).audit._hook = events.append
        _, foreign = await begin(broadcaster, user="ann")
        epoch = foreign.split("~")[0]
        _, spent = await begin(broadcaster, user="bob")
        await begin(broadcaster, user="bob", last_event_id=spent)
        await asyncio.sleep(61.0)
        answers = []
        for event_id in (foreign, spent, f"{epoch}~0~{'A' * 22}", f"{epoch}~0~{'A' * 21}"):
            data, _ = await begin(broadcaster, user="bob", last_event_id=event_id)
            assert is_reset(data)
            answers.append({k: type(v) for k, v in data.items()})
        assert answers == [answers[0]] * 4
        refused = [e for e in events if e.action is AuditAction.TOKEN_REFUSED]
        assert [e.detail for e in refused] == ["foreign", "spent", "unknown", "malformed"]
        assert not any(foreign.split("~")[2] in repr(e) for e in events)
        data, _ = await begin(broadcaster, user="ann", last_event_id=foreign)
        assert data["session"] == "resumed", "a foreign attempt changes nothing for the owner"

    async def test_lost_answer_is_repeated(self, broadcaster: Broadcaster) -> None:
        """A client whose answer was lost resumes with the same id within the grace time."""
        _, event_id = await begin(broadcaster, user="ann")
        await broadcaster.publish("t", 1)
        for _ in range(3):
            data, _ = await begin(broadcaster, user="ann", last_event_id=event_id)
            assert (data["session"], data["replay"]) == ("resumed", 1)

    async def test_token_two_generations_old_is_refused(self, broadcaster: Broadcaster) -> None:
        """An event id from before the last resume opens no session."""
        _, first = await begin(broadcaster)
        _, second = await begin(broadcaster, last_event_id=first)
        await begin(broadcaster, last_event_id=second)
        data, _ = await begin(broadcaster, last_event_id=first)
        assert is_reset(data)

    async def test_new_connection_takes_over(self, broadcaster: Broadcaster) -> None:
        """A client that reconnects takes its session over from its old connection."""
        async with broadcaster.connect(user="ann", topics=["t"]) as taken_over:
            old_reader = FrameReader(taken_over)
            event_id = (await old_reader.first_frame()).id
            async with broadcaster.connect(
                user="ann", topics=["t"], last_event_id=event_id
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "resumed"
                assert [frame.data for frame in await old_reader.rest()] == [
                    {"reason": "taken_over", "reconnect": True}
                ]
                await broadcaster.publish("t", 1)
                assert await reader.take(1) == [1]

    @pytest.mark.parametrize("failing", ["authorize", "head", "save", "summarize"])
    async def test_failed_takeover_keeps_the_position(
        self, failing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handshake that fails after it took over leaves the position of the old connection."""
        broker = MemoryBroker()

        async def fail(*_: Any) -> bool:
            raise BrokerUnavailable("gone")

        async with Broadcaster(broker=broker) as broadcaster, acknowledged(broadcaster) as token:
            options: dict[str, Any] = {"user": "ann", "reconnect_token": token}
            with monkeypatch.context() as patch:
                if failing == "save":
                    patch.setattr(broker.tokens, "save", fail)
                elif failing != "authorize":
                    patch.setattr(broker, failing, fail)
                with pytest.raises((BrokerUnavailable, Refused)):
                    await begin(
                        broadcaster,
                        **options,
                        may_subscribe=fail if failing == "authorize" else None,
                    )
            async with broadcaster.connect(**options, topics=["t"]) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "resumed"
                assert await reader.take(1) == [2]

    async def test_takes_over_a_connection_that_was_ended(self, broadcaster: Broadcaster) -> None:
        """The position of a connection counts until its transport returns, though it was ended."""
        async with acknowledged(broadcaster) as token:
            connection = broadcaster.connections_of("ann")[0]

            def fail(topic: str) -> bool:
                raise RuntimeError("the database is away")

            connection.may_subscribe = fail
            await broadcaster.reauthorize("ann")
            assert connection.close_reason is Reason.FAILED
            async with broadcaster.connect(user="ann", reconnect_token=token) as newcomer:
                reader = FrameReader(newcomer)
                assert (await reader.first_frame()).data["session"] == "resumed"
                assert await reader.take(1) == [2]

    async def test_two_tabs_with_one_id_both_stay_connected(self, broadcaster: Broadcaster) -> None:
        """Two tabs that share an event id both get a connection that stays."""
        _, shared = await begin(broadcaster, user="ann")
        connect_count = 0
        ids: dict[str, str | None] = {"one": shared, "two": shared}

        async def tab(name: str) -> None:
            nonlocal connect_count
            while True:
                connect_count += 1
                async with broadcaster.connect(
                    user="ann", topics=["t"], last_event_id=ids[name]
                ) as connection:
                    reader = FrameReader(connection, timeout=3600)
                    while (frame := await reader.frame()) is not None:
                        ids[name] = frame.id
                await asyncio.sleep(1.0)

        tabs = [asyncio.create_task(tab(name)) for name in ids]
        await asyncio.sleep(120.0)
        assert connect_count <= 4
        assert broadcaster.statistics().connections == 2
        for task in tabs:
            task.cancel()
        await asyncio.wait(tabs)

    async def test_resumable_until(self) -> None:
        """`resumableUntil` is the shorter of the token lifetime and the history age."""
        for options, seconds in (
            ({"token_lifetime": 50.0, "history_age": 70.0}, 50.0),
            ({"token_lifetime": 90.0, "history_age": 70.0}, 70.0),
        ):
            async with Broadcaster(clock=wall_clock, **options) as broadcaster:  # type: ignore[arg-type]
                data, event_id = await begin(broadcaster)
                assert data["resumableUntil"] == pytest.approx(wall_clock() + seconds)
                await broadcaster.publish("t", 1)
                await asyncio.sleep(seconds - 1.0)
                data, _ = await begin(broadcaster, last_event_id=event_id)
                assert (data["session"], data["replay"]) == ("resumed", 1)

    async def test_guessed_tokens_leave_a_bounded_number_of_sessions(
        self, broadcaster: Broadcaster
    ) -> None:
        """Refused tokens leave only the bounded number of fresh sessions."""
        broker = MemoryBroker(tokens=TokenLimits(total=50))
        async with Broadcaster(broker=broker) as limited:
            for n in range(300):
                await begin(limited, reconnect_token=f"{n:022d}")
            assert len(broker.tokens.registry) <= 100
            assert limited.statistics().tokens_refused == 300

    async def test_cancelled_connect_keeps_the_session(self) -> None:
        """A connect that is cancelled at any await leaves a session that can be resumed."""
        broker = DelayedBroker(turns=2)
        async with Broadcaster(broker=broker) as broadcaster:
            _, event_id = await begin(broadcaster, user="ann")
            await broadcaster.publish("t", 1)
            for turns in range(60):
                task = asyncio.ensure_future(begin(broadcaster, user="ann", last_event_id=event_id))
                await run_ready(turns)
                task.cancel()
                await asyncio.wait([task])
                await run_ready(10)
                data, _ = await begin(broadcaster, user="ann", last_event_id=event_id)
                assert (data["session"], data["replay"]) == ("resumed", 1), f"after {turns} turns"
                if not task.cancelled():
                    return
            pytest.fail("a connect takes more turns than this test tries")

    async def test_cancelled_fresh_connect_leaves_no_session_attached(self) -> None:
        """A fresh session whose connect was cancelled is detached, and counts for the limits."""
        broker = DelayedBroker(
            turns=2, make=lambda: MemoryBroker(tokens=TokenLimits(total=1, per_user=1))
        )
        async with Broadcaster(broker=broker) as broadcaster:
            for turns in range(40):
                task = asyncio.ensure_future(begin(broadcaster, user="ann"))
                await run_ready(turns)
                task.cancel()
                await asyncio.wait([task])
                await run_ready(10)
                assert len(broker.log.tokens.registry) <= 2, f"after {turns} turns"


class TestPermissions:
    """The permissions at the time of the handshake."""

    async def test_resume_authorizes_again(self, broadcaster: Broadcaster) -> None:
        """A topic that is no longer allowed is rejected, and neither replayed nor delivered."""
        allowed_topics = {"t", "u"}

        async def may_subscribe(topic: str) -> bool:
            return topic in allowed_topics

        options: dict[str, Any] = {
            "user": "ann",
            "topics": ["t", "u"],
            "may_subscribe": may_subscribe,
        }
        _, event_id = await begin(broadcaster, **options)
        await broadcaster.publish("t", "secret")
        await broadcaster.publish("u", "open")
        allowed_topics.discard("t")
        async with broadcaster.connect(last_event_id=event_id, **options) as connection:
            reader = FrameReader(connection)
            data = (await reader.first_frame()).data
            assert (data["topics"], data["rejected"], data["replay"]) == (["u"], ["t"], 1)
            assert await reader.take(1) == ["open"]
            await broadcaster.publish("t", "secret")
            await reader.assert_no_frame()

    async def test_refused_topic_is_authorized_at_each_resume(
        self, broadcaster: Broadcaster
    ) -> None:
        """A topic that was refused at one resume is authorized again at the next."""
        allowed_topics: set[str] = set()

        async def may_subscribe(topic: str) -> bool:
            return topic in allowed_topics

        event_id: str | None = None
        for is_allowed in (False, True, False, False, True):
            allowed_topics = {"t"} if is_allowed else set()
            data, event_id = await begin(
                broadcaster, may_subscribe=may_subscribe, last_event_id=event_id
            )
            assert (data["topics"], data["rejected"]) == (
                (["t"], []) if is_allowed else ([], ["t"])
            )

    async def test_new_topic_begins_at_the_resume(self, broadcaster: Broadcaster) -> None:
        """A topic that is added at a resume discloses no earlier message."""
        _, event_id = await begin(broadcaster, topics=["t"])
        await broadcaster.publish("u", "before")
        await broadcaster.publish("t", "mine")
        await run_ready()
        async with broadcaster.connect(topics=["t", "u"], last_event_id=event_id) as connection:
            reader = FrameReader(connection)
            assert (await reader.first_frame()).data["replay"] == 1
            await broadcaster.publish("u", "after")
            assert await reader.take(2) == ["mine", "after"]

    async def test_current_subscriptions_are_restored(self, broadcaster: Broadcaster) -> None:
        """A resume restores the current subscriptions, not those of the first request."""
        async with broadcaster.connect(topics=["t", "u"]) as connection:
            event_id = (await FrameReader(connection).first_frame()).id
            await broadcaster.subscribe(connection, ["v"])
            await broadcaster.unsubscribe(connection, ["t"])
        for topics in (["t", "u"], []):
            data, event_id = await begin(broadcaster, topics=topics, last_event_id=event_id)
            assert sorted(data["topics"]) == ["u", "v"]

    async def test_session_without_subscriptions_stays_without(
        self, broadcaster: Broadcaster
    ) -> None:
        """A session whose topics were all unsubscribed resumes without topics."""
        async with broadcaster.connect(topics=["t"]) as connection:
            event_id = (await FrameReader(connection).first_frame()).id
            await broadcaster.unsubscribe(connection, ["t"])
        data, _ = await begin(broadcaster, last_event_id=event_id)
        assert data["topics"] == []

    async def test_permission_withdrawn_during_the_handshake(
        self, broadcaster: Broadcaster
    ) -> None:
        """A permission that is withdrawn during the handshake is not granted."""
        allowed_topics, is_asked, may_answer = {"t", "u"}, asyncio.Event(), asyncio.Event()

        async def may_subscribe(topic: str) -> bool:
            is_allowed = topic in allowed_topics
            if topic == "u" and not may_answer.is_set():
                is_asked.set()
                await may_answer.wait()
            return is_allowed

        async def client() -> list[Any]:
            async with broadcaster.connect(
                user="ann", topics=["t", "u"], may_subscribe=may_subscribe
            ) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                return await reader.take(1)

        task = asyncio.create_task(client())
        await is_asked.wait()
        allowed_topics.discard("t")
        await broadcaster.reauthorize("ann")
        may_answer.set()
        await run_ready()
        await broadcaster.publish("t", "secret")
        await broadcaster.publish("u", "open")
        assert await task == ["open"]

    async def test_hook_that_raises_opens_no_connection(self, broadcaster: Broadcaster) -> None:
        """An exception of the hook leaves `connect`, and no connection stays."""

        async def may_subscribe(topic: str) -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await begin(broadcaster, may_subscribe=may_subscribe)
        assert broadcaster.statistics().connections == 0


class TestLimits:
    """The limits of connections and topics."""

    async def test_oldest_connection_of_a_user_is_replaced(self) -> None:
        """A connection over the limit per user replaces the oldest connection of that user."""
        async with (
            Broadcaster(max_connections_per_user=2) as broadcaster,
            broadcaster.connect(user="ann", topics=["t"]) as first,
            broadcaster.connect(user="bob", topics=["t"]) as other,
            broadcaster.connect(user="ann", topics=["t"]) as second,
            broadcaster.connect(user="ann", topics=["t"]) as third,
        ):
            assert (await FrameReader(first).rest())[-1].data["reason"] == "replaced"
            await broadcaster.publish("t", 1)
            for connection in (other, second, third):
                reader = FrameReader(connection)
                await reader.first_frame()
                assert await reader.take(1) == [1]

    async def test_unidentified_clients_have_no_limit_per_user(self) -> None:
        """Unidentified clients are not one user."""
        async with contextlib.AsyncExitStack() as stack:
            broadcaster = await stack.enter_async_context(Broadcaster(max_connections_per_user=1))
            for _ in range(5):
                await stack.enter_async_context(broadcaster.connect(topics=["t"]))
            assert broadcaster.statistics().connections == 5

    async def test_total_is_never_exceeded(self) -> None:
        """Connections over the total limit are refused, also if several open at once."""
        async with Broadcaster(max_connections=2) as broadcaster:
            may_answer = asyncio.Event()
            opened = 0

            async def may_subscribe(topic: str) -> bool:
                return await may_answer.wait()

            async def client() -> None:
                nonlocal opened
                async with broadcaster.connect(topics=["t"], may_subscribe=may_subscribe):
                    opened += 1
                    assert broadcaster.statistics().connections <= 2
                    await asyncio.sleep(10.0)

            clients = [asyncio.create_task(client()) for _ in range(5)]
            await run_ready()
            may_answer.set()
            results = await asyncio.gather(*clients, return_exceptions=True)
            refused = [r for r in results if isinstance(r, Refused)]
            assert (opened, len(refused)) == (2, 3)
            assert {(r.reason.word, r.reason.status, r.reason.close_code) for r in refused} == {
                ("over_capacity", 503, 4006)
            }
            await begin(broadcaster)

    @pytest.mark.parametrize(
        ("topics", "word"),
        [
            (["a b"], "invalid_topic"),
            ([""], "invalid_topic"),
            (["$user"], "invalid_topic"),
            (["a", "b", "c", "d"], "too_many_topics"),
            ([f"t{n}" for n in range(100_000)], "too_many_topics"),
            (["a**"], "invalid_topic"),
            (["x" * 201], "invalid_topic"),
        ],
    )
    async def test_bad_topics_are_refused(self, topics: list[str], word: str) -> None:
        """Invalid or too many topics are refused, and the token is not redeemed."""
        async with Broadcaster(max_topics=3) as broadcaster:
            _, event_id = await begin(broadcaster)
            with pytest.raises(Refused) as caught:
                await begin(broadcaster, topics=topics, last_event_id=event_id)
            assert (caught.value.reason.word, caught.value.reason.status) == (word, 400)
            data, _ = await begin(broadcaster, last_event_id=event_id)
            assert data["session"] == "resumed"

    async def test_repeated_topic_counts_once(self) -> None:
        """A topic that is named repeatedly counts once."""
        async with Broadcaster(max_topics=1) as broadcaster:
            data, _ = await begin(broadcaster, topics=["t"] * 50)
            assert data["topics"] == ["t"]

    def test_message_before_the_first_read_is_not_lost(self) -> None:
        """A message between `connect` and the first read is after the id of the first frame."""

        async def script() -> None:
            async with Broadcaster() as broadcaster:
                async with broadcaster.connect(topics=["t"]) as connection:
                    await broadcaster.publish("t", 1)
                    await run_ready()
                    first_frame = await FrameReader(connection).first_frame()
                parsed = EventId.parse(first_frame.id)
                assert parsed is not None
                assert parsed.cursor == Cursor.at(0)
                data, _ = await begin(broadcaster, last_event_id=first_frame.id)
                assert data["replay"] == 1

        run_virtual(script())
