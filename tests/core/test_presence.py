"""Attendance and Roster, beside plain sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.message import UserId
from holdfast.core.presence import Attendance, Member, NodeId, Roster

MEMBERS: list[Member] = [(topic, UserId(user)) for topic in "tu" for user in ("ann", "bob")]

steps = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "tell", "forget"]), st.sampled_from(MEMBERS)),
    max_size=60,
)


@given(steps)
def test_what_was_told_is_who_is_here(script: list[tuple[str, Member]]) -> None:
    """Carrying out all changes gives exactly those who have a connection; none is told twice."""
    attendance, here, told = Attendance(), list[Member](), set[Member]()
    for step, member in [*script, ("tell", MEMBERS[0])]:
        if step == "enter":
            attendance.enter(member)
            here.append(member)
        elif step == "leave" and member in here:
            attendance.leave(member)
            here.remove(member)
        elif step == "forget":
            attendance.forget_told()
            told.clear()
        elif step == "tell":
            came, went = attendance.changes()
            assert told.isdisjoint(came)
            assert told.issuperset(went)
            told = (told | set(came)) - set(went)
            assert told == set(here)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["come", "go", "die", "end"]),
            st.sampled_from([NodeId("a"), NodeId("b"), NodeId("c")]),
            st.sampled_from(MEMBERS),
        ),
        max_size=60,
    )
)
def test_a_member_is_there_while_a_living_node_has_it(
    script: list[tuple[str, NodeId, Member]],
) -> None:
    """Each coming and going over all nodes is reported once, whatever nodes do."""
    roster, nodes, known = Roster(), dict[NodeId, set[Member]](), set[Member]()
    now = 0.0
    for step, node, member in script:
        now += 1.0
        if step == "die":  # its lease is over, and the next who tells finds out
            keep = {n: m for n, m in nodes.items() if n != node}
            for n in keep:
                roster.update(n, [], [], now=now, until=now + 100.0)
            now += 99.5
            moved_went = roster.update(NodeId("witness"), [], [], now=now, until=now + 1e6).went
            nodes = keep
            for n in nodes:
                roster.update(n, [], [], now=now, until=now + 99.0)
            came: tuple[Member, ...] = ()
        elif step == "end":
            moved_went = tuple(roster.remove(node))
            nodes.pop(node, None)
            came = ()
        else:
            own = nodes.setdefault(node, set())
            moved = roster.update(
                node,
                [member] if step == "come" else [],
                [member] if step == "go" else [],
                now=now,
                until=now + 99.0,
            )
            came, moved_went = moved.came, moved.went
            (own.add if step == "come" else own.discard)(member)
            for n in nodes:  # the others tell too, so that only "die" lets a lease end
                roster.update(n, [], [], now=now, until=now + 99.0)
        assert known.isdisjoint(came)
        assert known.issuperset(moved_went)
        known = (known | set(came)) - set(moved_went)
        assert known == set().union(*nodes.values())
        for topic in "tu":
            assert set(roster.users(topic)) == {user for name, user in known if name == topic}
