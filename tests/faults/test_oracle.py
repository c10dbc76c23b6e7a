"""The oracle of the soak finds each kind of breach, and objects to nothing that is allowed."""

from __future__ import annotations

import pytest

from tests.faults.ledger import covers
from tests.faults.oracle import Account
from tests.faults.script import Script


@pytest.fixture
def script() -> Script:
    """A client that has just connected for the first time."""
    return Script()


def test_what_is_delivered_in_order_is_right(script: Script) -> None:
    """Lanes overtake each other; inside one, the order is that of publishing."""
    first, urgent, second = script.publish(), script.publish(lane="critical"), script.publish("b")
    script.deliver(urgent, first, second)
    assert script.counts() == {}


def test_a_message_passed_over_is_lost(script: Script) -> None:
    """What lies below a delivery of its lane had to come before."""
    script.publish()
    script.deliver(script.publish())
    assert script.counts() == {"lost": 1}


def test_a_message_that_never_comes_is_lost(script: Script) -> None:
    """At the end, nothing may be owed."""
    script.publish()
    assert script.counts() == {"lost": 1}


def test_a_message_that_comes_twice_is_duplicated(script: Script) -> None:
    """Over two connections, too."""
    number = script.publish()
    script.deliver(number)
    script.hello()
    script.deliver(number)
    assert script.counts() == {"duplicated": 1}


def test_the_latest_value_of_a_key_may_come_twice(script: Script) -> None:
    """It stands at the place of the one that it superseded."""
    script.publish(key="k")
    number = script.publish(key="k")
    script.deliver(number)
    script.hello()
    script.deliver(number)
    assert script.counts() == {}


def test_an_older_value_after_a_newer_one_is_stale(script: Script) -> None:
    """A superseded value may be left out, and may not come late."""
    old, new = script.publish(key="k"), script.publish(key="k")
    script.deliver(new, old)
    assert script.counts() == {"stale": 1}


def test_a_message_that_comes_late_is_reordered(script: Script) -> None:
    """It was lost when its successor came; that it comes at last is a breach of its own."""
    first, second = script.publish(), script.publish()
    script.deliver(second, first)
    assert script.counts() == {"lost": 1, "reordered": 1}


@pytest.mark.parametrize(
    "foreign", [{"topic": "c"}, {"to_user": "v"}, {"topic": "$user", "to_user": "v"}]
)
def test_what_is_for_others_is_spurious(script: Script, foreign: dict[str, str]) -> None:
    """A topic that the client does not have, another user's message."""
    script.deliver(script.publish(**foreign))
    assert script.counts() == {"spurious": 1}


def test_what_was_published_before_a_subscription_is_spurious(script: Script) -> None:
    """A subscription begins when it is made."""
    number = script.publish("c")
    script.client.ask("c", "subscribe")
    script.client.carried_out("c", in_order=True)
    script.deliver(number)
    assert script.counts() == {"spurious": 1}


def test_what_is_published_after_a_subscription_is_owed(script: Script) -> None:
    """From the answer on; what comes between the request and the answer may or may not come."""
    script.client.ask("c", "subscribe")
    between = script.publish("c")
    script.client.carried_out("c", in_order=True)
    after = script.publish("c")
    script.deliver(between, after)
    script.publish("c")
    assert script.counts() == {"lost": 1}


def test_what_is_withdrawn_is_not_owed_and_does_not_come(script: Script) -> None:
    """Over WebSocket, nothing of a topic follows the answer that it is unsubscribed."""
    number = script.publish("b")
    script.client.ask("b", "unsubscribe")
    script.client.carried_out("b", in_order=True)
    assert script.counts() == {}
    script.deliver(number)
    assert script.counts() == {"spurious": 1}


def test_a_subscription_that_was_answered_is_not_forgotten(script: Script) -> None:
    """A resume knows of it."""
    script.client.ask("c", "subscribe")
    script.client.carried_out("c", in_order=True)
    script.hello(topics=("a", "b"))
    assert script.counts() == {"contradicted": 1}


def test_what_was_trimmed_and_declared_is_settled(script: Script) -> None:
    """The gap says how many, and stands before what follows."""
    numbers = [script.publish() for _ in range(4)]
    script.hello("gap", cause="trimmed", count=2)
    script.gap(2)
    script.deliver(*numbers[2:])
    assert script.counts() == {}


def test_a_gap_with_a_wrong_count_is_miscounted(script: Script) -> None:
    """In a gap frame, and in the first frame."""
    numbers = [script.publish() for _ in range(4)]
    script.hello("gap", cause="trimmed", count=1)
    script.gap(3)
    script.deliver(*numbers[2:])
    assert script.counts() == {"miscounted": 2}


