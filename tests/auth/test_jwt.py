"""JWTAuthenticator: valid and invalid tokens, and the keys that its constructor refuses."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import ConfigurationError
from holdfast.auth import Request, User
from holdfast.auth.jwt import JWTAuthenticator

SHORTEST = "kZ3v9Qm1xLw8Rt5Yp2Bn7Hc4Jd6Fg0Sa"
KEY = SHORTEST + "9uWq7Ze2Xs5Rd8Tf1Yg4Uh6Ij3Ok0PlA"
OTHER = KEY[::-1]
LATER = 4_000_000_000


def token(key: str | bytes = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    """Return a signed token for ann. `claims` replace the defaults; None leaves a claim out."""
    merged = {"sub": "ann", "exp": LATER, **claims}
    return jwt.encode({k: v for k, v in merged.items() if v is not None}, key, algorithm=algorithm)


def bearer(text: str) -> Request:
    """Return a request with a bearer token."""
    return Request({"headers": [(b"authorization", f"Bearer {text}".encode())]})


def part(value: Any) -> str:
    """Return JSON in base64url, as one part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def raw(header: Any, claims: Any, signature: str = "") -> str:
    """Return a token with any header and claims."""
    return f"{part(header)}.{part(claims)}.{signature}"


def test_good_token() -> None:
    """The user has the subject, the roles and the expiry of the token."""
    user = JWTAuthenticator(KEY)(bearer(token(roles=["a", "b", 5])))
    assert user == User(id="ann", roles=frozenset({"a", "b"}), expires_at=float(LATER))


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "a.b.c", "..", token()[:-1], token() + "x", "A" * 20_000, "é.é.é",
        token(OTHER), token()[:-3] + "AAA",
        raw({"alg": "none"}, {"sub": "ann", "exp": LATER}),
        raw({"alg": "None"}, {"sub": "ann", "exp": LATER}),
        raw({"alg": "NONE", "typ": "JWT"}, {"sub": "ann", "exp": LATER}, "AA"),
        raw({}, {"sub": "ann", "exp": LATER}),
        raw({"alg": 5}, {"sub": "ann", "exp": LATER}),
        raw([], []), raw({"alg": "HS256"}, "text"),
        token(algorithm="HS512"),
        token(exp=None), token(sub=None),
        token(exp=1), token(exp=int(time.time())), token(exp=-1), token(exp=0),
        token(exp=str(LATER)), token(exp=True), token(exp=[LATER]), token(exp={}),
        token(exp=float("inf")), token(exp=float("nan")), token(exp=""),
        token(nbf=LATER), token(nbf="x"), token(iat=LATER), token(iat="x"),
        token(nbf=float("inf")), token(iat=float("inf")),
        token(aud="somebody"), token(aud=["somebody"]),
        token(sub=""),
    ],
    ids=lambda text: text[:30] or "empty",
)  # fmt: skip
def test_bad_token(text: str) -> None:
    """An invalid token is not authenticated, and raises no error."""
    assert JWTAuthenticator(KEY)(bearer(text)) is None


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_any_text_is_not_authenticated(text: str) -> None:
    """No text in place of a token is authenticated, or raises."""
    request = Request({"headers": [(b"authorization", b"Bearer " + text.encode("latin-1"))]})
    assert JWTAuthenticator(KEY)(request) is None


@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "roles", "aud", "iss", "jti"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(), st.none(), max_size=1),
    )
)  # fmt: skip
def test_any_claims_raise_nothing(claims: dict[str, Any]) -> None:
    """Signed claims of any type give a user or None."""
    header = part({"alg": "HS256"})
    signed = f"{header}.{part(claims)}"
    signature = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), KEY.encode())
    text = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    user = JWTAuthenticator(KEY)(bearer(text))
    assert user is None or (isinstance(user.id, str) and isinstance(user.expires_at, float))


def test_audience_and_issuer() -> None:
    """A configured audience and issuer must be in the token."""
    authenticate = JWTAuthenticator(KEY, audience="push", issuer="us")
    assert authenticate(bearer(token(aud="push", iss="us"))) is not None
    assert authenticate(bearer(token(aud=["x", "push"], iss="us"))) is not None
    for claims in (
        {}, {"aud": "push"}, {"iss": "us"}, {"aud": "other", "iss": "us"},
        {"aud": "push", "iss": "them"}, {"aud": [], "iss": "us"}, {"aud": 5, "iss": "us"},
    ):  # fmt: skip
        assert authenticate(bearer(token(**claims))) is None, claims


def test_role() -> None:
    """A configured role must be in the roles claim, which is a list of strings."""
    authenticate = JWTAuthenticator(KEY, role="ops", roles_claim="groups")
    assert authenticate(bearer(token(groups=["x", "ops"]))) is not None
    for groups in (None, [], "ops", ["opsx"], {"ops": 1}, [["ops"]], 5):
        assert authenticate(bearer(token(groups=groups))) is None, groups


