"""A tab of a real browser on the page of tests/apps/pages.py, and its records."""

from __future__ import annotations

from typing import Any

from tests.support.clients import request


class Tab:
    """One page that imports the client; its `start` is that of tests/apps/page.html."""

    def __init__(self, page: Any, user: str) -> None:
        self.page = page
        self.user = user

    async def start(self, topics: list[str] | None = None, **options: Any) -> None:
        """Connect; the options are those of the client."""
        options["topics"] = topics or ["t"]
        await self.page.evaluate("options => start(options)", options)

    async def run(self, expression: str, argument: Any = None) -> Any:
        """The value of a JavaScript expression in the page."""
        return await self.page.evaluate(expression, argument)

    async def until(self, expression: str, *, seconds: float = 15.0, hurry: bool = False) -> None:
        """Wait until an expression is true. After `seconds`, fail with the records of the page.

        `hurry` makes the browser report that it is online whenever the client waits for its next
        attempt, which ends the pause.
        """
        if hurry:
            wake = "live.status === 'waiting' && window.dispatchEvent(new Event('online'))"
            waited = f"({wake}, {expression})"
        else:
            waited = expression
        polling, timeout = 20, seconds * 1000
        try:
            await self.page.wait_for_function(waited, polling=polling, timeout=timeout)
        except Exception as error:
            error.add_note(f"never true: {expression}\nseen: {await self.run('window.seen')}")
            raise

    async def open(
        self, transport: str | None = None, *, seconds: float = 15.0, hurry: bool = False
    ) -> None:
        """Wait until the connection is open, by this transport if one is named."""
        wanted = "live.status === 'open'"
        if transport:
            wanted += f" && live.transport === '{transport}'"
        await self.until(wanted, seconds=seconds, hurry=hurry)

    async def received(
        self, count: int, *, seconds: float = 15.0, hurry: bool = False
    ) -> list[Any]:
        """Wait for `count` messages, and return the data of all messages."""
        await self.until(f"seen.messages.length >= {count}", seconds=seconds, hurry=hurry)
        return await self.run("seen.messages.map(m => m.data)")

    async def seen(self, kind: str) -> list[Any]:
        """The records of one kind: `messages`, `status`, `gap`, `resumed`, `rejected`, `errors`."""
        return await self.run("kind => seen[kind]", kind)

    async def close(self) -> None:
        """Close the tab."""
        await self.page.close()


class Site:
    """A served tests/apps/pages.py, as the tests speak to it: past all proxies."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def publish(self, *data: Any, topic: str = "t", **more: Any) -> None:
        """Publish in order, one request for all."""
        messages = [{"topic": topic, "data": value, **more} for value in data]
        await self._post("/publish", {"messages": messages})

    async def fail(self, user: str, path: str, status: int, times: int) -> None:
        """Answer the next `times` requests of this user to a path below /live with this status."""
        value = {"user": user, "path": path, "status": status, "times": times}
        await self._post("/fail", value)

    async def requests(self, user: str, *paths: str) -> list[Any]:
        """The requests of this user below /live, in order; only to `paths` if any are named."""
        listed = (await request(self.port, "GET", f"/requests?user={user}")).json()
        return [entry for entry in listed if not paths or entry["path"] in paths]

    async def connections(self, user: str) -> list[Any]:
        """This user's connections, as the statistics have them."""
        headers = {"Cookie": f"user={user}"}
        answer = await request(self.port, "GET", "/live/connection-stats", headers=headers)
        return [entry for entry in answer.json()["connections"] if entry["user"] == user]

    async def position(self, user: str, topics: str = "t") -> str:
        """The position that the application renders into a page of this user."""
        path, headers = f"/position?topics={topics}", {"x-user": user}
        return (await request(self.port, "GET", path, headers=headers)).json()["id"]

    async def _post(self, path: str, value: Any) -> None:
        answer = await request(self.port, "POST", path, value)
        assert answer.status == 200, answer.body
