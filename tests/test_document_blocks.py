"""The code blocks of the documents run, their JSON is JSON, and their tables have whole rows.

A Python block is executed in a fresh namespace. Blocks with a name (their first line is a comment
with a file name) that is in `DRIVERS` are also used: an application is served, a function is
called. A block after the line `<!-- fragment: reason -->` is only compiled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from holdfast import Broadcaster
from holdfast.core.cursor import EventId
from tests.support import require
from tests.support.asgi import AsgiExchange, HttpExchange, WebSocketExchange, fetch
from tests.support.live_server import publish, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from holdfast.client import Message

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", ".github/*.md", "docs/*.md", "examples/**/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)
MAX_FRAGMENTS = 3
JWT_SECRET = "a secret of 32 bytes and a few more"


class Block(NamedTuple):
    """A code fence."""

    path: Path
    line: int
    language: str
    code: str
    is_fragment: bool

    @property
    def name(self) -> str:
        """The file name in its first line; "" if there is none."""
        found = re.match(r"# ([\w.]+\.py)\b", self.code)
        return found[1] if found else ""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.name or self.line}"


def blocks(path: Path, text: str) -> Iterator[Block]:
    """Yield the code fences of a document."""
    for found in re.finditer(r"^(`{3,})(\w*)\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE):
        before = text[: found.start()].rstrip().rpartition("\n")[2]
        line = text.count("\n", 0, found.start(3)) + 1
        yield Block(path, line, found[2], found[3], before.startswith("<!-- fragment: "))


BLOCKS = [block for path in DOCUMENTS for block in blocks(path, path.read_text("utf-8"))]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def execute(block: Block) -> dict[str, Any]:
    """Run a block in a fresh module. A line of an error is the line in the document."""
    code = compile("\n" * (block.line - 1) + block.code, str(block.path), "exec")
    module = types.ModuleType(f"document_{block.name.removesuffix('.py') or block.line}")
    # Frameworks look up the annotations of a handler in its module.
    sys.modules[module.__name__] = module
    if not block.is_fragment:
        exec(code, module.__dict__)  # noqa: S102
    return module.__dict__


# --- Use of the blocks ---------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[None]:
    """Run an application's lifespan around a block, as a server does."""
    async with AsgiExchange(app, {"type": "lifespan", "asgi": {"version": "3.0"}}) as lifespan:
        lifespan.to_app.put_nowait({"type": "lifespan.startup"})
        assert (await lifespan.receive())["type"] == "lifespan.startup.complete"
        yield


async def streams(app: Any, broadcaster: Broadcaster, prefix: str = "") -> None:
    """Open a stream, publish, and read the message."""
    async with served(app), HttpExchange(app, f"{prefix}/stream?topics=orders") as stream:
        await stream.first_frame_data()
        await broadcaster.publish("orders", {"id": 7})
        assert (await stream.frame())["data"] == {"id": 7}


async def app(names: dict[str, Any]) -> None:
    """Serve at the root."""
    await streams(names["app"], names["broadcaster"])


async def mounted_app(names: dict[str, Any]) -> None:
    """Serve below a framework's `/live`."""
    await streams(names.get("app") or names["application"], names["broadcaster"], "/live")


async def hooks(names: dict[str, Any]) -> None:
    """Present the cookie of the session store."""
    live = names["app"]
    async with served(live):
        assert (await fetch(live, "GET", "/stream?topics=any")).status == 401
        cookie = {"cookie": "session=s3cr3t-session"}
        async with HttpExchange(live, "/stream?topics=any", headers=cookie) as stream:
            await stream.first_frame_data()


async def jwt_app(names: dict[str, Any]) -> None:
    """Present a token with the role."""
    import jwt

    live = names["app"]
    claims = {"sub": "ada", "aud": "live", "exp": 2**33, "roles": ["staff"]}
    token = jwt.encode(claims, JWT_SECRET, "HS256")
    async with served(live):
        assert (await fetch(live, "GET", "/stream?topics=any")).status == 401
        headers = {"authorization": f"Bearer {token}"}
        async with HttpExchange(live, "/stream?topics=any", headers=headers) as stream:
            await stream.first_frame_data()


async def rights(names: dict[str, Any]) -> None:
    """Call both functions."""
    async with Broadcaster() as broadcaster:
        await names["rights_changed"](broadcaster, "ada")
        await names["logged_out"](broadcaster, "ada")


async def publishing(names: dict[str, Any]) -> None:
    """Publish seven messages."""
    async with Broadcaster() as broadcaster:
        await names["examples"](broadcaster)
        assert broadcaster.statistics().published == 7


