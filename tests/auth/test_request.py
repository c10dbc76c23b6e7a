"""Request: the headers, the query and the cookies of a client."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Refused
from holdfast.auth import Request


def request(query: bytes = b"", **headers: bytes) -> Request:
    """Return a request with a query string and headers."""
    pairs = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    return Request({"type": "http", "path": "/p", "query_string": query, "headers": pairs})


def test_headers_are_lower_case_and_the_first_counts() -> None:
    """Names are in lower case, values are Latin-1, and the first of equal names counts."""
    parsed = Request({"headers": [(b"X-Name", b"one"), (b"x-name", b"two"), (b"Other", b"\xe9")]})
    assert parsed.headers == {"x-name": "one", "other": "é"}


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (b"", {}),
        (b"a=1&b=2", {"a": "1", "b": "2"}),
        (b"a=1&a=2", {"a": "1"}),
        (b"a=&b", {"a": "", "b": ""}),
        (b"a=%C3%A9+x", {"a": "é x"}),
        (b"a=%FF", {"a": "\ufffd"}),
        (b"a=%00%0A", {"a": "\0\n"}),
        (b"a=%", {"a": "%"}),
        (b"a=1;b=2", {"a": "1;b=2"}),
        (b"=x", {"": "x"}),
    ],
)
def test_query(query: bytes, fields: dict[str, str]) -> None:
    """The query is decoded as forms are; an invalid escape is kept."""
    parsed = request(query)
    assert parsed.query == fields
    parsed.check_query()


@pytest.mark.parametrize("query", [b"a=" + b"x" * 65_536, b"&".join([b"a=1"] * 101)])
def test_query_over_the_limits(query: bytes) -> None:
    """A query over the limits is empty, and `check_query` raises Refused."""
    parsed = request(query)
    assert parsed.query == {}
    with pytest.raises(Refused) as caught:
        parsed.check_query()
    assert caught.value.reason.status == 400


@pytest.mark.parametrize(
    ("header", "cookies"),
    [
        (b"a=1; b=2", {"a": "1", "b": "2"}),
        (b"a=1;b=2", {"a": "1", "b": "2"}),
        (b'a="quoted"', {"a": "quoted"}),
        (b'prefs={"x":1}; jwt=abc', {"prefs": '{"x":1}', "jwt": "abc"}),
        (b"foo[bar]=1; jwt=abc", {"foo[bar]": "1", "jwt": "abc"}),
        (b"jwt=a.b-c_d=; x", {"jwt": "a.b-c_d="}),
        (b"a=1; a=2", {"a": "1"}),
        (b"", {}),
        (b";;;", {}),
    ],
)
def test_cookies(header: bytes, cookies: dict[str, str]) -> None:
    """An unusual cookie does not hide another one."""
    assert dict(request(cookie=header).cookies) == cookies


def test_method_client_and_repr() -> None:
    """Method and client are those of the scope, and no credential is in the repr."""
    parsed = Request({"method": "POST", "client": ("192.0.2.1", 5), "path": "/p", "headers": []})
    assert (parsed.method, parsed.client) == ("POST", "192.0.2.1")
    assert Request({}).method == "GET"
    assert Request({}).client is None
    assert Request({"client": None}).client is None
    text = repr(request(b"token=secret", authorization=b"Bearer secret", cookie=b"a=secret"))
    assert "secret" not in text


@given(st.binary(), st.lists(st.tuples(st.binary(), st.binary())))
def test_any_bytes(query: bytes, headers: list[Any]) -> None:
    """No bytes in the query or the headers raise."""
    parsed = Request({"query_string": query, "headers": [*headers, (b"cookie", query)]})
    assert all(isinstance(text, str) for pair in parsed.query.items() for text in pair)
    assert all(isinstance(text, str) for pair in parsed.cookies.items() for text in pair)
