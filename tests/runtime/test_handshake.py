"""Admission: every way in which a connection can begin."""

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
    MemoryBroker,
    Priority,
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
    """A running broadcaster whose clock is the loop's."""
    async with Broadcaster(clock=wall_clock, token_grace=60.0) as made:
        yield made


async def begin(broadcaster: Broadcaster, **first_frame: Any) -> tuple[dict[str, Any], str]:
    """Connect and leave; the data and the id of the first frame."""
    async with broadcaster.connect(**{"topics": ["t"], **first_frame}) as connection:
        seen = await FrameReader(connection).first_frame()
    return dict(seen.data), seen.id


def is_reset(data: dict[str, Any], cause: str = "unknown") -> bool:
    """Whether a first frame declares a session from now on, and why."""
    return data["session"] == "gap" and data["gap"] == {"cause": cause, "count": None}


NONSENSE = [
    "0", "-1", "+5", " 5", "5 ", "1_000", "0x10", "٥", "1.2.3", "1.2.3.4.5", "9" * 5000,
    str(2**64), "null", "undefined", "a" * 500, "x.y.z", "~~~~", "~", "../../etc", "%00", "é",
    "\0", "\r\n", "a\nb", "\ud800", "\ufeff", "🦭", "'; --", "1" * 128, "\x7f",
]  # fmt: skip


