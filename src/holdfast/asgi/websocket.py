"""/websocket: the fallback, with the same frames."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from urllib.parse import unquote

from ..asgi_types import Receive, Scope, Send
from ..auth import Request, User
from ..errors import BroadcasterFailed, Refused
from ..runtime.broadcaster import Broadcaster
from ..transports import websocket
from .access import Access, failed, presented
from .commands import Commands

SUBPROTOCOL = "holdfast"
BEARER = "bearer."


def _subprotocol(request: Request) -> dict[str, str]:
    """Return the subprotocol to accept, and move a bearer token to where the hooks look for it.

    A page can set no headers on a WebSocket, and URLs are logged. So the page offers `holdfast`
    and `bearer.<token>`, escaped as in a URL, and the token becomes `Authorization`. The server
    must choose one of the offered ones, or a browser fails the handshake; it never chooses the one
    with the token.
    """
    offered = [
        each.strip() for each in request.headers.get("sec-websocket-protocol", "").split(",")
    ]
    if SUBPROTOCOL not in offered:
        return {}
    for each in offered:
        if each.startswith(BEARER) and "authorization" not in request.headers:
            request.headers["authorization"] = f"Bearer {unquote(each.removeprefix(BEARER))}"
    return {"subprotocol": SUBPROTOCOL}


class WebSocketEndpoint:
    """The WebSocket endpoint.

    A refused handshake is always code 1006 to JavaScript. So the server accepts it first, and
    then closes with a code that tells the client whether to come back.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        access: Access,
        commands: Commands,
        limits: websocket.InboundLimits,
    ) -> None:
        self._broadcaster = broadcaster
        self._access = access
        self._commands = commands
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept, authenticate, run."""
        if (await receive())["type"] != "websocket.connect":
            return
        request = Request(scope)
        await send({"type": "websocket.accept", **_subprotocol(request)})
        try:
            request.check_query()
            self._access.check_origin(request)
            user = await self._access.user(request, "websocket")
            await self._run(request, user, receive, send)
        except BroadcasterFailed:
            await self._refuse(send, failed())
        except Refused as error:
            await self._refuse(send, error)

    async def _refuse(self, send: Send, error: Refused) -> None:
        text = websocket.refusal(error, self._broadcaster.now()).decode()
        with suppress(OSError, RuntimeError):  # the client may have left in between
            await send({"type": "websocket.send", "text": text})
            await websocket.close(send, error.reason)

    async def _run(self, request: Request, user: User, receive: Receive, send: Send) -> None:
        last_event_id, reconnect_token = presented(request)
        for may_resume in (True, False):  # one resume per socket, because each costs a session
            async with self._access.connect(
                request,
                user,
                "websocket",
                last_event_id=last_event_id,
                reconnect_token=reconnect_token,
            ) as connection:
                command = partial(self._commands.by_message, connection)
                resume = await websocket.serve(
                    connection, receive, send, command, limits=self._limits, may_resume=may_resume
                )
            if resume is None:
                return
            last_event_id, reconnect_token = resume.event_id, None
