"""One file for each contestant, named here in the order of the tables; ../README.md explains."""

from __future__ import annotations

GREETING = "raw_sse_greeting"
"""Only for what an opening costs: a hand-written server that sends a first frame, too."""

SSE = (
    "holdfast_sse",
    "raw_sse",
    GREETING,
    "raw_sse_batched",
    "bare_sse",
    "starlette_sse",
    "sse_starlette",
    "fastapi_sse",
    "litestar_sse",
)
WS = (
    "holdfast_ws",
    "raw_ws",
    "raw_ws_batched",
    "bare_ws",
    "fastapi_ws",
    "litestar_ws",
    "socketio_ws",
    "websockets_broadcast",
)
FAMILIES = {"sse": SSE, "ws": WS}