class TestPosition:
    """From where a session goes on."""

    @pytest.mark.parametrize("absent", [None, ""])
    async def test_nothing_presented_is_fresh(self, broadcaster: Broadcaster, absent: Any) -> None:
        """Without an event id and a token the session is fresh, and starts now."""
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
    async def test_nonsense_is_a_declared_reset(self, broadcaster: Broadcaster, text: str) -> None:
        """An event id or token that is none gives a working session that says: unknown."""
        for first_frame in ({"last_event_id": text}, {"reconnect_token": text}):
            async with broadcaster.connect(topics=["t"], **first_frame) as connection:  # type: ignore[arg-type]
                reader = FrameReader(connection)
                assert is_reset((await reader.first_frame()).data)
                await broadcaster.publish("t", 1)
                assert await reader.take(1) == [1]

    async def test_cursor_that_cannot_be(self, broadcaster: Broadcaster) -> None:
        """With the right token, a position that is none or beyond the log is declared unknown."""
        for cursor in ("1", "1.0.0.0", str(2**63 - 1), str(2**63), "00", "-1", "+1", "0.0.0", "٥"):
            _, at = await begin(broadcaster)
            epoch, _, token = at.split("~")
            data, _ = await begin(broadcaster, last_event_id=f"{epoch}~{cursor}~{token}")
            assert is_reset(data), cursor

    async def test_future_is_judged_by_the_log(self) -> None:
        """A position that only this node has not reached yet is good."""
        broker = MemoryBroker()
        lagging = DelayedBroker(make=lambda: broker)
        async with Broadcaster(broker=broker) as ahead, Broadcaster(broker=lagging) as behind:
            await run_ready()
            lagging.feed_gate.clear()
            await ahead.publish("t", 1)
            at = await ahead.position(["t"])
            data, _ = await begin(behind, last_event_id=at)
            assert (data["session"], behind.statistics().position) == ("resumed", 0)

    async def test_what_comes_after_the_survey_is_not_passed_over(self) -> None:
        """A lane that was empty when a slow resume looked at it, and is not when it begins."""
        broker = DelayedBroker()
        async with Broadcaster(broker=broker.log) as other, Broadcaster(broker=broker) as slow:
            _, at = await begin(slow)
            broker.summary_gate.clear()
            opening = slow.connect(topics=["t"], last_event_id=at)
            entering = asyncio.ensure_future(opening.__aenter__())
            await run_ready(20)
            await other.publish("t", "late")
            await run_ready(20)
            assert slow.statistics().position == 1
            broker.summary_gate.set()
            reader = FrameReader(await entering)
            assert (await reader.first_frame()).data["session"] == "resumed"
            assert await reader.take(1) == ["late"]
            await opening.__aexit__()

    async def test_other_epoch_is_a_restart(self, broadcaster: Broadcaster) -> None:
        """An id of another log's life is declared as a restart."""
        async with Broadcaster() as other:
            _, at = await begin(other)
        data, _ = await begin(broadcaster, last_event_id=at)
        assert is_reset(data, "restart")

    async def test_trimmed_is_declared_with_the_count(self) -> None:
        """What history no longer has is counted in the first frame and stands in its lane."""
        async with Broadcaster(history_limit=10) as broadcaster:
            _, at = await begin(broadcaster)
            for n in range(25):
                await broadcaster.publish("t", n, priority=Priority.HIGH)
            await run_ready()
            async with broadcaster.connect(topics=["t"], last_event_id=at) as connection:
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

    async def test_no_gap_without_a_cause(self) -> None:
        """Others' traffic being trimmed, or nothing having happened at all, is no gap."""
        async with Broadcaster(history_limit=2) as broadcaster:
            _, at = await begin(broadcaster)
            for n in range(50):
                await broadcaster.publish("other", n)
            data, _ = await begin(broadcaster, last_event_id=at)
            assert (data["session"], data["replay"]) == ("resumed", 0)

    async def test_token_alone(self, broadcaster: Broadcaster) -> None:
        """A token without a position goes on from what was handed over, and says it is unsure."""
        async with broadcaster.connect(topics=["t"]) as connection:
            reader = FrameReader(connection)
            token = (await reader.first_frame()).data["reconnectToken"]
            for n in range(4):
                await broadcaster.publish("t", n)
            await run_ready()
            connection.delivery.take(0.0)  # what a transport would hand over next
        async with broadcaster.connect(topics=["t"], reconnect_token=token) as connection:
            reader = FrameReader(connection)
            assert is_reset((await reader.first_frame()).data)
            assert await reader.take(3) == [1, 2, 3]

    async def test_token_counts_before_the_one_in_the_event_id(
        self, broadcaster: Broadcaster
    ) -> None:
        """Of two tokens the explicit one is used, with the position of the event id."""
        one, at = await begin(broadcaster, topics=["t"])
        two, _ = await begin(broadcaster, topics=["t"])
        await begin(broadcaster, reconnect_token=two["reconnectToken"], last_event_id=at)
        data, _ = await begin(broadcaster, reconnect_token=one["reconnectToken"])
        assert data["session"] != "fresh"

    async def test_resumes_exactly_from_every_frame(self, broadcaster: Broadcaster) -> None:
        """From whichever frame a client was cut off, the rest comes once, best lane first."""
        topics = ["t", "u"]
        _, start = await begin(broadcaster, topics=topics)
        for n in range(16):
            await broadcaster.publish(topics[n % 2], n, priority=Priority(n % 4))
        await run_ready()
        expected = sorted(range(16), key=lambda n: (-(n % 4), n))
        received: list[Any] = []
        at = start
        while len(received) < 16:
            async with broadcaster.connect(topics=topics, last_event_id=at) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["replay"] == 16 - len(received)
                received += await reader.take(1)
                at = reader.last_id
        assert received == expected

    @settings(max_examples=300)
    @given(st.text(max_size=160) | st.from_regex(r"[A-Za-z0-9_-]{12}~[0-9.]{1,60}~[\w-]{22}"))
    def test_any_text_is_answered(self, text: str) -> None:
        """No text at all raises or is taken for a position."""

        async def script() -> None:
            async with Broadcaster() as broadcaster:
                data, _ = await begin(broadcaster, last_event_id=text)
                assert data["session"] == ("gap" if text else "fresh")

        run_virtual(script())


