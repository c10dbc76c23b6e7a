"""Access: the application's hooks, the check of origins, and the presented credentials."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Awaitable, Collection
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

from ..auth import Action, Authenticate, Authorize, Request, User
from ..core.cursor import EventId
from ..core.topics import is_pattern
from ..core.validation import check_function, reject
from ..errors import ConfigurationError, Refused
from ..reasons import Reason
from ..runtime.audit import AuditAction
from ..runtime.broadcaster import Broadcaster
from ..runtime.connection import Connection
from .http import Header

_logger = logging.getLogger("holdfast")

_ORIGIN = re.compile(r"null|https?://[^\s/*?#@]+/?", re.ASCII | re.IGNORECASE)

_AUTHORIZE_FAILED = "the authorize hook failed on %s; the client may try again"


def named_topics(request: Request) -> list[str]:
    """Return the topics of the query: `topics=a,b`, or `metrics=a,b` of existing front ends."""
    listed = request.query.get("topics") or request.query.get("metrics") or ""
    return [name for name in listed.split(",") if name]


def presented(request: Request) -> tuple[str | None, str | None]:
    """Return the event id and the reconnect token of a request. Headers go before the query.

    The token of the query is ignored if a header has an event id. The token in that id is newer,
    because the browser repeats its URL at every reconnect.
    """
    headers, query = request.headers, request.query
    header_id, token = headers.get("last-event-id"), headers.get("x-reconnect-token")
    if not token and not (header_id and EventId.parse(header_id)):
        token = query.get("reconnect_token")
    return header_id or query.get("last_event_id") or None, token or None


def check_hook(name: str, hook: object, arguments: str, count: int) -> None:
    """Raise `TypeError` unless `hook` is a function that takes `count` arguments."""
    form = f"a function of {arguments}"
    function = check_function(name, hook, form)
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        reject(name, hook, form)
    except ValueError:
        pass  # a function of C code may have no signature


def check_origins(origins: Collection[str]) -> None:
    """Raise `ConfigurationError` for an origin that no browser would send."""
    if isinstance(origins, str) or origins is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise ConfigurationError(
            f"allowed_origins={origins!r}: it must be a list, such as ['https://shop.example']"
        )
    for origin in origins:
        if origin != "*" and _ORIGIN.fullmatch(str(origin)) is None:
            raise ConfigurationError(
                f"allowed_origins: {origin!r:.80} is not an origin; the form is "
                "'https://shop.example' or 'http://localhost:8000', or '*' for all"
            )


class Access:
    """Calls the application's hooks, and checks origins.

    An exception in a hook is logged. The client gets the reason `failed`, without any detail.

    Args:
        broadcaster: The Broadcaster whose connections are served.
        authenticate: See `LiveApp`.
        authorize: See `LiveApp`.
        allowed_origins: See `LiveApp`.

    Raises:
        ConfigurationError: No browser would send one of the origins.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        authenticate: Authenticate,
        authorize: Authorize,
        allowed_origins: Collection[str],
    ) -> None:
        check_origins(allowed_origins)
        self._broadcaster = broadcaster
        self._authenticate = authenticate
        self._authorize = authorize
        self._origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)

    async def start(self) -> None:
        """Start the Broadcaster at the first request, unless the application has started it.

        Raises:
            Refused: `unavailable`. The next request tries again.
        """
        try:
            await self._broadcaster.ensure_started()
        except Exception:
            _logger.exception("the Broadcaster could not start; the next request tries again")
            raise Refused(Reason.UNAVAILABLE, "the server is not running") from None

    async def user(self, request: Request, transport: str) -> User:
        """Return the user of a request.

        Raises:
            Refused: `unauthorized` if the hook returns `None` or the credentials have expired,
                `failed` if the hook raises, `unavailable` if the Broadcaster cannot start.
        """
        await self.start()  # here, so that each transport reports a failure in its own way
        try:
            user = self._authenticate(request)
            if user is not None and not isinstance(user, User):
                user = await user
        except Exception:
            _logger.exception("the authenticate hook failed; the client may try again")
            raise failed() from None
        expired = (
            user is not None
            and user.expires_at is not None
            and not user.expires_at > self._broadcaster.now()
        )
        if user is None or expired:
            self._broadcaster.audit(
                AuditAction.AUTHENTICATION_REFUSED, transport=transport, detail=request.client or ""
            )
            raise Refused(Reason.UNAUTHORIZED, "valid credentials are needed")
        return user

    def may(self, user: User, action: Action, topic: str | None) -> bool | Awaitable[bool]:
        """Return the answer of the `authorize` hook; raise `Refused` (`failed`) if it raises."""
        try:
            answer = self._authorize(user, action, topic)
        except Exception:
            _logger.exception(_AUTHORIZE_FAILED, action)
            raise failed() from None
        if isinstance(answer, bool):
            return answer
        return _await_answer(answer, action) if inspect.isawaitable(answer) else bool(answer)

    def connect(
        self,
        request: Request,
        user: User,
        transport: str,
        *,
        last_event_id: str | None,
        reconnect_token: str | None,
    ) -> AbstractAsyncContextManager[Connection]:
        """Return a connection with the topics of a request and the rights of its user."""
        return self._broadcaster.connect(
            user=user.id,
            topics=named_topics(request),
            last_event_id=last_event_id,
            reconnect_token=reconnect_token,
            transport=transport,
            acknowledges=request.query.get("ack") == "true",
            expires_at=user.expires_at,
            may_subscribe=_Rights(self, user),
        )

    async def require(self, user: User, action: Action) -> None:
        """Raise `Refused` (`forbidden`) unless the user may do `action`."""
        answer = self.may(user, action, None)
        if not (answer if isinstance(answer, bool) else await answer):
            self._broadcaster.audit(AuditAction.ACCESS_REFUSED, user=user.id, detail=action.value)
            raise Refused(Reason.FORBIDDEN, "your rights do not allow this")

    def cors(self, request: Request) -> list[Header]:
        """Return the response headers for a page of an allowed foreign origin (Fetch, 3.3).

        Raises:
            Refused: The origin is not allowed.
        """
        origin = self.check_origin(request)
        if origin is None:
            return []
        if origin.lower() not in self._origins:  # "*" allows any origin, without credentials
            return [(b"access-control-allow-origin", b"*")]
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", b"x-reconnect-token"),
            (b"vary", b"origin"),
        ]

    def check_origin(self, request: Request) -> str | None:
        """Return the allowed foreign origin of a request, `None` for the server's own origin.

        The check is needed because browsers add cookies to a foreign page's WebSocket and simple
        requests. A request without `Origin` does not come from the script of a page.

        Raises:
            Refused: The origin is foreign and not allowed.
        """
        origin = request.headers.get("origin")
        if origin is None:
            return None
        known = origin.lower()
        if known in self._origins or "*" in self._origins:
            return origin
        try:
            host = urlsplit(known).netloc
        except ValueError:
            host = ""
        own = request.headers.get("host", "").lower()
        default = ":443" if known.startswith("https:") else ":80"
        if host and host.removesuffix(default) == own.removesuffix(default):
            return None
        self._broadcaster.audit(AuditAction.ORIGIN_REFUSED, detail=ascii(origin[:100]))
        raise Refused(Reason.FOREIGN_ORIGIN, "this origin is not allowed")


class _Rights:
    """The `may_subscribe` function of one user: calls the `authorize` hook for a topic."""

    __slots__ = ("_access", "_user")

    def __init__(self, access: Access, user: User) -> None:
        self._access = access
        self._user = user

    def __call__(self, topic: str) -> bool | Awaitable[bool]:
        action = Action.SUBSCRIBE_PATTERN if is_pattern(topic) else Action.SUBSCRIBE
        return self._access.may(self._user, action, topic)


async def _await_answer(answer: Awaitable[bool], action: Action) -> bool:
    try:
        return bool(await answer)
    except Exception:
        _logger.exception(_AUTHORIZE_FAILED, action)
        raise failed() from None


def failed() -> Refused:
    """Return a refusal after which the client may try again.

    An exception in a hook means "try again later" and not "no".
    """
    return Refused(Reason.FAILED, "the server cannot answer now")
