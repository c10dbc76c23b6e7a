"""One file per contestant, named here in the order of the tables (see ../README.md)."""

from __future__ import annotations

GREETING = "raw_sse_greeting"
"""A hand-written server that also sends a first frame, only for the cost of opening."""

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
