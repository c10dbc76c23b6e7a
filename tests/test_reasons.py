"""Reason: its rules, the table in docs/protocol.md, and the choices of both clients."""

from __future__ import annotations

import ast
import re
from http import HTTPStatus
from pathlib import Path

import pytest

from holdfast import Reason
from holdfast.client.event_stream import ServerSentEvent
from holdfast.client.frames import ClosingFrame, parse_frame
from holdfast.client.request_sender import ServerReply
from holdfast.core import frames
from holdfast.reasons import BAD_REQUEST, SERVICE_RESTART

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "src" / "holdfast" / "client"
FAILURE_TS = ROOT / "src" / "holdfast" / "browser" / "source" / "failure.ts"

LOG_IN_FIRST = {reason for reason in Reason if reason.close_code == 4401}
"""The reasons after which a client needs other credentials."""


def test_words_are_distinct() -> None:
    """Each reason has a word of its own, and no member is an alias of another."""
    assert len({reason.word for reason in Reason}) == len(Reason.__members__)


@pytest.mark.parametrize("reason", Reason)
def test_word_is_the_name_in_snake_case(reason: Reason) -> None:
    """The word on the wire is the member's name in lower case."""
    assert re.fullmatch("[a-z]+(_[a-z]+)*", reason.word)
    assert reason.word == reason.name.lower()


@pytest.mark.parametrize("reason", Reason)
def test_close_code_decides_whether_to_reconnect(reason: Reason) -> None:
    """1012 and the codes 4000 to 4399 mean reconnect, and 4400 to 4499 mean do not."""
    assert reason.close_code == 1012 or 4000 <= reason.close_code < 4500
    assert reason.reconnect is (reason.close_code == 1012 or reason.close_code < 4400)


def test_named_codes() -> None:
    """The two codes with names are those of the protocol."""
    assert (SERVICE_RESTART, BAD_REQUEST) == (1012, 4400)


@pytest.mark.parametrize("reason", Reason)
def test_status_is_an_error_of_http(reason: Reason) -> None:
    """A status is registered, 503 if the client should reconnect, and 4xx otherwise."""
    if reason.status is not None:
        assert reason.status in {each.value for each in HTTPStatus}
        assert reason.status == 503 if reason.reconnect else 400 <= reason.status < 500


@pytest.mark.parametrize("reason", Reason)
def test_close_code_has_the_digits_of_the_status(reason: Reason) -> None:
    """A code from 4400 on is 4000 and the status, except that mistakes share 4400."""
    if not reason.reconnect and reason.close_code != BAD_REQUEST and reason.status is not None:
        assert reason.close_code == 4000 + reason.status


def test_protocol_lists_exactly_the_reasons() -> None:
    """The table of docs/protocol.md has the rows of the enum, in the same order."""
    document = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    (table,) = re.findall(r"<!-- reasons -->\n(.*?)<!-- /reasons -->", document, re.DOTALL)
    header, _, *rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()
    ]
    assert header == ["reason", "close code", "HTTP status", "reconnect", "when"]
    assert [row[:4] for row in rows] == [
        [
            f"`{reason.word}`",
            str(reason.close_code),
            str(reason.status or ""),
            "yes" if reason.reconnect else "no",
        ]
        for reason in Reason
    ]
    assert all(row[4] for row in rows)


def test_protocol_names_no_other_reason() -> None:
    """Each close code from 4000 on in docs/protocol.md is a code of the enum, or ends a range."""
    document = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    named = {int(code) for code in re.findall(r"\b4[0-4]\d\d\b", document)}
    assert named <= {reason.close_code for reason in Reason} | {4000, 4399, 4400, 4499}


# -- the Python client -----------------------------------------------------------------------------


@pytest.mark.parametrize("reason", Reason)
def test_python_client_reads_each_closing_frame(reason: Reason) -> None:
    """The client finds the word in a closing frame, and whether it should reconnect."""
    body = frames.closing(reason, 0.0).decode()
    frame = parse_frame(ServerSentEvent("message", body, ""))
    assert frame == ClosingFrame(reason.word, reason.reconnect)


@pytest.mark.parametrize("reason", [each for each in Reason if each.status is not None])
def test_python_client_retries_by_the_status(reason: Reason) -> None:
    """The client retries where it should reconnect, and after 408 and 429 (RFC 9110, RFC 6585)."""
    reply = ServerReply(reason.status or 0, {}, reason.word, "")
    assert reply.is_retryable is (reason.reconnect or reason.status in {408, 429})


def test_python_client_spells_no_reason() -> None:
    """The client takes the reason of an end from the enum, so that the two cannot differ."""
    ends = [reason for reason in Reason if reason.close_code != BAD_REQUEST]
    words = {spelling for reason in ends for spelling in (reason.word, _spaced(reason))}
    for path in CLIENT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant):
                assert node.value not in words, f"{path.name}:{node.lineno}"


def _spaced(reason: Reason) -> str:
    return reason.word.replace("_", " ")


# -- the browser client ----------------------------------------------------------------------------


def function(name: str) -> str:
    """Return the text of a function in failure.ts."""
    source = FAILURE_TS.read_text("utf-8")
    (body,) = re.findall(rf"^export function {name}\(.*?^}}", source, re.DOTALL | re.MULTILINE)
    return str(body)


def numbers(text: str) -> list[int]:
    """Return the numbers in a text."""
    return [int(each) for each in re.findall(r"\d+", text)]


@pytest.mark.parametrize("reason", Reason)
def test_browser_client_reconnects_by_the_close_code(reason: Reason) -> None:
    """The client gets new credentials after 4401, and stops exactly after the other final codes."""
    renew, first, end = numbers(function("actionForCode"))
    assert (reason.close_code == renew) is (reason in LOG_IN_FIRST)
    assert (first <= reason.close_code < end) is not reason.reconnect


def test_browser_client_renews_by_the_reason() -> None:
    """The words after which the client gets new credentials are those with the code 4401."""
    words = re.findall(r'"(\w+)"', function("actionForClosing").partition("includes")[0])
    assert set(words) == {reason.word for reason in LOG_IN_FIRST}
    assert len(words) == len(LOG_IN_FIRST)


def test_browser_client_decides_by_the_status() -> None:
    """The client retries after each status of a reason to reconnect, and renews after 401."""
    body = function("actionForStatus")
    special = set(numbers(body))
    assert re.search(r'=== 401\) return "renew"', body)
    assert {reason.status for reason in LOG_IN_FIRST} == {401}
    assert special.isdisjoint({reason.status for reason in Reason if reason.reconnect})
    final = {reason.status for reason in Reason if not reason.reconnect and reason.status}
    assert final - special == {408, 413, 429}
