"""Compare LocalPresence and PresenceTable with plain sets."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.core.message import UserId
from holdfast.core.presence import LocalPresence, Member, NodeId, PresenceTable

MEMBERS: list[Member] = [(topic, UserId(user)) for topic in "tu" for user in ("ann", "bob")]

STEPS = [
    "enter",
    "leave",
    "report",
    "refuse",
    "report, unknown outcome",
    "report half",
    "store loses all",
]

steps = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(MEMBERS[:2])), max_size=60)


@pytest.mark.slow
@settings(max_examples=500)
@given(steps)
def test_store_has_exactly_the_members_after_a_report(script: list[tuple[str, Member]]) -> None:
    """After a report that succeeds, the store is exact, even if earlier reports failed."""
    local, here, known = LocalPresence(), list[Member](), set[Member]()
    for step, member in [*script, ("report", MEMBERS[0])]:
        if step == "enter":
            local.enter(member)
            here.append(member)
        elif step == "leave":
            if member in here:
                local.leave(member)
                here.remove(member)
        elif step == "store loses all":
            known.clear()
            local.schedule_full_sync()
        else:
            joined, left = local.changes()
            assert not set(joined) & set(left)
            if step == "report half":
                joined, left = joined[: len(joined) // 2], left[: len(left) // 2]
            if step != "refuse":
                known = (known | set(joined)) - set(left)
            if step == "report":
                assert known == set(here)
            else:
                local.schedule_full_sync()


@given(st.lists(st.tuples(st.sampled_from(["enter", "leave", "report"]), st.sampled_from(MEMBERS))))
@example([(step, MEMBERS[0]) for step in "enter report leave report enter leave report".split()])
def test_no_member_is_reported_twice(script: list[tuple[str, Member]]) -> None:
    """While all reports succeed, each join and each leave is reported once."""
    local, here, known = LocalPresence(), list[Member](), set[Member]()
    for step, member in script:
        if step == "enter":
            local.enter(member)
            here.append(member)
        elif step == "report":
            joined, left = local.changes()
            assert known.isdisjoint(joined)
            assert known.issuperset(left)
            known = (known | set(joined)) - set(left)
        elif member in here:
            local.leave(member)
            here.remove(member)


def test_outage_of_the_store_ends_no_lease() -> None:
    """If all leases have ended, all are renewed, and a silent node loses its lease later."""
    table, (ann, bob) = PresenceTable(), MEMBERS[:2]
    a, b = NodeId("a"), NodeId("b")
    table.update(a, [ann], [], now=0.0, until=10.0)
    table.update(b, [bob], [], now=1.0, until=11.0)
    back = table.update(a, [], [], now=60.0, until=70.0)
    assert (back.is_known, back.left) == (True, ())
    assert table.update(a, [], [], now=69.0, until=79.0).left == ()
    assert table.update(a, [], [], now=70.0, until=80.0).left == (bob,)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "leave", "lease ends", "stop"]),
            st.sampled_from([NodeId("a"), NodeId("b"), NodeId("c")]),
            st.sampled_from(MEMBERS),
        ),
        max_size=60,
    )
)
def test_member_is_present_while_a_node_with_a_lease_has_it(
    script: list[tuple[str, NodeId, Member]],
) -> None:
    """Each join and leave over all nodes is returned once, whatever the nodes do."""
    table, nodes, known = PresenceTable(), dict[NodeId, set[Member]](), set[Member]()
    now = 0.0
    table.update(NodeId("witness"), [], [], now=now, until=1e6)
    for step, node, member in script:
        now += 1.0
        if step == "lease ends":
            keep = {n: m for n, m in nodes.items() if n != node}
            for n in keep:
                table.update(n, [], [], now=now, until=now + 100.0)
            now += 99.5
            left = table.update(NodeId("witness"), [], [], now=now, until=now + 1e6).left
            nodes = keep
            for n in nodes:
                table.update(n, [], [], now=now, until=now + 99.0)
            joined: tuple[Member, ...] = ()
        elif step == "stop":
            left = tuple(table.remove(node))
            nodes.pop(node, None)
            joined = ()
        else:
            own = nodes.setdefault(node, set())
            delta = table.update(
                node,
                [member] if step == "join" else [],
                [member] if step == "leave" else [],
                now=now,
                until=now + 99.0,
            )
            joined, left = delta.joined, delta.left
            (own.add if step == "join" else own.discard)(member)
            for n in nodes:  # all other nodes report, so that only "lease ends" ends a lease
                table.update(n, [], [], now=now, until=now + 99.0)
        assert known.isdisjoint(joined)
        assert known.issuperset(left)
        known = (known | set(joined)) - set(left)
        assert known == set().union(*nodes.values())
        for topic in "tu":
            assert set(table.users(topic)) == {user for name, user in known if name == topic}
