"""The oracle counts each kind of violation, and accepts everything that is allowed."""

from __future__ import annotations

import pytest

from tests.fuzz.reference import covers
from tests.soak.oracle import ClientOracle
from tests.soak.script import Script


@pytest.fixture
def script() -> Script:
    """Return a client that has connected for the first time."""
    return Script()


def test_deliveries_in_order_are_accepted(script: Script) -> None:
    """Lanes overtake each other; inside one lane, messages arrive in publish order."""
    first, urgent, second = script.publish(), script.publish(lane="critical"), script.publish("b")
    script.deliver(urgent, first, second)
    assert script.finish() == {}


def test_skipped_message_is_lost(script: Script) -> None:
    """A message has to arrive before each later message of its lane."""
    script.publish()
    script.deliver(script.publish())
    assert script.finish() == {"lost": 1}


def test_missing_message_is_lost_at_the_end(script: Script) -> None:
    """At the end of a run, no message is still expected."""
    script.publish()
    assert script.finish() == {"lost": 1}


def test_second_delivery_is_duplicated(script: Script) -> None:
    """A message that is delivered again on a later connection is a duplicate."""
    number = script.publish()
    script.deliver(number)
    script.connect()
    script.deliver(number)
    assert script.finish() == {"duplicated": 1}


def test_latest_value_of_a_key_may_be_repeated(script: Script) -> None:
    """The latest value has the place of the value that it superseded."""
    script.publish(key="k")
    number = script.publish(key="k")
    script.deliver(number)
    script.connect()
    script.deliver(number)
    assert script.finish() == {}


def test_older_value_after_a_newer_one_is_stale(script: Script) -> None:
    """A superseded value may be omitted, but not delivered late."""
    old, new = script.publish(key="k"), script.publish(key="k")
    script.deliver(new, old)
    assert script.finish() == {"stale": 1}


def test_late_message_is_lost_and_reordered(script: Script) -> None:
    """A skipped message counts as lost; its late delivery is a second violation."""
    first, second = script.publish(), script.publish()
    script.deliver(second, first)
    assert script.finish() == {"lost": 1, "reordered": 1}


def test_message_below_an_earlier_delivery_is_reordered(script: Script) -> None:
    """A lane never goes back, also where the message itself is optional."""
    unconfirmed = script.published.add("c", "normal").number
    script.deliver(script.publish())
    script.client.request_change("c", "subscribe")
    script.deliver(unconfirmed)
    assert script.finish() == {"reordered": 1}


@pytest.mark.parametrize(
    "foreign", [{"topic": "c"}, {"to_user": "v"}, {"topic": "$user", "to_user": "v"}]
)
def test_message_for_another_client_is_spurious(script: Script, foreign: dict[str, str]) -> None:
    """A message of another topic, or of another user, is a violation."""
    script.deliver(script.publish(**foreign))
    assert script.finish() == {"spurious": 1}


def test_message_before_the_subscription_is_spurious(script: Script) -> None:
    """A subscription starts when it is made."""
    number = script.publish("c")
    script.client.request_change("c", "subscribe")
    script.client.confirm_change("c", in_order=True)
    script.deliver(number)
    assert script.finish() == {"spurious": 1}


def test_message_after_the_subscription_is_expected(script: Script) -> None:
    """A message is expected after the answer, and optional between request and answer."""
    script.client.request_change("c", "subscribe")
    between = script.publish("c")
    script.client.confirm_change("c", in_order=True)
    after = script.publish("c")
    script.deliver(between, after)
    script.publish("c")
    assert script.finish() == {"lost": 1}


def test_message_of_an_unsubscribed_topic_is_spurious(script: Script) -> None:
    """Over WebSocket, no message of a topic follows the answer to its unsubscribe."""
    number = script.publish("b")
    script.client.request_change("b", "unsubscribe")
    script.client.confirm_change("b", in_order=True)
    assert script.finish() == {}
    script.deliver(number)
    assert script.finish() == {"spurious": 1}


