"""JSON Web Tokens (RFC 7519), checked by PyJWT (extra `jwt`: `pip install "holdfast[jwt]"`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import jwt

from ..core.validation import check_number, is_number
from ..errors import ConfigurationError
from .hooks import User
from .request import Request

MIN_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Bytes of an HMAC key: at least the size of the hash (RFC 7518, section 3.2)."""

_PLACEHOLDERS = ("secret", "changeme", "change-me", "your-", "example", "password")


class JWTAuthenticator:
    """An `authenticate` hook that checks the JSON Web Token of a request.

        app = LiveApp(broadcaster, authenticate=JWTAuthenticator(SECRET, cookie="session"))

    The token is read from `Authorization: Bearer` (RFC 6750, section 2.1), then from the cookie,
    then from the query field. The claims `exp` and `sub` are required (RFC 7519, section 4.1).
    `sub` is the id of the user, and a connection is closed when its token expires.

    Args:
        key: The HMAC secret, or the public key in PEM form.
        algorithms: The algorithms that are accepted. The header of a token does not choose
            others, and "none" is not possible (RFC 8725, section 3.1).
        audience: The required `aud`; `None` does not check it.
        issuer: The required `iss`; `None` does not check it.
        role: A role that users must have; `None` accepts all users.
        roles_claim: The claim with the roles of a user, a list of strings.
        cookie: The name of a cookie that contains the token, because `EventSource` cannot set
            headers; `None` for none.
        query: The name of a query field that contains the token; `None` for none. URLs are logged,
            so a token in a URL should be valid for a short time only.
        leeway: Seconds by which clocks may differ.

    Raises:
        ConfigurationError: The key does not fit the algorithms, is too short or looks like a
            placeholder.
    """

    def __init__(
        self,
        key: str | bytes,
        *,
        algorithms: Sequence[str] = ("HS256",),
        audience: str | None = None,
        issuer: str | None = None,
        role: str | None = None,
        roles_claim: str = "roles",
        cookie: str | None = None,
        query: str | None = None,
        leeway: float = 0.0,
    ) -> None:
        _check_key(key, algorithms)
        check_number("leeway", leeway, zero=True)
        self._key = key
        self._algorithms = list(algorithms)
        self._audience = audience
        self._issuer = issuer
        self._role = role
        self._roles_claim = roles_claim
        self._cookie = cookie
        self._query = query
        self._leeway = leeway

    def __call__(self, request: Request) -> User | None:
        """Return the user of the token; `None` without a token, or for any fault in it."""
        token = self._find(request)
        if not token or len(token) > 16 * 1024:
            return None
        required = ["exp", "sub"] + ["aud"] * bool(self._audience) + ["iss"] * bool(self._issuer)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": required},
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            return None
        return self._user(claims)

    def _user(self, claims: dict[str, Any]) -> User | None:
        subject, expires_at = claims["sub"], claims["exp"]
        if not isinstance(subject, str) or not subject:
            return None
        if not is_number(expires_at):
            return None
        listed = claims.get(self._roles_claim)
        names = cast("list[object]", listed) if isinstance(listed, list) else []
        roles = frozenset(name for name in names if isinstance(name, str))
        if self._role is not None and self._role not in roles:
            return None
        return User(id=subject, roles=roles, expires_at=float(expires_at) + self._leeway)

    def _find(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        if self._cookie is not None and (found := request.cookies.get(self._cookie)):
            return found
        return request.query.get(self._query) if self._query is not None else None

    def __repr__(self) -> str:
        return f"JWTAuthenticator(algorithms={self._algorithms!r})"


def _check_key(key: str | bytes, algorithms: Sequence[str]) -> None:
    if isinstance(algorithms, str) or not algorithms:
        raise ConfigurationError("algorithms must be a list of one or more names")
    for name in algorithms:
        _check_algorithm(key, name)
    symmetric = [name for name in algorithms if name.startswith("HS")]
    if not symmetric:
        return
    if len(symmetric) < len(algorithms):
        raise ConfigurationError("algorithms has HMAC and public-key algorithms: choose one kind")
    raw = key.encode() if isinstance(key, str) else key
    least = max(MIN_SECRET_BYTES.get(name, 64) for name in symmetric)
    if len(raw) < least:
        raise ConfigurationError(f"the HMAC secret needs at least {least} random bytes")
    text = raw.decode("latin-1").lower()
    if len(set(raw)) < 8 or any(text.startswith(word) for word in _PLACEHOLDERS):
        raise ConfigurationError("the HMAC secret looks like a placeholder: use random bytes")


def _check_algorithm(key: str | bytes, name: str) -> None:
    """Raise unless `key` can verify tokens. PyJWT also rejects a public key as HMAC secret."""
    if name.lower() == "none":
        raise ConfigurationError("algorithms must not have 'none': it verifies nothing")
    try:
        jwt.get_algorithm_by_name(name).prepare_key(key)
    except NotImplementedError:
        raise ConfigurationError(
            f"PyJWT has no algorithm {name!r} here; public-key ones need pyjwt[crypto]"
        ) from None
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ConfigurationError(f"the key does not fit {name}: {error}") from None
