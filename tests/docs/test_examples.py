"""What pages show is executed."""

import ast
import asyncio
import time
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from garivini import (
    Client,
    Garivini,
    State,
    Worker,
)
from garivini.cli import cli
from garivini.cli.options import DEFAULT_DATABASE, DEFAULT_SERVER
from garivini.roles import queue_runners
from garivini.roles.queue_runner import QueueRunnerSettings
from tests.docs.commands import commands
from tests.docs.pages import (
    PAGES,
    ROOT,
    Block,
    blocks,
    changed,
    of_language,
)
from tests.processes import PATIENCE
from tests.servers import embedded

#: Commands that are done in a moment and touch nothing but the database.
HARMLESS: Final = frozenset({"insert", "jobs", "functions", "status", "health", "db"})
#: Python blocks that may stand in the pages without being executed.
MOST_NOT_RUN: Final = 3
#: Those that show the code of another queue, which is not installed here. They are compiled.
FOREIGN: Final = "code of another queue"


class Pages:
    """Runs the blocks of one page."""

    def __init__(self, folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._server = server
        self._monkeypatch = monkeypatch
        self._parse_only = False
        self.namespace: dict[str, Any] = {"__name__": "page"}
        #: What the blocks have opened: a later one may use its name for another.
        self._opened: list[Client | Garivini | Engine | AsyncEngine] = []

    def run(self, block: Block) -> None:
        if "env" in block.marks:
            name, _, value = block.marks["env"].partition("=")
            self._monkeypatch.setenv(name, value)
        if "file" in block.marks:
            (self._folder / block.marks["file"]).write_text(self._here(block.text))
        self._parse_only = self._parse_only or block.marks.get("commands") == "parse only"
        match block.language:
            case "python" if "change" in block.marks:
                file = self._folder / block.marks["change"]
                changed(file, block)
                compile(file.read_text(), str(file), "exec")
            case "python" if "not run" in block.marks:
                compile(block.text, str(block.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            case "python":
                # As many lines in front as on the page, so that a traceback names the page's line.
                text = "\n" * block.line + self._here(block.text)
                exec(compile(text, str(block.page), "exec"), self.namespace)
                self._opened += [
                    value
                    for value in self.namespace.values()
                    if isinstance(value, Client | Garivini | Engine | AsyncEngine)
                    and value not in self._opened
                ]
            case "then":
                assert block.text == "work", block
                worker = self.namespace.get("worker") or self.namespace["app"].worker()
                asyncio.run(_work(worker, self._server))
            case "sh" if not (self._parse_only or "parse only" in block.marks):
                for words, alone in commands(block.text):
                    if alone and words and words[0] in HARMLESS | {"--version"}:
                        result = CliRunner().invoke(cli, words)
                        assert result.exit_code == 0, (str(block), words, result.output, result.exception)

    def _here(self, text: str) -> str:
        return text.replace(DEFAULT_SERVER, self._server)

    def close(self) -> None:
        for value in self._opened:
            match value:
                case Client() | Garivini():
                    value.close()
                case Engine():
                    value.dispose()
                case AsyncEngine():
                    asyncio.run(value.dispose())


async def _work(worker: Worker, server: str) -> None:
    """Let a worker run what is due, until there is no more."""
    stop = asyncio.Event()
    (database,) = Client(DEFAULT_DATABASE).shards
    settings = QueueRunnerSettings(poll=0.05)
    tasks = [
        asyncio.create_task(worker.serve(stop)),
        asyncio.create_task(queue_runners.serve([database], [server], settings, stop=stop)),
    ]

    def busy() -> bool:
        now = time.time() + 1
        jobs = database.jobs()
        return any(
            job.state is not State.DEAD and (job.state is not State.WAITING or job.run_after <= now)
            for job in jobs
        )

    async with asyncio.timeout(PATIENCE):
        while await asyncio.to_thread(busy):
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*tasks)
    database.close()


def _with_marks(path: Path) -> Any:
    # Each pause returns after eight seconds.
    return pytest.param(path, marks=[pytest.mark.slow] if path.name == "pause.md" else [])


@pytest.mark.parametrize(
    "path",
    [
        _with_marks(path)
        for path in PAGES
        if any(block.language in ("python", "sh") for block in blocks(path))
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_a_page_shows_works(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with embedded() as server:
        monkeypatch.setenv("GARIVINI_JOB_SERVERS", server)
        pages = Pages(folder, server, monkeypatch)
        try:
            for block in blocks(path):
                pages.run(block)
        finally:
            pages.close()


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left = [block for block in of_language("python") if "not run" in block.marks]
    assert all(block.marks["not run"] for block in left)
    foreign = [block for block in left if block.marks["not run"] == FOREIGN]
    left = [block for block in left if block not in foreign]
    assert all(block.page.name.startswith("coming-from-") for block in foreign)
    assert len(left) <= MOST_NOT_RUN
    assert len(of_language("python")) > 20


def test_blocks_are_of_a_language_that_is_looked_at() -> None:
    # SQL, PHP and Perl are run by tests/peers.
    known = {"python", "sh", "toml", "ini", "sql", "php", "perl", "go", "text", "mermaid", "then", "page", ""}
    assert [block for path in PAGES for block in blocks(path) if block.language not in known] == []