def test_resume_without_a_confirmed_subscription_is_contradicted(script: Script) -> None:
    """A resumed session has each subscription that was confirmed."""
    script.client.request_change("c", "subscribe")
    script.client.confirm_change("c", in_order=True)
    script.connect(topics=("a", "b"))
    assert script.finish() == {"contradicted": 1}


def test_reported_gap_of_trimmed_messages_is_accepted(script: Script) -> None:
    """The gap has the count of trimmed messages, and precedes the messages that follow."""
    numbers = [script.publish() for _ in range(4)]
    script.connect("gap", cause="trimmed", count=2)
    script.report_gap(2)
    script.deliver(*numbers[2:])
    assert script.finish() == {}


def test_gap_with_a_wrong_count_is_miscounted(script: Script) -> None:
    """The count is checked in the first frame, and in a gap frame."""
    numbers = [script.publish() for _ in range(4)]
    script.connect("gap", cause="trimmed", count=1)
    script.report_gap(3)
    script.deliver(*numbers[2:])
    assert script.finish() == {"miscounted": 2}


def test_small_gap_without_a_count_is_miscounted(script: Script) -> None:
    """A server remembers the last 1,024 trimmed messages, so it counts a small gap."""
    numbers = [script.publish() for _ in range(4)]
    script.report_gap(None)
    script.deliver(*numbers[2:])
    assert script.finish() == {"miscounted": 1}


def test_message_delivered_after_its_gap_is_contradicted(script: Script) -> None:
    """A message that was reported lost is never delivered."""
    numbers = [script.publish() for _ in range(4)]
    script.report_gap(2)
    script.deliver(*numbers[2:], numbers[0])
    assert script.finish() == {"contradicted": 1}


def test_resumed_after_a_trim_is_contradicted(script: Script) -> None:
    """`resumed` means that no message is missing."""
    numbers = [script.publish() for _ in range(4)]
    script.connect("resumed")
    script.report_gap(2)
    script.deliver(*numbers[2:])
    assert script.finish() == {"contradicted": 1}


def test_gap_over_kept_messages_is_unjustified(script: Script) -> None:
    """The history holds two messages, and only one was needed."""
    script.publish()
    number = script.publish()
    script.report_gap(1)
    script.deliver(number)
    assert script.finish() == {"unjustified": 1}


def test_gap_without_a_missing_message_is_unjustified(script: Script) -> None:
    """An empty gap is a violation in the first frame, and in a gap frame."""
    script.connect("gap", cause="trimmed", count=1)
    script.report_gap(1)
    script.deliver(script.publish())
    assert script.finish() == {"unjustified": 2}


def test_gap_of_another_topic_or_lane_excuses_no_loss(script: Script) -> None:
    """A gap covers only messages of its topics and its lane."""
    numbers = [script.publish() for _ in range(3)]
    script.report_gap(1, "b")
    script.report_gap(1, "a", lane="low")
    script.deliver(*numbers[1:])
    assert script.finish()["lost"] == 1


@pytest.mark.parametrize(("session", "cause"), [("fresh", None), ("gap", "unknown")])
def test_new_session_without_a_cause_is_unjustified(
    script: Script, session: str, cause: str | None
) -> None:
    """A client that presents its latest event id keeps its session."""
    script.connect(session, cause=cause)
    assert script.finish() == {"unjustified": 1}


def test_restart_of_the_same_log_is_unjustified(script: Script) -> None:
    """The epoch is the same as before, so the log was not restarted."""
    script.connect("gap", cause="restart")
    assert script.finish() == {"unjustified": 1}


def test_restart_ends_all_expectations_of_the_old_log(script: Script) -> None:
    """After a restart, only messages of the new log are expected."""
    script.publish()
    script.published.end_epoch()
    script.published.start_epoch("log-2")
    script.publish()
    script.connect("gap", cause="restart")
    script.publish()
    assert script.finish() == {"lost": 1}


def test_resume_in_another_log_is_contradicted(script: Script) -> None:
    """A session of the lost log cannot be resumed in the new log."""
    script.published.end_epoch()
    script.published.start_epoch("log-2")
    script.connect("resumed")
    assert script.finish()["contradicted"] == 1