async def position(names: dict[str, Any]) -> None:
    """Render the page around the position."""

    async def load_orders() -> list[str]:
        return ["</script>"]

    async with Broadcaster() as broadcaster:
        page = await names["page"](broadcaster, "ada", load_orders)
    assert page.count("</script>") == 1
    (event_id,) = re.findall(r'position: "(.*?)"', page)
    assert EventId.parse(event_id)


async def own_endpoint(names: dict[str, Any]) -> None:
    """Read the stream of the endpoint."""
    broadcaster = names["broadcaster"]
    async with broadcaster, HttpExchange(names["Ticks"](), "/") as stream:
        await stream.first_frame_data()
        await broadcaster.publish("ticks", 1)
        assert (await stream.frame())["data"] == 1


async def own_websocket(names: dict[str, Any]) -> None:
    """Read the socket, and send a command."""
    broadcaster = names["broadcaster"]
    async with broadcaster, WebSocketExchange(names["ticks"]) as socket:
        await socket.first_frame()
        await broadcaster.publish("ticks", 1)
        assert (await socket.frame())["data"] == 1
        socket.send({"type": "ping"})
        assert (await socket.frame())["type"] == "pong"


async def own_transport(names: dict[str, Any]) -> None:
    """Read the lines that are written."""
    written = asyncio.Queue[bytes]()
    async with Broadcaster() as broadcaster, asyncio.TaskGroup() as tasks:

        async def copy() -> None:
            async with broadcaster.connect(topics=["ticks"], transport="own") as connection:
                await names["copy"](connection, written.put)

        copying = tasks.create_task(copy())
        assert json.loads(await written.get())["type"] == "connection_established"
        await broadcaster.publish("ticks", 1)
        assert json.loads(await written.get())["data"] == 1
        copying.cancel()


async def worker(names: dict[str, Any]) -> None:
    """Publish from both kinds of code."""
    await names["in_async_code"](7)
    await asyncio.to_thread(names["in_synchronous_code"], 8)


async def presence(names: dict[str, Any]) -> None:
    """List the users."""
    async with names["broadcaster"]:
        await names["show_users"]()


async def runs_broadcaster(names: dict[str, Any]) -> None:
    """Start and stop the Broadcaster."""
    async with names["broadcaster"]:
        pass


async def threads(names: dict[str, Any]) -> None:
    """Run the program."""
    await names["main"]()


DRIVERS: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
    "app.py": app,
    "settings_app.py": app,
    "starlette_app.py": mounted_app,
    "fastapi_app.py": mounted_app,
    "litestar_app.py": mounted_app,
    "asgi.py": mounted_app,
    "quart_app.py": mounted_app,
    "hooks.py": hooks,
    "jwt_app.py": jwt_app,
    "rights.py": rights,
    "publishing.py": publishing,
    "threads.py": threads,
    "periodic.py": runs_broadcaster,
    "broker.py": runs_broadcaster,
    "position.py": position,
    "own_endpoint.py": own_endpoint,
    "own_websocket.py": own_websocket,
    "own_transport.py": own_transport,
    "worker.py": worker,
    "presence.py": presence,
}
NEEDS_REDIS = {"worker.py"}


def prepare(block: Block, monkeypatch: pytest.MonkeyPatch) -> Block:
    """Provide what the text around a block asks for: a secret, a Redis, a Django project."""
    monkeypatch.setenv("JWT_SECRET", JWT_SECRET)
    if block.name in NEEDS_REDIS:
        require(executable="redis-server", reason="the example publishes through it")
        from tests.support.redis_server import shared_server

        code = block.code.replace("redis://localhost:6379", shared_server().url)
        return block._replace(code=code)
    if block.name == "asgi.py":
        from django.conf import settings  # type: ignore[import-untyped]

        if not settings.configured:
            settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
    return block