class TestToken:
    """Who may resume what."""

    async def test_each_connection_gets_a_new_token(self, broadcaster: Broadcaster) -> None:
        """A chain of resumes never shows a token twice."""
        at: str | None = None
        tokens = set()
        for _ in range(10):
            data, at = await begin(broadcaster, last_event_id=at)
            tokens.add(data["reconnectToken"])
        assert len(tokens) == 10

    async def test_refused_tokens_look_alike(self, broadcaster: Broadcaster) -> None:
        """Unknown, foreign, spent and malformed tokens are answered the same, and audited."""
        events: list[AuditEvent] = []
        node_of(broadcaster).audit._hook = events.append
        _, anns = await begin(broadcaster, user="ann")
        epoch = anns.split("~")[0]
        _, spent = await begin(broadcaster, user="bob")
        await begin(broadcaster, user="bob", last_event_id=spent)
        await asyncio.sleep(61.0)
        answers = []
        for at in (anns, spent, f"{epoch}~0~{'A' * 22}", f"{epoch}~0~{'A' * 21}"):
            data, _ = await begin(broadcaster, user="bob", last_event_id=at)
            assert is_reset(data)
            answers.append({k: type(v) for k, v in data.items()})
        assert answers == [answers[0]] * 4
        refused = [e for e in events if e.action is AuditAction.TOKEN_REFUSED]
        assert [e.detail for e in refused] == ["foreign", "spent", "unknown", "malformed"]
        assert not any(anns.split("~")[2] in repr(e) for e in events)
        data, _ = await begin(broadcaster, user="ann", last_event_id=anns)
        assert data["session"] == "resumed", "what bob tried changed nothing for ann"

    async def test_answer_lost_on_the_way(self, broadcaster: Broadcaster) -> None:
        """Whoever got no answer presents the same id again, within the grace, and resumes."""
        _, at = await begin(broadcaster, user="ann")
        await broadcaster.publish("t", 1)
        for _ in range(3):
            data, _ = await begin(broadcaster, user="ann", last_event_id=at)
            assert (data["session"], data["replay"]) == ("resumed", 1)

    async def test_two_generations_ago(self, broadcaster: Broadcaster) -> None:
        """An id from before the last resume opens nothing any more."""
        _, first = await begin(broadcaster)
        _, second = await begin(broadcaster, last_event_id=first)
        await begin(broadcaster, last_event_id=second)
        data, _ = await begin(broadcaster, last_event_id=first)
        assert is_reset(data)

    async def test_newcomer_takes_over(self, broadcaster: Broadcaster) -> None:
        """A client that is back before its old connection ended gets its session at once."""
        async with broadcaster.connect(user="ann", topics=["t"]) as ghost:
            old = FrameReader(ghost)
            at = (await old.first_frame()).id
            async with broadcaster.connect(
                user="ann", topics=["t"], last_event_id=at
            ) as connection:
                reader = FrameReader(connection)
                assert (await reader.first_frame()).data["session"] == "resumed"
                assert [s.data for s in await old.rest()] == [
                    {"reason": "taken_over", "reconnect": True}
                ]
                await broadcaster.publish("t", 1)
                assert await reader.take(1) == [1]

    async def test_two_tabs_do_not_throw_each_other_out(self, broadcaster: Broadcaster) -> None:
        """Of two that share an id, both end up with a stream of their own that stays."""
        _, shared = await begin(broadcaster, user="ann")
        connects = 0
        ids: dict[str, str | None] = {"one": shared, "two": shared}

        async def tab(name: str) -> None:
            nonlocal connects
            while True:
                connects += 1
                async with broadcaster.connect(
                    user="ann", topics=["t"], last_event_id=ids[name]
                ) as connection:
                    reader = FrameReader(connection, timeout=3600)
                    while (frame := await reader.frame()) is not None:
                        ids[name] = frame.id
                await asyncio.sleep(1.0)

        tabs = [asyncio.create_task(tab(name)) for name in ids]
        await asyncio.sleep(120.0)
        assert connects <= 4
        assert broadcaster.statistics().connections == 2
        for task in tabs:
            task.cancel()
        await asyncio.wait(tabs)

    async def test_resumable_until_is_the_shorter_of_both(self) -> None:
        """The first frame says until when a resume can work."""
        for options, seconds in (
            ({"token_lifetime": 50.0, "history_age": 70.0}, 50.0),
            ({"token_lifetime": 90.0, "history_age": 70.0}, 70.0),
        ):
            async with Broadcaster(clock=wall_clock, **options) as broadcaster:  # type: ignore[arg-type]
                data, at = await begin(broadcaster)
                assert data["resumableUntil"] == pytest.approx(wall_clock() + seconds)
                await broadcaster.publish("t", 1)
                await asyncio.sleep(seconds - 1.0)
                data, _ = await begin(broadcaster, last_event_id=at)
                assert (data["session"], data["replay"]) == ("resumed", 1)

    async def test_flood_of_guesses_costs_no_memory(self, broadcaster: Broadcaster) -> None:
        """Tokens that were never issued leave nothing behind but bounded fresh sessions."""
        broker = MemoryBroker(tokens=TokenLimits(total=50))
        async with Broadcaster(broker=broker) as limited:
            for n in range(300):
                await begin(limited, reconnect_token=f"{n:022d}")
            assert len(broker.tokens.registry) <= 100
            assert limited.statistics().tokens_refused == 300

    async def test_cancelled_connect_gives_the_session_back(self) -> None:
        """Cancelled at whichever await, a connect leaves a session that the client can resume."""
        broker = DelayedBroker(turns=2)
        async with Broadcaster(broker=broker) as broadcaster:
            _, at = await begin(broadcaster, user="ann")
            await broadcaster.publish("t", 1)
            for turns in range(60):
                task = asyncio.ensure_future(begin(broadcaster, user="ann", last_event_id=at))
                await run_ready(turns)
                task.cancel()
                await asyncio.wait([task])
                await run_ready(10)
                data, _ = await begin(broadcaster, user="ann", last_event_id=at)
                assert (data["session"], data["replay"]) == ("resumed", 1), f"after {turns} turns"
                if not task.cancelled():
                    return
            pytest.fail("a connect takes more turns than were tried")

    async def test_cancelled_fresh_connect_leaves_no_session_attached(self) -> None:
        """A fresh session whose connect was cancelled is bounded like any that is detached."""
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