def test_reused_epoch_is_contradicted(script: Script) -> None:
    """Each log has an epoch of its own."""
    script.published.end_epoch()
    script.published.start_epoch("log-1")
    assert script.finish() == {"contradicted": 1}


def test_duplicated_tab_expects_the_same_messages(script: Script) -> None:
    """A token whose successor was presented is spent, and may be answered `unknown`."""
    number = script.publish()
    twin = script.client.copy("twin")
    script.connect(client=twin)
    twin.expected.deliver(number)
    script.deliver(number)
    script.connect()
    script.connect()
    late = script.client.copy("late")
    late.token = twin.token = "token-0"
    script.connect("gap", cause="unknown", client=late)
    assert script.finish() == {}


def test_message_published_while_connecting_is_optional(script: Script) -> None:
    """No client can tell whether such a message precedes its session."""
    other = ClientOracle("other", script.published, None, ("a",))
    script.connect("fresh", client=other, published_meanwhile=2)
    other.expected.deliver(1)
    script.deliver(0, 1)
    other.expected.finish()
    assert script.finish() == {}


def test_expired_message_may_be_omitted(script: Script) -> None:
    """An expired message is omitted without a gap."""
    script.publish(ttl=1.0)
    script.now += 1.0
    script.deliver(script.publish())
    assert script.finish() == {}


def test_waiting_since_is_the_time_of_the_oldest_expected_message(script: Script) -> None:
    """A client that waits too long for its oldest expected message is stuck."""
    assert script.client.expected.waiting_since() is None
    script.publish(key="k")
    script.now += 1.0
    number = script.publish(lane="low")
    script.publish(key="k")
    assert script.client.expected.waiting_since() == script.now
    script.deliver(number, number + 1)
    assert script.client.expected.waiting_since() is None


def test_gap_without_a_missing_message_is_unjustified_at_the_end(script: Script) -> None:
    """A gap that no message follows is checked when the run ends."""
    script.report_gap(1)
    assert script.finish() == {"unjustified": 1}


def test_gap_over_a_trimmed_message_is_accepted_at_the_end(script: Script) -> None:
    """A gap that no message follows may cover trimmed messages."""
    for _ in range(4):
        script.publish()
    script.client.expected.withdraw({"a"}, certain=False)
    script.report_gap(2)
    assert script.finish() == {}


def test_gap_in_an_untrimmed_history_is_unjustified() -> None:
    """Without a limit, the history keeps every message."""
    script = Script(limit=None)
    numbers = [script.publish() for _ in range(1000)]
    script.report_gap(len(numbers))
    assert script.finish() == {"unjustified": len(numbers)}


def test_message_is_unconfirmed_until_all_earlier_ones_are_confirmed(script: Script) -> None:
    """Publishers run concurrently, so a later request may be answered first."""
    first, second = (script.published.add("a", "normal").number for _ in range(2))
    script.published.confirm(second)
    assert script.published.confirmed < first
    script.published.confirm(first)
    assert script.published.confirmed == second


def test_unknown_epoch_is_unjustified(script: Script) -> None:
    """Each session belongs to a log that was started."""
    script.connect("gap", cause="restart", epoch="log-0")
    assert script.finish() == {"unjustified": 1}


def test_first_connection_is_fresh(script: Script) -> None:
    """A client that presents no event id has no session to resume."""
    newcomer = ClientOracle("newcomer", script.published, None, ("a",))
    script.connect("resumed", client=newcomer)
    assert script.finish() == {"unjustified": 1}


@pytest.mark.parametrize(
    ("expression", "topic", "covered"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.**", "a.b.c", True),
        ("a.**", "a", False),
        ("a.b", "a.b", True),
        ("*.b", "a.b", True),
    ],
)
def test_patterns_cover_topics_as_the_protocol_defines(
    expression: str, topic: str, covered: bool
) -> None:
    """The cases are from docs/protocol.md, section 1."""
    assert covers(expression, topic) is covered
