"""JWTAuthenticator: who gets in, who does not, and keys that it refuses at start."""

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
    """A signed token for ann, with claims replaced, or left out with None."""
    whole = {"sub": "ann", "exp": LATER, **claims}
    return jwt.encode({k: v for k, v in whole.items() if v is not None}, key, algorithm=algorithm)


def bearer(text: str) -> Request:
    """A request with an Authorization header."""
    return Request({"headers": [(b"authorization", f"Bearer {text}".encode())]})


def part(value: Any) -> str:
    """One part of a token: JSON in base64url."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def raw(header: Any, claims: Any, signature: str = "") -> str:
    """A token made by hand."""
    return f"{part(header)}.{part(claims)}.{signature}"


def test_good_token() -> None:
    """Subject, roles and end of validity come from the token."""
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
    """Whatever is wrong with a token, it names nobody, and nothing is raised."""
    assert JWTAuthenticator(KEY)(bearer(text)) is None


@given(st.text(st.characters(max_codepoint=255), max_size=200))
def test_any_text_is_nobody(text: str) -> None:
    """No text at all raises."""
    made = Request({"headers": [(b"authorization", b"Bearer " + text.encode("latin-1"))]})
    assert JWTAuthenticator(KEY)(made) is None


@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "roles", "aud", "iss", "jti"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text()
        | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(), st.none(), max_size=1),
    )
)  # fmt: skip
def test_any_claims_raise_nothing(claims: dict[str, Any]) -> None:
    """Even rightly signed, claims of any type are answered with a user or nobody."""
    header = part({"alg": "HS256"})
    signed = f"{header}.{part(claims)}"
    signature = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), KEY.encode())
    text = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    user = JWTAuthenticator(KEY)(bearer(text))
    assert user is None or (isinstance(user.id, str) and isinstance(user.expires_at, float))


def test_audience_and_issuer() -> None:
    """If they are asked for they must be there and right."""
    check = JWTAuthenticator(KEY, audience="push", issuer="us")
    assert check(bearer(token(aud="push", iss="us"))) is not None
    assert check(bearer(token(aud=["x", "push"], iss="us"))) is not None
    for claims in (
        {}, {"aud": "push"}, {"iss": "us"}, {"aud": "other", "iss": "us"},
        {"aud": "push", "iss": "them"}, {"aud": [], "iss": "us"}, {"aud": 5, "iss": "us"},
    ):  # fmt: skip
        assert check(bearer(token(**claims))) is None, claims


def test_role() -> None:
    """With a role asked for, only its holders get in; the claim is a list of strings."""
    check = JWTAuthenticator(KEY, role="ops", roles_claim="groups")
    assert check(bearer(token(groups=["x", "ops"]))) is not None
    for groups in (None, [], "ops", ["opsx"], {"ops": 1}, [["ops"]], 5):
        assert check(bearer(token(groups=groups))) is None, groups


def test_leeway() -> None:
    """A token that expired within the leeway is good, and the stream lasts as long."""
    expired = int(time.time()) - 5
    assert JWTAuthenticator(KEY)(bearer(token(exp=expired))) is None
    user = JWTAuthenticator(KEY, leeway=60.0)(bearer(token(exp=expired)))
    assert user is not None
    assert user.expires_at == expired + 60.0


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_scheme_is_case_insensitive(scheme: str) -> None:
    """RFC 9110, section 11.1."""
    made = Request({"headers": [(b"authorization", f"{scheme} {token()}".encode())]})
    assert JWTAuthenticator(KEY)(made) is not None


def test_where_it_is_looked_for() -> None:
    """Header before cookie before query, the latter two only if asked for."""
    by = {name: token(sub=name) for name in ("header", "cookie", "query")}

    def made(*places: str) -> Request:
        headers = []
        if "header" in places:
            headers.append((b"authorization", f"Bearer {by['header']}".encode()))
        if "cookie" in places:
            headers.append((b"cookie", f"other={{'; jwt={by['cookie']}".encode()))
        query = f"token={by['query']}" if "query" in places else ""
        return Request({"headers": headers, "query_string": query.encode()})

    everywhere = JWTAuthenticator(KEY, cookie="jwt", query="token")
    for places in (("header", "cookie", "query"), ("cookie", "query"), ("query",)):
        user = everywhere(made(*places))
        assert user is not None
        assert user.id == places[0]
    assert everywhere(made()) is None
    assert JWTAuthenticator(KEY)(made("cookie", "query")) is None


def test_basic_credentials_are_not_a_token() -> None:
    """Another scheme is passed over."""
    made = Request({"headers": [(b"authorization", f"Basic {token()}".encode())]})
    assert JWTAuthenticator(KEY)(made) is None


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
def test_keys_that_cannot_be_meant(key: str | bytes, options: dict[str, Any]) -> None:
    """A weak, sample or wrong key, and algorithms that cannot work, fail at start."""
    with pytest.raises(ConfigurationError):
        JWTAuthenticator(key, **options)


def test_shortest_key() -> None:
    """A secret of just the size of the hash is good."""
    assert JWTAuthenticator(SHORTEST)(bearer(token(SHORTEST))) is not None
    assert JWTAuthenticator(KEY, algorithms=["HS512"])(bearer(token(KEY, "HS512"))) is not None


def test_key_is_in_no_error_and_no_repr() -> None:
    """Neither the repr nor an error shows the key."""
    assert KEY not in repr(JWTAuthenticator(KEY))
    with pytest.raises(ConfigurationError) as caught:
        JWTAuthenticator("hush-hush", algorithms=["HS256"])
    assert "hush-hush" not in str(caught.value)


def test_public_key() -> None:
    """Asymmetric keys work, and a token that uses the public key as an HMAC secret does not."""
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
    check = JWTAuthenticator(public, algorithms=["ES256"])
    assert check(bearer(token(pem, "ES256"))) is not None
    signed = f"{part({'alg': 'HS256'})}.{part({'sub': 'ann', 'exp': LATER})}"
    signature = jwt.get_algorithm_by_name("HS256").sign(signed.encode(), public)
    forged = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert check(bearer(forged)) is None
    with pytest.raises(ConfigurationError):
        JWTAuthenticator(public)