class TestRights:
    """What may be seen is decided by the rights of now."""

    async def test_rights_of_now_at_resume(self, broadcaster: Broadcaster) -> None:
        """A topic that is no longer allowed is neither replayed nor delivered, and named."""
        rights = {"t", "u"}

        async def may(topic: str) -> bool:
            return topic in rights

        first_frame: dict[str, Any] = {"user": "ann", "topics": ["t", "u"], "may_subscribe": may}
        _, at = await begin(broadcaster, **first_frame)
        await broadcaster.publish("t", "secret")
        await broadcaster.publish("u", "open")
        rights.discard("t")
        async with broadcaster.connect(last_event_id=at, **first_frame) as connection:
            reader = FrameReader(connection)
            data = (await reader.first_frame()).data
            assert (data["topics"], data["rejected"], data["replay"]) == (["u"], ["t"], 1)
            assert await reader.take(1) == ["open"]
            await broadcaster.publish("t", "secret")
            await reader.assert_no_frame()

    async def test_refused_once_is_asked_for_again(self, broadcaster: Broadcaster) -> None:
        """A topic refused at one resume is given at the next, if it is allowed by then."""
        rights: set[str] = set()

        async def may(topic: str) -> bool:
            return topic in rights

        at: str | None = None
        for allowed in (False, True, False, False, True):
            rights = {"t"} if allowed else set()
            data, at = await begin(broadcaster, may_subscribe=may, last_event_id=at)
            assert (data["topics"], data["rejected"]) == ((["t"], []) if allowed else ([], ["t"]))

    async def test_new_right_does_not_disclose_the_past(self, broadcaster: Broadcaster) -> None:
        """A topic acquired at a resume starts there, whatever cursor is presented."""
        _, at = await begin(broadcaster, topics=["t"])
        await broadcaster.publish("u", "yesterday")
        await broadcaster.publish("t", "mine")
        await run_ready()
        async with broadcaster.connect(topics=["t", "u"], last_event_id=at) as connection:
            reader = FrameReader(connection)
            assert (await reader.first_frame()).data["replay"] == 1
            await broadcaster.publish("u", "today")
            assert await reader.take(2) == ["mine", "today"]

    async def test_subscriptions_are_restored_as_they_are_now(
        self, broadcaster: Broadcaster
    ) -> None:
        """What was subscribed and unsubscribed meanwhile counts, not the first request."""
        async with broadcaster.connect(topics=["t", "u"]) as connection:
            at = (await FrameReader(connection).first_frame()).id
            await broadcaster.subscribe(connection, ["v"])
            await broadcaster.unsubscribe(connection, ["t"])
        for topics in (["t", "u"], []):
            data, at = await begin(broadcaster, topics=topics, last_event_id=at)
            assert sorted(data["topics"]) == ["u", "v"]

    async def test_unsubscribed_from_all_stays_so(self, broadcaster: Broadcaster) -> None:
        """Whoever unsubscribed from everything is subscribed to nothing after a resume."""
        async with broadcaster.connect(topics=["t"]) as connection:
            at = (await FrameReader(connection).first_frame()).id
            await broadcaster.unsubscribe(connection, ["t"])
        data, _ = await begin(broadcaster, last_event_id=at)
        assert data["topics"] == []

    async def test_withdrawn_while_it_opens(self, broadcaster: Broadcaster) -> None:
        """Rights withdrawn while the hook is asked about another topic do not slip through."""
        rights, asked, answer = {"t", "u"}, asyncio.Event(), asyncio.Event()

        async def may(topic: str) -> bool:
            allowed = topic in rights
            if topic == "u" and not answer.is_set():
                asked.set()
                await answer.wait()
            return allowed

        async def client() -> list[Any]:
            async with broadcaster.connect(
                user="ann", topics=["t", "u"], may_subscribe=may
            ) as connection:
                reader = FrameReader(connection)
                await reader.first_frame()
                return await reader.take(1)

        task = asyncio.create_task(client())
        await asked.wait()
        rights.discard("t")
        await broadcaster.reauthorize("ann")
        answer.set()
        await run_ready()
        await broadcaster.publish("t", "secret")
        await broadcaster.publish("u", "open")
        assert await task == ["open"]

    async def test_hook_that_fails_lets_nobody_in(self, broadcaster: Broadcaster) -> None:
        """An error of the hook leaves the connect call, and nothing behind."""

        async def may(topic: str) -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await begin(broadcaster, may_subscribe=may)
        assert broadcaster.statistics().connections == 0