def test_a_gap_without_a_count_has_to_be_large(script: Script) -> None:
    """A server remembers the last 1,024 that it trimmed."""
    numbers = [script.publish() for _ in range(4)]
    script.gap(None)
    script.deliver(*numbers[2:])
    assert script.counts() == {"miscounted": 1}


def test_what_was_declared_lost_and_comes_is_contradicted(script: Script) -> None:
    """A gap is final."""
    numbers = [script.publish() for _ in range(4)]
    script.gap(2)
    script.deliver(*numbers[2:], numbers[0])
    assert script.counts() == {"contradicted": 1}


def test_resumed_though_something_is_gone_is_contradicted(script: Script) -> None:
    """`resumed` says that nothing is missing."""
    numbers = [script.publish() for _ in range(4)]
    script.hello("resumed")
    script.gap(2)
    script.deliver(*numbers[2:])
    assert script.counts() == {"contradicted": 1}


def test_a_gap_over_what_had_to_be_kept_is_unjustified(script: Script) -> None:
    """The history holds two messages, and one was enough."""
    script.publish()
    number = script.publish()
    script.gap(1)
    script.deliver(number)
    assert script.counts() == {"unjustified": 1}


def test_a_gap_where_nothing_is_missing_is_unjustified(script: Script) -> None:
    """In the first frame, and in a gap frame."""
    script.hello("gap", cause="trimmed", count=1)
    script.gap(1)
    script.deliver(script.publish())
    assert script.counts() == {"unjustified": 2}


def test_a_gap_for_another_topic_excuses_nothing(script: Script) -> None:
    """What is missing has to be of the topics that are named, and in the lane."""
    numbers = [script.publish() for _ in range(3)]
    script.gap(1, "b")
    script.gap(1, "a", lane="low")
    script.deliver(*numbers[1:])
    assert script.counts()["lost"] == 1


@pytest.mark.parametrize(("session", "cause"), [("fresh", None), ("gap", "unknown")])
def test_a_new_session_without_a_cause_is_unjustified(
    script: Script, session: str, cause: str | None
) -> None:
    """For a client that comes back with the id that it was given last."""
    script.hello(session, cause=cause)
    assert script.counts() == {"unjustified": 1}


def test_restart_without_a_restart_is_unjustified(script: Script) -> None:
    """The log has the same name as before."""
    script.hello("gap", cause="restart")
    assert script.counts() == {"unjustified": 1}


def test_a_restart_is_declared_and_settles_everything(script: Script) -> None:
    """What the log that is gone still owed is declared; the new one owes what follows."""
    script.publish()
    script.ledger.end()
    script.ledger.start("log-2")
    script.publish()
    script.hello("gap", cause="restart")
    script.publish()
    assert script.counts() == {"lost": 1}


def test_a_restart_that_is_not_declared_is_contradicted(script: Script) -> None:
    """Nothing of the log that is gone can follow."""
    script.ledger.end()
    script.ledger.start("log-2")
    script.hello("resumed")
    assert script.counts()["contradicted"] == 1


def test_two_logs_of_one_name_are_found(script: Script) -> None:
    """An epoch is the name of one life of a log."""
    script.ledger.end()
    script.ledger.start("log-1")
    assert script.counts() == {"contradicted": 1}


def test_a_twin_is_owed_the_same_and_may_be_refused_late(script: Script) -> None:
    """A token whose successor has been presented is not known any more."""
    number = script.publish()
    twin = script.client.copy("twin")
    script.hello(client=twin)
    twin.debts.deliver(number)
    script.deliver(number)
    script.hello()
    script.hello()
    late = script.client.copy("late")
    late.token = twin.token = "token-0"
    script.hello("gap", cause="unknown", client=late)
    assert script.counts() == {}


def test_what_is_published_while_connecting_may_come(script: Script) -> None:
    """Whether it was before or after the session began, no client can know."""
    other = Account("other", script.ledger, None, ("a",))
    script.hello("fresh", client=other, published=2)
    other.debts.deliver(1)
    script.deliver(0, 1)
    other.debts.finish()
    assert script.counts() == {}


def test_what_has_expired_is_not_owed(script: Script) -> None:
    """Expired is not declared."""
    script.publish(ttl=1.0)
    script.now += 1.0
    script.deliver(script.publish())
    assert script.counts() == {}


def test_it_knows_since_when_a_client_waits(script: Script) -> None:
    """The oldest message that is still owed says when somebody is stuck."""
    assert script.client.debts.waits_since() is None
    script.publish(key="k")
    script.now += 1.0
    number = script.publish(lane="low")
    script.publish(key="k")
    assert script.client.debts.waits_since() == script.now
    script.deliver(number, number + 1)
    assert script.client.debts.waits_since() is None


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
def test_patterns_cover_what_the_protocol_says(expression: str, topic: str, covered: bool) -> None:
    """docs/protocol.md, section 1."""
    assert covers(expression, topic) is covered
