"""Wrong credentials of every kind at every entry point: one answer, and no log line."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from holdfast import Broadcaster
from holdfast.asgi import LiveApp
from holdfast.auth.jwt import JWTAuthenticator
from tests.bad_inputs.inputs import HUGE, MARK
from tests.support.asgi import HttpExchange, WebSocketExchange, fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "kZ3v9Qm1xLw8Rt5Yp2Bn7Hc4Jd6Fg0Sa" * 2
LATER = 4_000_000_000
ALGORITHMS: list[Any] = [
    "none", "None", "NONE", "nOnE", "", None, 5, [], {}, "HS512", "RS256", "hs256", "../x",
]  # fmt: skip
ENDPOINTS = [
    *(("GET", path) for path in ("/stream", "/reconnect", "/poll")),
    *(("GET", path) for path in ("/connection-stats", "/websocket-stats", "/websocket-info")),
    *(("POST", path) for path in ("/subscribe", "/unsubscribe", "/ack", "/test-connection")),
]


def signed(header: dict[str, Any], claims: Any, key: bytes = KEY.encode()) -> str:
    """Return a token with any header and any claims, correctly signed."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=") for p in (header, claims)
    ]
    content = b".".join(parts)
    signature = jwt.get_algorithm_by_name("HS256").sign(content, key)
    return f"{content.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def bad_credentials() -> Iterator[tuple[str, str]]:
    """All kinds of wrong JWTs by name."""
    good = {"sub": "ann", "exp": LATER, "aud": "live", "iss": "us"}
    usual = {"alg": "HS256", "typ": "JWT"}
    for name in ALGORITHMS:
        yield f"alg {name!r}", signed({"alg": name}, good)
        yield f"alg {name!r}, unsigned", signed({"alg": name}, good).rpartition(".")[0] + "."
    for name in ("HS384", "HS512"):  # correctly signed, by an algorithm outside the list
        yield f"signed with {name}", jwt.encode(good, KEY, algorithm=name)
    for extra in ({"kid": "../../etc/passwd"}, {"jku": "http://evil.test"}, {"crit": ["x"]}):
        yield f"{extra}, other key", signed({**usual, **extra}, good, b"x" * 64)
    wrong: dict[str, list[Any]] = {
        "exp": [None, "", str(LATER), "x", 0, -1, 1, int(time.time()) - 1, True, [LATER], {},
                float("nan"), float("inf"), -HUGE, HUGE],
        "nbf": [LATER, "x", float("inf"), [], HUGE],
        "iat": [LATER, "x", float("inf"), HUGE],
        "aud": [None, "", "other", [], ["other"], 5, {}, ["live", 5]],
        "iss": [None, "", "them", 5, [], ["us"], {"us": 1}],
        "sub": [None, "", 5, [], {}, True],
    }  # fmt: skip
    for claim, values in wrong.items():
        for value in values:
            if (claim, value) == ("aud", ["live", 5]):
                continue
            claims = {**good, claim: value}
            yield f"{claim}={str(value)[:20]}", signed(usual, claims)
            if value is None:
                del claims[claim]
                yield f"no {claim}", signed(usual, claims)
    for other in ([], "text", 5, None, [good]):
        yield f"claims {other!r:.20}", signed(usual, other)
    whole = signed(usual, good)
    for text in (whole[:-2], whole + "A", whole.swapcase(), whole.replace(".", ""), "." * 10_000,
                 "A" * 20_000, whole + "." + whole, "=" * 50, "Bearer", MARK):  # fmt: skip
        yield f"mangled {text[:10]}", text


def guarded(broadcaster: Broadcaster) -> LiveApp:
    """Return all endpoints behind a JWT."""
    check = JWTAuthenticator(KEY, audience="live", issuer="us", query="jwt", cookie="jwt")
    return LiveApp(broadcaster, authenticate=check)


async def test_wrong_credentials_get_one_answer_everywhere(broadcaster: Broadcaster) -> None:
    """A wrong JWT in header, cookie or query gets the same 401 everywhere, and no log line."""
    app = guarded(broadcaster)
    answers = set()
    for name, token in bad_credentials():
        for method, path in ENDPOINTS if "none" in name or "exp" in name else ENDPOINTS[:1]:
            for place in ("header", "cookie", "query"):
                headers, query = {}, "topics=t"
                if place == "query":
                    query += f"&jwt={token}"
                elif place == "cookie":
                    headers["cookie"] = f"jwt={token}"
                else:
                    headers["authorization"] = f"Bearer {token}"
                answer = await fetch(app, method, f"{path}?{query}", headers=headers)
                assert answer.status == 401, (name, place)
                answers.add((answer.body, tuple(sorted(answer.headers.items()))))
        async with WebSocketExchange(app, headers={"authorization": f"Bearer {token}"}) as socket:
            await socket.wait_accepted()
            assert (await socket.frame())["data"]["code"] == "unauthorized"
            assert await socket.wait_closed() == 4401
    assert len(answers) == 1
    assert broadcaster.statistics().opened == 0


@pytest.mark.parametrize("kind", ["stream", "socket"])
async def test_stream_ends_when_its_jwt_expires(kind: str) -> None:
    """The stream ends together with the JWT, and tells the client not to reconnect by itself."""
    began, loop = time.time(), asyncio.get_running_loop()
    async with Broadcaster(clock=lambda: began + loop.time()) as broadcaster:
        app = guarded(broadcaster)
        claims = {"sub": "ann", "exp": int(began) + 60, "aud": "live", "iss": "us"}
        headers = {"authorization": f"Bearer {jwt.encode(claims, KEY)}"}
        make: Any = HttpExchange if kind == "stream" else WebSocketExchange
        async with make(app, f"/{kind.replace('socket', 'websocket')}", headers=headers) as call:
            await (call.read_head() if kind == "stream" else call.wait_accepted())
            while (frame := await call.frame())["type"] != "closing":
                pass
            assert frame["data"] == {"reason": "credentials_expired", "reconnect": False}
            assert 58.0 <= loop.time() <= 61.0
            if kind == "socket":
                assert await call.wait_closed() == 4401
            else:
                assert await call.event() is None