class TestLimits:
    """How many, and of what."""

    async def test_users_oldest_is_replaced(self) -> None:
        """One more than a user may have ends that user's oldest, and nobody else's."""
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

    async def test_unidentified_share_no_limit(self) -> None:
        """Clients without a name are not taken for one user."""
        async with contextlib.AsyncExitStack() as stack:
            broadcaster = await stack.enter_async_context(Broadcaster(max_connections_per_user=1))
            for _ in range(5):
                await stack.enter_async_context(broadcaster.connect(topics=["t"]))
            assert broadcaster.statistics().connections == 5

    async def test_total_is_never_exceeded(self) -> None:
        """At the limit newcomers are refused; also when several come at the same moment."""
        async with Broadcaster(max_connections=2) as broadcaster:
            asked = asyncio.Event()
            opened = 0

            async def may(topic: str) -> bool:
                return await asked.wait()

            async def client() -> None:
                nonlocal opened
                async with broadcaster.connect(topics=["t"], may_subscribe=may):
                    opened += 1
                    assert broadcaster.statistics().connections <= 2
                    await asyncio.sleep(10.0)

            clients = [asyncio.create_task(client()) for _ in range(5)]
            await run_ready()
            asked.set()
            results = await asyncio.gather(*clients, return_exceptions=True)
            refused = [r for r in results if isinstance(r, Refused)]
            assert (opened, len(refused)) == (2, 3)
            assert {(r.reason.word, r.reason.status, r.reason.close_code) for r in refused} == {
                ("over_capacity", 503, 4006)
            }
            await begin(broadcaster)

    @pytest.mark.parametrize(
        ("topics", "code"),
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
    async def test_bad_topics_are_refused(self, topics: list[str], code: str) -> None:
        """Names that are none, and too many of them, are refused, and the token is not used up."""
        async with Broadcaster(max_topics=3) as broadcaster:
            _, at = await begin(broadcaster)
            with pytest.raises(Refused) as caught:
                await begin(broadcaster, topics=topics, last_event_id=at)
            assert (caught.value.reason.word, caught.value.reason.status) == (code, 400)
            data, _ = await begin(broadcaster, last_event_id=at)
            assert data["session"] == "resumed"

    async def test_same_topic_named_often_is_one(self) -> None:
        """A name that is repeated counts once."""
        async with Broadcaster(max_topics=1) as broadcaster:
            data, _ = await begin(broadcaster, topics=["t"] * 50)
            assert data["topics"] == ["t"]

    def test_cursor_of_hello_is_captured_before_going_live(self) -> None:
        """What is published right after connect returned, before the first read, is not lost."""

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
