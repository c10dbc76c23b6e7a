"""What a test needs of the machine: skipped with a reason where it is missing, failed in CI."""

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
    """Mark a test, a parameter or (as ``pytestmark``) a file with `require` of the same arguments.

    ``reason`` says what the test does with it: "the browser client runs in a real browser".
    """
    return pytest.mark.needs(module=module, executable=executable, reason=reason)


def require(*, module: str | None = None, executable: str | Sequence[str] = (), reason: str) -> str:
    """Return the path of the executable ("" if none was asked for), or end the running test.

    Of several executables the first that exists is taken. Where something is missing, the test is
    skipped, but fails where the environment says ``CI=true``: a test that CI skips proves nothing.
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
