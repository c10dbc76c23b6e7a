"""The hooks that come with the library."""

from __future__ import annotations

import pytest

from holdfast.auth import Action, Request, User, anonymous, require_role, subscribe_only


def test_anonymous_knows_nobody() -> None:
    """Everybody is let in, and nobody is anybody in particular."""
    user = anonymous(Request({}))
    assert (user.id, user.roles, user.expires_at) == (None, frozenset(), None)


@pytest.mark.parametrize("action", Action)
def test_subscribe_only(action: Action) -> None:
    """By default one topic may be seen, and neither patterns nor statistics."""
    assert subscribe_only(User(id="ann"), action, "t") == (action is Action.SUBSCRIBE)


@pytest.mark.parametrize("action", Action)
def test_require_role(action: Action) -> None:
    """With the role everything, without it nothing; names are compared whole."""
    authorize = require_role("ops")
    assert authorize(User(id="ann", roles=frozenset({"ops", "x"})), action, "t")
    for roles in ([], ["op"], ["opsx"], ["OPS"]):
        assert not authorize(User(id="ann", roles=frozenset(roles)), action, "t")


def test_users_with_defaults_share_nothing() -> None:
    """A user without roles has none, and cannot be changed."""
    user = User(id="ann")
    with pytest.raises(AttributeError):
        user.id = "bob"  # type: ignore[misc]
    assert user == User(id="ann")