def test_leeway() -> None:
    """A token that expired within the leeway is valid, and so is its stream."""
    expired = int(time.time()) - 5
    assert JWTAuthenticator(KEY)(bearer(token(exp=expired))) is None
    user = JWTAuthenticator(KEY, leeway=60.0)(bearer(token(exp=expired)))
    assert user is not None
    assert user.expires_at == expired + 60.0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_scheme_is_case_insensitive(scheme: str) -> None:
    """The name of the scheme is case-insensitive (RFC 9110, section 11.1)."""
    request = Request({"headers": [(b"authorization", f"{scheme} {token()}".encode())]})
    assert JWTAuthenticator(KEY)(request) is not None


def test_sources_of_the_token() -> None:
    """The header precedes the cookie and the query, which are read only if configured."""
    tokens = {name: token(sub=name) for name in ("header", "cookie", "query")}

    def request_with(*places: str) -> Request:
        headers = []
        if "header" in places:
            headers.append((b"authorization", f"Bearer {tokens['header']}".encode()))
        if "cookie" in places:
            headers.append((b"cookie", f"other={{'; jwt={tokens['cookie']}".encode()))
        query = f"token={tokens['query']}" if "query" in places else ""
        return Request({"headers": headers, "query_string": query.encode()})

    authenticate = JWTAuthenticator(KEY, cookie="jwt", query="token")
    for places in (("header", "cookie", "query"), ("cookie", "query"), ("query",)):
        user = authenticate(request_with(*places))
        assert user is not None
        assert user.id == places[0]
    assert authenticate(request_with()) is None
    assert JWTAuthenticator(KEY)(request_with("cookie", "query")) is None


def test_basic_credentials_are_not_a_token() -> None:
    """Credentials of another scheme are ignored."""
    request = Request({"headers": [(b"authorization", f"Basic {token()}".encode())]})
    assert JWTAuthenticator(KEY)(request) is None


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("", {}), ("short", {}), ("x" * 31, {}), ("x" * 64, {}), ("ab" * 32, {}),
        ("secret" * 10, {}), ("your-256-bit-secret-goes-here-1234567890", {}),
        ("changeme-changeme-changeme-changeme-0123", {}),
        ("example-key-example-key-0123456789ab", {}), (b"", {}),
        (SHORTEST, {"algorithms": ["HS384"]}), (SHORTEST, {"algorithms": ["HS256", "HS512"]}),
        (KEY, {"algorithms": []}), (KEY, {"algorithms": ["none"]}), (KEY, {"algorithms": ["None"]}),
        (KEY, {"algorithms": ["HS256", "none"]}), (KEY, {"algorithms": "HS256"}),
        (KEY, {"algorithms": ["hs256"]}), (KEY, {"algorithms": ["HS999"]}),
        (KEY, {"algorithms": ["RS256"]}), (KEY, {"algorithms": ["HS256", "RS256"]}),
        (
            "-----BEGIN PUBLIC KEY-----\n" + "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A" * 8
            + "\n-----END PUBLIC KEY-----\n", {},
        ),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7Zb7U2s9kq0123456789", {}),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_unusable_keys_are_refused(key: str | bytes, options: dict[str, Any]) -> None:
    """A weak, sample or wrong key, or an unsuitable algorithm, raises in the constructor."""
    with pytest.raises(ConfigurationError):
        JWTAuthenticator(key, **options)


def test_shortest_key() -> None:
    """A secret of exactly the size of the hash is accepted."""
    assert JWTAuthenticator(SHORTEST)(bearer(token(SHORTEST))) is not None
    assert JWTAuthenticator(KEY, algorithms=["HS512"])(bearer(token(KEY, "HS512"))) is not None


def test_key_is_in_no_error_and_no_repr() -> None:
    """Neither the repr nor an error contains the key."""
    assert KEY not in repr(JWTAuthenticator(KEY))
    with pytest.raises(ConfigurationError) as caught:
        JWTAuthenticator("hush-hush", algorithms=["HS256"])
    assert "hush-hush" not in str(caught.value)


def test_public_key() -> None:
    """A public key verifies tokens, and is refused as an HMAC secret."""
    crypto = pytest.importorskip("cryptography.hazmat.primitives")
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        crypto.serialization.Encoding.PEM,
        crypto.serialization.PrivateFormat.PKCS8,
        crypto.serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        crypto.serialization.Encoding.PEM, crypto.serialization.PublicFormat.SubjectPublicKeyInfo
    )
    authenticate = JWTAuthenticator(public, algorithms=["ES256"])
    assert authenticate(bearer(token(pem, "ES256"))) is not None
    signed = f"{part({'alg': 'HS256'})}.{part({'sub': 'ann', 'exp': LATER})}"
    signature = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), public)
    forged = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert authenticate(bearer(forged)) is None
    with pytest.raises(ConfigurationError):
        JWTAuthenticator(public)
