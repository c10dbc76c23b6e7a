"""The periodic topics, each with its own interval, priority and key.

A key makes a topic a value instead of a sequence: a reader that is behind gets the newest value,
not every value that it missed.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from examples.dashboard.alerts import Threshold
from examples.dashboard.host import HostSampler, top_processes
from holdfast import Broadcaster, Priority


def add_sources(broadcaster: Broadcaster) -> None:
    """Register the periodic sources; each runs only while a client is subscribed."""
    host = WatchedHost(broadcaster)
    broadcaster.periodic("dashboard", host.collect, interval=1.0, key="host")
    broadcaster.periodic("processes", _processes, interval=3.0, priority=Priority.LOW, key="top")

    # A coroutine function, because the statistics belong to the event loop.
    async def figures() -> dict[str, Any]:
        return asdict(broadcaster.statistics())

    broadcaster.periodic("users", figures, interval=2.0, priority=Priority.LOW, key="statistics")


# A plain function may block, because it runs in a worker thread.
def _processes() -> list[dict[str, Any]]:
    return [asdict(process) for process in top_processes()]


class WatchedHost:
    """Samples the host, and publishes the alerts that a sample raises or clears."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster
        self._sampler = HostSampler()
        self._cpu = Threshold("cpu", "CPU", raise_at=90.0, clear_at=70.0)
        self._memory = Threshold("memory", "Memory", raise_at=90.0, clear_at=80.0)

    async def collect(self) -> dict[str, Any]:
        """Read the host in a thread, publish alerts, return the sample.

        The sample lists the active alerts, for clients that connect after an alert was published.
        """
        sample = await asyncio.to_thread(self._sampler.sample)
        for alert in (self._cpu.observe(sample.cpu), self._memory.observe(sample.memory)):
            if alert is not None:
                await self._broadcaster.publish("alerts", asdict(alert), priority=Priority.CRITICAL)
        active = [one.source for one in (self._cpu, self._memory) if one.raised]
        return {**asdict(sample), "alerts": active}
