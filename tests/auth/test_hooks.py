"""The hooks of the library: anonymous, subscribe_only and require_role."""

from __future__ import annotations

import pytest

from holdfast.auth import Action, Request, User, anonymous, require_role, subscribe_only


def test_anonymous() -> None:
    """`anonymous` authenticates each client as an unidentified user."""
    user = anonymous(Request({}))
    assert (user.id, user.roles, user.expires_at) == (None, frozenset(), None)


@pytest.mark.parametrize("action", Action)
def test_subscribe_only(action: Action) -> None:
    """`subscribe_only` allows single topics, and neither patterns nor statistics."""
    assert subscribe_only(User(id="ann"), action, "t") == (action is Action.SUBSCRIBE)


@pytest.mark.parametrize("action", Action)
def test_require_role(action: Action) -> None:
    """`require_role` allows everything to a user with exactly this role, and nothing to others."""
    authorize = require_role("ops")
    assert authorize(User(id="ann", roles=frozenset({"ops", "x"})), action, "t")
    for roles in ([], ["op"], ["opsx"], ["OPS"]):
        assert not authorize(User(id="ann", roles=frozenset(roles)), action, "t")


def test_user_is_frozen() -> None:
    """A user cannot be changed, and two users with the same id are equal."""
    user = User(id="ann")
    with pytest.raises(AttributeError):
        user.id = "bob"  # type: ignore[misc]
    assert user == User(id="ann")
