"""Backoff: the delay before the next attempt."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from holdfast.client.backoff import Backoff, parse_retry_after


def test_delays_spread_and_stay_within_their_bounds() -> None:
    """The bound doubles up to max_delay, and the delays spread from min_delay to the bound."""
    backoff = Backoff(0.5, 20.0)
    for bound in (1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0):
        assert 0.5 <= backoff.draw() <= bound
    drawn = [backoff.draw() for _ in range(2000)]
    assert min(drawn) < 1.5
    assert max(drawn) > 19.0
    assert max(drawn) <= 20.0
    backoff.reset()
    assert backoff.draw() <= 1.0


def test_requested_delay_is_respected_up_to_max_delay() -> None:
    """A server can ask for a longer delay than the drawn one, but not for hours."""
    backoff = Backoff(0.5, 20.0)
    assert backoff.draw(7.0) == 7.0
    assert backoff.draw(1e9) == 20.0
    backoff.reset()
    assert 0.5 <= backoff.draw(0.0) <= 1.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7.0), (" 0 ", 0.0), (None, None), ("", None), ("soon", None), ("-5", None), ("٥", None)],
)
def test_retry_after_in_seconds(value: str | None, seconds: float | None) -> None:
    """A number of seconds is parsed; a value that is neither seconds nor a date is ignored."""
    assert parse_retry_after(value) == seconds


@pytest.mark.real_time
def test_retry_after_as_a_date() -> None:
    """A date gives the seconds from now until then, and 0 if it has passed."""
    soon = parse_retry_after(
        format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    )
    assert soon is not None
    assert 25.0 < soon <= 30.0
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
