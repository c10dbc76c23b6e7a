"""Attendance and Roster, beside plain sets."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.core.message import UserId
from holdfast.core.presence import LocalPresence, Member, NodeId, PresenceTable

MEMBERS: list[Member] = [(topic, UserId(user)) for topic in "tu" for user in ("ann", "bob")]

STEPS = ["enter", "leave", "told", "refused", "done, nobody knows", "half done", "lost"]

steps = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(MEMBERS[:2])), max_size=60)


@settings(max_examples=500)
@given(steps)
def test_what_the_others_know_is_who_is_here(script: list[tuple[str, Member]]) -> None:
    """After each telling that succeeds, though those before were refused, half done or lost."""
    attendance, here, known = LocalPresence(), list[Member](), set[Member]()
    for step, member in [*script, ("told", MEMBERS[0])]:
        if step == "enter":
            attendance.enter(member)
            here.append(member)
        elif step == "leave":
            if member in here:
                attendance.leave(member)
                here.remove(member)
        elif step == "lost":  # the others say that they know nothing
            known.clear()
            attendance.schedule_full_sync()
        else:
            joined, left = attendance.changes()
            assert not set(joined) & set(left)
            if step == "half done":
                joined, left = joined[: len(joined) // 2], left[: len(left) // 2]
            if step != "refused":
                known = (known | set(joined)) - set(left)
            if step == "told":
                assert known == set(here)
            else:
                attendance.schedule_full_sync()


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "tell"]), st.sampled_from(MEMBERS))))
@example([(step, MEMBERS[0]) for step in "enter tell leave tell enter leave tell".split()])
def test_nobody_is_told_twice(script: list[tuple[str, Member]]) -> None:
    """While all tellings succeed, only those come who were not there, and go who were."""
    attendance, here, known = LocalPresence(), list[Member](), set[Member]()
    for step, member in script:
        if step == "enter":
            attendance.enter(member)
            here.append(member)
        elif step == "tell":
            joined, left = attendance.changes()
            assert known.isdisjoint(joined)
            assert known.issuperset(left)
            known = (known | set(joined)) - set(left)
        elif member in here:
            attendance.leave(member)
            here.remove(member)


def test_after_an_outage_nobody_is_buried() -> None:
    """If all leases are over, nobody could tell: all have another, and who is silent then goes."""
    roster, (ann, bob) = PresenceTable(), MEMBERS[:2]
    a, b = NodeId("a"), NodeId("b")
    roster.update(a, [ann], [], now=0.0, until=10.0)
    roster.update(b, [bob], [], now=1.0, until=11.0)
    back = roster.update(a, [], [], now=60.0, until=70.0)
    assert (back.is_known, back.left) == (True, ())
    assert roster.update(a, [], [], now=69.0, until=79.0).left == ()
    assert roster.update(a, [], [], now=70.0, until=80.0).left == (bob,)


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
    roster, nodes, known = PresenceTable(), dict[NodeId, set[Member]](), set[Member]()
    now = 0.0
    roster.update(NodeId("witness"), [], [], now=now, until=1e6)
    for step, node, member in script:
        now += 1.0
        if step == "die":  # its lease is over, and the next who tells finds out
            keep = {n: m for n, m in nodes.items() if n != node}
            for n in keep:
                roster.update(n, [], [], now=now, until=now + 100.0)
            now += 99.5
            moved_went = roster.update(NodeId("witness"), [], [], now=now, until=now + 1e6).left
            nodes = keep
            for n in nodes:
                roster.update(n, [], [], now=now, until=now + 99.0)
            joined: tuple[Member, ...] = ()
        elif step == "end":
            moved_went = tuple(roster.remove(node))
            nodes.pop(node, None)
            joined = ()
        else:
            own = nodes.setdefault(node, set())
            moved = roster.update(
                node,
                [member] if step == "come" else [],
                [member] if step == "go" else [],
                now=now,
                until=now + 99.0,
            )
            joined, moved_went = moved.joined, moved.left
            (own.add if step == "come" else own.discard)(member)
            for n in nodes:  # the others tell too, so that only "die" lets a lease end
                roster.update(n, [], [], now=now, until=now + 99.0)
        assert known.isdisjoint(joined)
        assert known.issuperset(moved_went)
        known = (known | set(joined)) - set(moved_went)
        assert known == set().union(*nodes.values())
        for topic in "tu":
            assert set(roster.users(topic)) == {user for name, user in known if name == topic}
