"""The topics that fill themselves: each with its own interval, priority and key.

A key makes a topic a value instead of a sequence: a reader that is behind gets the newest
one, not all that it missed.
"""

from __future__ import annotations

import asyncio

from examples.dashboard.alerts import Threshold
from examples.dashboard.host import HostSample, HostSampler, top_processes
from holdfast import Broadcaster, Priority


def add_sources(broadcaster: Broadcaster) -> None:
    """Register the periodic sources; each runs only while somebody is subscribed."""
    host = WatchedHost(broadcaster)
    broadcaster.periodic("dashboard", host.collect, interval=1.0, key="host")
    broadcaster.periodic(
        "processes", top_processes, interval=3.0, priority=Priority.LOW, key="top"
    )
    broadcaster.periodic(
        "users",
        lambda: broadcaster.statistics().as_dict(),
        interval=2.0,
        priority=Priority.LOW,
        key="statistics",
    )


class WatchedHost:
    """The host's sample, and on the way the alerts that it gives rise to."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster
        self._sampler = HostSampler()
        self._cpu = Threshold("cpu", "CPU", raise_at=90.0, clear_at=70.0)
        self._memory = Threshold("memory", "Memory", raise_at=90.0, clear_at=80.0)

    async def collect(self) -> HostSample:
        """Read the host in a thread, publish what is worth an alert, return the sample."""
        sample = await asyncio.to_thread(self._sampler.sample)
        readings = ((self._cpu, sample["cpu"]), (self._memory, sample["memory"]))
        for threshold, value in readings:
            alert = threshold.observe(value)
            if alert is not None:
                await self._broadcaster.publish(
                    "alerts", dict(alert), priority=Priority.CRITICAL
                )
        return sample
