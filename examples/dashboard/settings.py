"""The settings of the dashboard, from the environment."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

USER = "admin"
MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: a key for HS256 has at least 256 bits


@dataclass(frozen=True, slots=True)
class Settings:
    """The password, and the key that signs the session cookie.

    The repr shows neither, because settings end up in logs.
    """

    password: str = field(repr=False)
    secret: str = field(repr=False)
    password_generated: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ``DASHBOARD_PASSWORD`` and ``DASHBOARD_SECRET``, or generate them.

        A generated secret ends all sessions when the process ends.

        Raises:
            ValueError: A variable has a value that cannot work; the message names it.
        """
        env = os.environ if environ is None else environ
        password = env.get("DASHBOARD_PASSWORD", "")
        secret = env.get("DASHBOARD_SECRET", "")
        if secret and len(secret.encode()) < MIN_SECRET_BYTES:
            raise ValueError(f"DASHBOARD_SECRET needs at least {MIN_SECRET_BYTES} bytes")
        return cls(
            password=password or secrets.token_urlsafe(9),
            secret=secret or secrets.token_urlsafe(48),
            password_generated=not password,
        )
