"""The names of keys: injective, whatever users and topics are called, and in one slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from holdfast import ConfigurationError
from holdfast.brokers.redis import keys
from holdfast.core.message import UserId

topics = st.from_regex(r"[A-Za-z0-9_:$-]{1,8}(\.[A-Za-z0-9_:$*-]{1,8}){0,2}", fullmatch=True)
users = st.none() | st.text(min_size=1, max_size=8).map(UserId)


@given(topics, users)
def test_an_address_is_read_back(topic: str, user: UserId | None) -> None:
    """Topic and user come back as they were."""
    assert keys.parse_address(keys.format_address(topic, user)) == (topic, user)


@given(st.tuples(topics, users), st.tuples(topics, users))
def test_addresses_are_unlike(
    one: tuple[str, UserId | None], two: tuple[str, UserId | None]
) -> None:
    """Two addresses have one name only if they are the same."""
    assert (keys.format_address(*one) == keys.format_address(*two)) is (one == two)


@given(topics, users)
def test_all_keys_are_in_one_slot(topic: str, user: UserId | None) -> None:
    """Redis Cluster hashes only the namespace in each key."""
    prefix = keys.prefix("main")
    name = f"{prefix}:space:m:1:{keys.format_address(topic, user)}"
    assert key_slot(name.encode("utf-8", "surrogatepass")) == key_slot(prefix.encode())


@pytest.mark.parametrize("namespace", ["", "a b", "{a}", "a:b", "é", "x" * 65, "a\n"])
def test_a_namespace_with_another_name_is_refused(namespace: str) -> None:
    """A name with a character that separates parts of a key is refused."""
    with pytest.raises(ConfigurationError):
        keys.prefix(namespace)
