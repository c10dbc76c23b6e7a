"""Compare Window with a plain list of sent frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.cursor import Cursor
from holdfast.core.delivery.window import GRAIN, MIN_BYTES, TARGET_DELAY, Window

LIMIT = 200_000

operations = st.lists(
    st.tuples(st.sampled_from(["send", "acknowledge"]), st.integers(1, 30_000), st.floats(0, 1)),
    max_size=60,
)


@given(operations, st.sampled_from([100, MIN_BYTES, LIMIT]))
def test_unacknowledged_is_what_was_sent_beyond_the_last_acknowledged(
    script: list[tuple[str, int, float]], limit: int
) -> None:
    """The unacknowledged bytes are exact, and the size stays within its bounds."""
    window, sent, acknowledged, now = Window(limit), list[int](), 0, 0.0
    for step, number, seconds in script:
        now += seconds
        if step == "send":
            sent.append(number)
            window.record_sent(Cursor.at(len(sent)), number, now)
        elif sent:
            acknowledged = max(acknowledged, number % (len(sent) + 1))
            window.acknowledge(Cursor.at(acknowledged), now)
        pending = sum(sent[acknowledged:])
        assert pending <= window.unacknowledged <= pending + GRAIN
        assert window.room == max(0, window.size - window.unacknowledged)
        assert min(MIN_BYTES, limit) <= window.size <= limit
        assert (window.waiting_since is None) is (pending == 0)
        assert len(window._sent) <= 2 * window.unacknowledged / GRAIN + 1
    window.acknowledge(Cursor.at(len(sent)), now)
    assert window.room == window.size > 0


def test_cursor_that_is_behind_in_one_lane_releases_nothing() -> None:
    """A frame is released when the acknowledged cursor has reached it in every lane."""
    window = Window(LIMIT)
    window.record_sent(Cursor((3, 5, 5, 5)), 100, 0.0)  # type: ignore[arg-type]
    window.acknowledge(Cursor((2, 9, 9, 9)), 1.0)  # type: ignore[arg-type]
    assert window.unacknowledged == 100
    window.acknowledge(Cursor((3, 5, 5, 5)), 1.0)  # type: ignore[arg-type]
    assert window.unacknowledged == 0


class Link:
    """A simulated link with a latency and a rate; its client acknowledges at once."""

    def __init__(self, *, latency: float, rate: float) -> None:
        self.window = Window(1024 * 1024)
        self.latency, self.rate = latency, rate
        self.now = self.free_at = 0.0
        self.sent = 0
        self.arrivals: list[tuple[float, int]] = []

    def run(self, seconds: float, *, frame: int = 1000) -> int:
        """Send as the window allows for `seconds`; return the acknowledged bytes."""
        end, before = self.now + seconds, self.window.unacknowledged
        sent_bytes = 0
        while self.now < end:
            while self.window.room:
                self.sent += 1
                self.window.record_sent(Cursor.at(self.sent), frame, self.now)
                self.free_at = max(self.free_at, self.now) + frame / self.rate
                self.arrivals.append((self.free_at + self.latency, self.sent))
                sent_bytes += frame
            self.now, number = self.arrivals.pop(0)
            self.window.acknowledge(Cursor.at(number), self.now)
        return before + sent_bytes - self.window.unacknowledged


@pytest.mark.parametrize("latency", [0.001, 0.05, 0.3])
def test_fast_link_is_filled(latency: float) -> None:
    """At 10 MB/s the window grows until the link or the limit is reached."""
    link = Link(latency=latency, rate=10e6)
    link.run(5.0)
    assert link.run(5.0) >= 0.9 * 5.0 * min(10e6, 1024 * 1024 / (latency + 0.01))


@pytest.mark.parametrize("latency", [0.001, 0.3])
def test_slow_link_has_little_under_way(latency: float) -> None:
    """At 1 Mbit/s a frame arrives within the target delay and a little more."""
    link = Link(latency=latency, rate=125_000)
    link.run(10.0)
    delays = []
    for _ in range(50):
        link.run(0.1)
        delays.append(link.window.unacknowledged / link.rate)
    assert max(delays) <= 3 * TARGET_DELAY + latency
    assert link.run(5.0) >= 0.9 * 5.0 * min(125_000, MIN_BYTES / latency)


def test_window_that_was_not_full_does_not_grow() -> None:
    """The window of a connection with little to send does not grow."""
    window = Window(LIMIT)
    for number in range(100):
        window.record_sent(Cursor.at(number), 1000, float(number))
        window.acknowledge(Cursor.at(number), number + 0.01)
    assert window.size == MIN_BYTES