urlpatterns: list[object] = []
"""The URLs of the Django project."""


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block, id=str(block), marks=[pytest.mark.slow] if block.name in NEEDS_REDIS else []
        )
        for block in PYTHON
    ],
)
async def test_python_block_runs(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python block is executed without a warning, and does its work if it has a driver."""
    names = execute(prepare(block, monkeypatch))
    if driver := DRIVERS.get(block.name):
        await driver(names)


CONSUMERS = [block for block in PYTHON if "async def consume(" in block.code]


@pytest.mark.slow
@pytest.mark.parametrize("block", CONSUMERS, ids=str)
async def test_consumer_reads_from_a_server(
    block: Block, capsys: pytest.CaptureFixture[str]
) -> None:
    """The examples of the Python client read a message from a real server."""
    applied: list[object] = []

    async def apply(message: Message) -> None:
        applied.append(message.data)

    with serve() as server:
        address = f"http://127.0.0.1:{server.port}"
        code = re.sub(r"https?://(?:example\.org|localhost:8000)(?:/live)?", address, block.code)
        # Here, LiveApp is not mounted below a path.
        names = execute(block._replace(code=code.replace('connect("/live"', 'connect("/"')))
        arguments = [None, apply] if "apply" in block.code else []
        consuming = asyncio.create_task(names["consume"](*arguments))
        seen = ""
        while "'id': 7" not in seen:
            await publish(server.port, {"id": 7}, topic="orders")
            await asyncio.sleep(0.05)
            seen += capsys.readouterr().out + str(applied)
            if consuming.done():
                consuming.result()
        consuming.cancel()
        await asyncio.wait([consuming])


def test_fragments_are_few() -> None:
    """A block that is only compiled is an exception."""
    assert len([block for block in BLOCKS if block.is_fragment]) <= MAX_FRAGMENTS


def test_each_driver_has_its_block() -> None:
    """A block that is renamed takes its driver along."""
    assert DRIVERS.keys() <= {block.name for block in PYTHON}


@pytest.mark.parametrize(
    "code",
    [
        "# a.py\nimport holdfast.missing\n",
        "# a.py\nfrom holdfast import Outbox\n",
        "# a.py\nBroadcaster(\n",
        "# a.py\nimport warnings\nwarnings.warn('old', DeprecationWarning)\n",
        "# a.py\nfrom holdfast import Broadcaster\nBroadcaster(heartbeat=30)\n",
    ],
)
def test_seeded_block_fails(code: str) -> None:
    """A block with a wrong name, argument or syntax fails, and so does one that warns."""
    (block,) = blocks(Path("seeded.md"), f"# Seeded\n\n```python\n{code}```\n")
    assert block.line == 4
    with pytest.raises((ImportError, SyntaxError, TypeError, DeprecationWarning)):
        execute(block)


# --- JSON and tables -----------------------------------------------------------------------------


def bad_json(code: str) -> list[str]:
    """Return the lines that are not JSON; a block is one value, or has one value per line."""
    with contextlib.suppress(ValueError):
        json.loads(code)
        return []
    bad = []
    for line in filter(None, code.splitlines()):
        try:
            json.loads(line)
        except ValueError:
            bad.append(line)
    return bad


@pytest.mark.parametrize("block", [each for each in BLOCKS if each.language == "json"], ids=str)
def test_json_block_is_json(block: Block) -> None:
    """Each JSON block is one value, or one value in each line."""
    assert bad_json(block.code) == []


def test_seeded_json_is_found() -> None:
    """A line that is not JSON is found."""
    assert bad_json('{"a": 1}\n{"a": …}\n') == ['{"a": …}']
    assert bad_json('{\n"a": 1}\n') == []


def broken_rows(text: str) -> list[str]:
    """Return the rows of tables that have more or fewer cells than their header."""
    prose = re.sub(
        r"^(`{3,}).*?^\1$",
        lambda found: "\n" * found[0].count("\n"),
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    broken, columns = [], 0
    for number, line in enumerate(prose.splitlines(), 1):
        row = line.strip()
        if not row.startswith("|"):
            columns = 0
            continue
        # A bar in code separates cells, too, unless a backslash stands before it (GitHub).
        cells = len(re.findall(r"(?<!\\)\|", row)) - 1
        columns = columns or cells
        if cells != columns or not row.endswith("|"):
            broken.append(f"{number}: {row}")
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_rows_have_as_many_cells_as_their_header(path: Path) -> None:
    """No row of a table lacks a cell or has one too many."""
    assert broken_rows(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("row", "is_broken"),
    [
        ("| x | y |", False),
        ("| `a\\|b` | |", False),
        ("| x |", True),
        ("| x | y | z |", True),
        ("| `a|b` | y |", True),
        ("| x | y", True),
    ],
)
def test_seeded_row_is_found(row: str, is_broken: bool) -> None:
    """A row with a missing cell, a spare cell or no end is found."""
    table = f"```text\n| a |\n| a | b |\n```\n\n| a | b |\n| - | - |\n{row}\n"
    assert bool(broken_rows(table)) is is_broken


# --- The glossary --------------------------------------------------------------------------------


def test_glossary_is_sorted_and_its_paths_exist() -> None:
    """Each term stands once, in alphabetical order, and its file exists."""
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \|", text, re.MULTILINE)
    terms = [term.lower() for term, _, _ in rows]
    assert terms == sorted(set(terms))
    paths = [path for _, _, where in rows for path in re.findall(r"`(.+?)`", where)]
    assert [path for path in paths if not (ROOT / "src" / "holdfast" / path).is_file()] == []
