"""The arguments of `connect` and `Stream`, checked where the application gives them.

Each check raises ConfigurationError, which names the argument and the accepted form. No error
quotes a token, the value of a header, or the credentials and the query of a URL.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

import httpx

from ..core.topics import check_expression
from ..core.validation import check_number
from ..errors import ConfigurationError
from .frames import MAX_EVENT_ID_LENGTH, is_header_safe
from .records import Message

_CLIENT_PARAMS = frozenset({"topics", "metrics", "ack", "reconnect_token", "last_event_id"})
"""The fields of the query that the client sends, or that would contradict its headers."""

_CLIENT_HEADERS = frozenset(
    {"accept", "accept-encoding", "cache-control", "content-type", "last-event-id"}
)


def redact(url: str) -> str:
    """Return `url` without credentials, query and fragment, for errors and reprs."""
    shown = url.partition("#")[0].partition("?")[0]
    scheme, separator, rest = shown.rpartition("//")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def check_http(http: httpx.AsyncClient | None) -> None:
    """Check the application's own HTTP client."""
    if http is None:
        return
    if not isinstance(http, httpx.AsyncClient):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"http must be an httpx.AsyncClient, not {_kind(http)}")
    if http.is_closed:
        raise ConfigurationError("http is closed: keep it open for as long as the stream")


def parse_url(url: str, http: httpx.AsyncClient | None) -> httpx.URL:
    """Return the address of the server. A path is joined to the base URL of `http`."""
    form = "give the address where LiveApp is mounted, such as 'https://example.org/live'"
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"url must be a str, not {_kind(url)}: {form}")
    try:
        parsed = http.base_url.join(url) if http and url.startswith("/") else httpx.URL(url)
    except httpx.InvalidURL:
        # The text of httpx would quote the wrong part, which may be a password.
        raise ConfigurationError(f"url cannot be parsed: {form}") from None
    if parsed.scheme in ("http", "https") and parsed.host:
        return parsed
    if url.startswith("/"):
        form = "a path needs http=httpx.AsyncClient(base_url=…)"
    elif parsed.scheme in ("ws", "wss"):
        form = "the client reads the event stream, so the address begins with http:// or https://"
    else:
        form = f"it must begin with http:// or https://; {form}"
    raise ConfigurationError(f"url={redact(url)!r:.200}: {form}")


def check_topics(topics: Iterable[str]) -> list[str]:
    """Return each topic once. Raises InvalidTopic for a str that is not a topic or a pattern."""
    if isinstance(topics, str | bytes) or not isinstance(topics, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f'topics={topics!r:.100}: it must be a list of topics, such as ["orders", "prices.*"]'
        )
    return list(dict.fromkeys(map(check_expression, topics)))


def check_topic_arguments(method: str, topics: tuple[str, ...]) -> list[str]:
    """Return each topic given to `Stream.subscribe` or `Stream.unsubscribe` once."""
    if any(not isinstance(topic, str) for topic in topics):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            f'{method} takes topics one by one: {method}("orders", "prices.*") or {method}(*topics)'
        )
    return check_topics(topics)


def check_position(position: str | None) -> None:
    """Check an event id. The client accepts longer ids than today's servers send."""
    if position is None:
        return
    form = "give stream.position, message.event_id, or the result of Broadcaster.position()"
    if isinstance(position, Message):
        raise ConfigurationError("position must be a str: give message.event_id, not the message")
    if not isinstance(position, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        _close_coroutine(position)
        raise ConfigurationError(f"position must be a str, not {_kind(position)}: {form}")
    if len(position) > MAX_EVENT_ID_LENGTH or not is_header_safe(position):
        raise ConfigurationError(f"position is not an event id: {form}")


def check_token(token: object) -> None:
    """Check a bearer token, or the function that returns it."""
    if token is None or (callable(token) and not inspect.isawaitable(token)):
        return
    if inspect.isawaitable(token):
        _close_coroutine(token)
        raise ConfigurationError(
            "token is a coroutine: give the function itself, token=get_token instead of"
            " token=get_token(), because the client calls it again when a token expires"
        )
    if not isinstance(token, str):
        raise ConfigurationError(
            f"token must be a str, or a function that returns one, not {_kind(token)}"
        )
    if not token:
        raise ConfigurationError("token is empty: give None to send no token")
    if token.lower().startswith("bearer "):
        raise ConfigurationError("token must not contain the word Bearer: the client adds it")
    if not is_header_safe(token):
        raise ConfigurationError("token must be printable ASCII without spaces and line breaks")


def check_headers(headers: Mapping[str, str] | None, *, has_token: bool, url: httpx.URL) -> None:
    """Check the application's headers, and that at most one argument authenticates."""
    names = {name.lower() for name in _check_mapping("headers", headers)}
    if taken := sorted(_CLIENT_HEADERS & names):
        raise ConfigurationError(f"headers={taken}: the client sets these headers itself")
    if any(character in value for value in (headers or {}).values() for character in "\r\n\0"):
        raise ConfigurationError("headers: a value must not contain line breaks")
    sources = {
        "token": has_token,
        "headers['authorization']": "authorization" in names,
        "the user and password of url": bool(url.username or url.password),
    }
    given = [name for name, is_given in sources.items() if is_given]
    if len(given) > 1:
        raise ConfigurationError(f"give only one of {' and '.join(given)}")


def check_params(params: Mapping[str, str] | None) -> None:
    """Check the application's fields of the query."""
    if taken := sorted(_CLIENT_PARAMS & set(_check_mapping("params", params))):
        raise ConfigurationError(f"params={taken}: the client sets these fields itself")


def check_retry_delays(delays: tuple[float, float]) -> None:
    """Check `(min_delay, max_delay)`, in seconds."""
    form = "retry_delays must be two numbers of seconds, (min_delay, max_delay), such as (0.5, 20)"
    if not isinstance(delays, tuple | list) or len(delays) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{form}, not {delays!r:.100}")
    min_delay, max_delay = delays
    check_number("retry_delays[0]", min_delay, zero=True)
    check_number("retry_delays[1]", max_delay)
    if min_delay > max_delay:
        raise ConfigurationError(f"retry_delays={delays}: min_delay is greater than max_delay")


def check_callback(name: str, callback: object, *, may_wait: bool) -> None:
    """Check that `callback` is None or a function. `may_wait`: it may be a coroutine function."""
    if callback is None:
        return
    kind = "a plain or coroutine function" if may_wait else "a plain function, which does not wait"
    if not callable(callback) or inspect.isawaitable(callback):
        _close_coroutine(callback)
        raise ConfigurationError(f"{name} must be {kind}, not {_kind(callback)}")
    if not may_wait and inspect.iscoroutinefunction(callback):
        raise ConfigurationError(f"{name} must be {kind}: let it start a task, or set an event")


def _check_mapping(name: str, mapping: Mapping[str, str] | None) -> Mapping[str, str]:
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"{name} must be a mapping of str to str, not {_kind(mapping)}")
    for key, value in mapping.items():
        if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{name}: a name must be a str, not {_kind(key)}")
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{name}[{key!r}] must be a str, not {_kind(value)}")
    return mapping


def _kind(value: object) -> str:
    return type(value).__name__


def _close_coroutine(value: object) -> None:
    """Prevent Python's warning that the coroutine was never awaited."""
    if inspect.iscoroutine(value):
        value.close()
