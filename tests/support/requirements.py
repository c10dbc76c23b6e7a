"""The requirements of a test: a missing one skips the test, or fails it in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence


def needs(
    *, module: str | None = None, executable: str | Sequence[str] = (), reason: str
) -> pytest.MarkDecorator:
    """Return a mark that calls `require` with the same arguments, for a test, parameter or file.

    `reason` says what the test uses it for: "the browser client runs in a real browser".
    """
    return pytest.mark.needs(module=module, executable=executable, reason=reason)


def require(*, module: str | None = None, executable: str | Sequence[str] = (), reason: str) -> str:
    """Return the path of the executable ("" without one), or end the running test.

    The first executable that exists is taken. A missing requirement skips the test, but fails it
    where the environment has `CI=true`, because a test that CI skips proves nothing.
    """
    names = [executable] if isinstance(executable, str) else list(executable)
    path = next(filter(None, map(shutil.which, names)), "")
    missing = []
    if module is not None and importlib.util.find_spec(module) is None:
        missing.append(f"module {module}")
    if names and not path:
        missing.append(f"executable {' or '.join(names)}")
    if missing:
        message = f"missing {' and '.join(missing)}: {reason}"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return path
