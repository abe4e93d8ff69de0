"""The documentation, held to the code: its blocks run, its commands exist, its tables name what there is.

A comment before a block of a page tells how to treat it:

* ``<!-- file: NAME -->``: it is a file of this name. A Python one is executed in the page's namespace too.
* ``<!-- change: NAME -->``: its line takes the place of the last line of that file.
* ``<!-- env: NAME=VALUE -->``: set for this block and those after it.
* ``<!-- parse only -->``: its commands are read, not run. ``<!-- commands: parse only -->``: all of a page.
* ``<!-- not run: REASON -->``: it is not executed.
* ``<!-- run: slow -->``, ``<!-- synopsis -->``, ``<!-- defaults -->``: a test below has it.

``<!-- then: work -->`` lets the page's ``worker`` run what is due. Blocks of a page share a namespace, a
working directory with a new ``garivini.db``, and an embedded server whose address stands in for
127.0.0.1:4730.
"""

import asyncio
import inspect
import logging
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

import click
import pytest
from click.testing import CliRunner

import garivini
from garivini import (
    AsyncClient,
    Client,
    Discard,
    FailedAttempt,
    Handle,
    Job,
    KeptJob,
    Reported,
    Retry,
    State,
    UsageError,
    Worker,
)
from garivini.cli import EXIT_STATUSES, cli
from garivini.cli.options import DEFAULT_DATABASE, DEFAULT_SERVER
from garivini.gearman import console
from garivini.gearman.broker import Broker
from garivini.keeper.child import CONFIGURATION_ERROR
from garivini.model.outcome import Kind, Report, Success
from garivini.model.payload import _Envelope
from garivini.model.policy import ENVELOPES
from garivini.roles import queue_runner
from garivini.roles.controller import ControllerSettings
from garivini.roles.injected import _Answer, _Request
from garivini.roles.injector import InjectorSettings
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.settings.tables import InjectorTable, parse_settings
from tests import processes
from tests.databases import sqlite_url
from tests.processes import PATIENCE, until
from tests.servers import embedded, free_port

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
SOURCE: Final = ROOT / "src" / "garivini"
PAGES: Final = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINKING: Final = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]

#: Commands that are done in a moment and touch nothing but the database.
HARMLESS: Final = frozenset({"insert", "jobs", "functions", "status", "health", "db"})
#: Python blocks that may stand in the pages without being executed.
MOST_NOT_RUN: Final = 3


@dataclass
class Block:
    """A fenced block, or (of language ``then``) a comment that stands for something to do."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


MARKS: Final = frozenset(
    {"file", "change", "env", "parse only", "not run", "run", "synopsis", "defaults", "commands", "roles"}
)


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    marks: dict[str, str] = {}
    fence: Block | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence is not None:
            if line == "```":
                found.append(fence)
                fence = None
            else:
                fence.text += f"{line}\n"
        elif line.startswith("```"):
            fence = Block(page, number, line[3:], "", marks)
            marks = {}
        elif comment := re.fullmatch(r"<!-- ([a-z ]+)(?:: (.*))? -->", line):
            if comment[1] == "then":
                found.append(Block(page, number, "then", comment[2]))
            else:
                assert comment[1] in MARKS, f"{page}:{number}: {comment[1]} means nothing here"
                marks[comment[1]] = comment[2] or ""
        elif line:
            assert not marks or set(marks) == {"commands"}, (
                f"{page}:{number}: a comment stands before no block"
            )
            if marks:
                found.append(Block(page, number, "page", "", marks))
                marks = {}
    assert fence is None, f"{page}: a block has no end"
    return found


def of_language(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def block_of(name: str, mark: str, value: str = "") -> Block:
    (found,) = [block for block in blocks(DOCS / name) if block.marks.get(mark) == value]
    return found


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table rows below a heading, up to the next heading."""
    _, _, rest = text.partition(f"\n{heading}\n")
    assert rest, f"there is no heading {heading!r}"
    body = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    table = [line for line in body.splitlines() if line.startswith("|") and not line.startswith("|--")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def names(text: str) -> list[str]:
    """Return what stands in backticks, fenced blocks left out."""
    return re.findall(r"`([^`]+)`", prose(text))


def prose(text: str) -> str:
    """Return text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


# ---- what is executed


class Pages:
    """Runs the blocks of one page."""

    def __init__(self, folder: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._server = server
        self._monkeypatch = monkeypatch
        self._parse_only = False
        self.namespace: dict[str, Any] = {"__name__": "page"}

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
            case "python" if "not run" not in block.marks:
                # As many lines in front as on the page, so that a traceback names the page's line.
                text = "\n" * block.line + self._here(block.text)
                exec(compile(text, str(block.page), "exec"), self.namespace)
            case "then":
                assert block.text == "work", block
                asyncio.run(_work(self.namespace["worker"], self._server))
            case "sh" if not (self._parse_only or "parse only" in block.marks):
                for words, alone in commands(block.text):
                    if alone and words and words[0] in HARMLESS | {"--version"}:
                        result = CliRunner().invoke(cli, words)
                        assert result.exit_code == 0, (str(block), words, result.output, result.exception)

    def _here(self, text: str) -> str:
        return text.replace(DEFAULT_SERVER, self._server)

    def close(self) -> None:
        for value in self.namespace.values():
            if isinstance(value, Client):
                value.close()


def changed(file: Path, block: Block) -> None:
    """Put the line of a block in the place of a file's last line."""
    file.write_text("".join([*file.read_text().splitlines(keepends=True)[:-1], block.text]))


async def _work(worker: Worker, server: str) -> None:
    """Let a worker run what is due, until there is no more."""
    stop = asyncio.Event()
    (database,) = Client(DEFAULT_DATABASE).shards
    settings = QueueRunnerSettings(poll=0.05)
    tasks = [
        asyncio.create_task(worker.serve(stop)),
        asyncio.create_task(queue_runner.serve([database], [server], settings, stop=stop)),
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a page, with its database."""
    sqlite_url(tmp_path, DEFAULT_DATABASE.removeprefix("sqlite:///"))
    monkeypatch.chdir(tmp_path)
    with Client(DEFAULT_DATABASE) as client:
        for database in client.shards:
            database.check()  # gives the database its id, as `garivini db upgrade` does
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("GARIVINI_DB", "GARIVINI_DB_FILE", "GARIVINI_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    logger = logging.getLogger("garivini")
    level, modules = logger.level, set(sys.modules)
    yield tmp_path
    logger.setLevel(level)
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if any(block.language in ("python", "sh") for block in blocks(path))],
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
    assert len(left) <= MOST_NOT_RUN
    assert len(of_language("python")) > 20


def test_blocks_are_of_a_language_that_is_looked_at() -> None:
    # SQL, PHP and Perl are run by tests/peers.
    known = {"python", "sh", "toml", "ini", "sql", "php", "perl", "go", "text", "mermaid", "then", "page", ""}
    assert [block for path in PAGES for block in blocks(path) if block.language not in known] == []


# ---- commands and settings


def commands(text: str) -> list[tuple[list[str], bool]]:
    """Return the arguments of each ``garivini`` in a shell text, and whether its line is that and no more."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        parts: list[list[str]] = [[]]
        for word in lexer:
            if set(word) <= set("|&;<>()"):
                parts.append([])
            else:
                parts[-1].append(word)
        for part in parts:
            while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):
                del part[0]
            if part and Path(part[0]).name == "garivini":
                found.append((part[1:], len(parts) == 1))
    return found


def parse(words: list[str], *, whole: bool = True) -> None:
    """Read a command as the program would, without running any of it.

    ``whole`` is false for a mention in running text, which may leave out what is required.
    """
    command: click.Command = cli
    context: click.Context | None = None
    rest = words
    while True:
        context = click.Context(command, parent=context, info_name="garivini", resilient_parsing=not whole)
        given, rest, _ = command.make_parser(context).parse_args(list(rest))
        for parameter in command.get_params(context):
            value = given.get(str(parameter.name))
            if isinstance(value, str | int | float | list | tuple) and not isinstance(value, bool) and value:
                parameter.type_cast_value(context, value)
            elif whole and parameter.required:
                assert not parameter.value_is_missing(value), f"{words}: {parameter.name} is missing"
        if not isinstance(command, click.Group):
            assert not rest or not whole, f"{words}: {rest} is too much"
            return
        if not rest:
            assert not whole or {"version", "help"} & {name for name, value in given.items() if value is True}
            return
        name, *rest = rest
        found = command.get_command(context, name)
        assert found is not None, f"{words}: there is no command {name}"
        command = found


def test_commands_in_blocks_are_commands_of_the_program() -> None:
    count = 0
    for block in of_language("sh"):
        for words, _ in commands(block.text):
            try:
                parse(words)
            except click.ClickException as error:
                pytest.fail(f"{block}: garivini {' '.join(words)}: {error.message}")
            count += 1
    for block in of_language("ini"):
        for line in re.findall(r"^ExecStart=(.*)$", block.text, flags=re.MULTILINE):
            ((words, _),) = commands(line)
            parse(words)
            count += 1
    assert count > 30


def test_commands_in_running_text_are_commands_of_the_program() -> None:
    for path in PAGES:
        for span in names(path.read_text(encoding="utf-8")):
            if span.startswith("garivini ") and "=" not in span:
                # An option at the end of a mention has no value.
                words = span.split()[1:]
                try:
                    parse([*words, "json"] if words[-1] == "--envelope" else words, whole=False)
                except click.ClickException as error:
                    pytest.fail(f"{path}: {span}: {error.message}")


def test_a_wrong_command_would_be_seen() -> None:
    for text in (
        "garivini list",
        "garivini jobs list --nothing",
        "garivini jobs list --limit x",
        "garivini insert",
    ):
        ((words, _),) = commands(text)
        with pytest.raises((AssertionError, click.ClickException)):
            parse(words)


def leaves(command: click.Command, path: str = "garivini") -> Iterator[tuple[str, click.Command]]:
    """Yield every command below one, with its name."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, f"{path} {name}")
    else:
        yield path, command


def options(command: click.Command) -> dict[str, click.Option]:
    return {
        name: option
        for option in command.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }


#: What ``--tls-*`` stands for.
TLS: Final = {"--tls-ca", "--tls-certificate", "--tls-key", "--tls-verify-host", "--tls-no-verify-host"}
COMMON: Final = {"--db", "--job-server", "-o", "--output", "-v", "--verbose", "--log-format", *TLS}


def test_the_reference_of_commands_names_each_command_and_its_options() -> None:
    text = page("reference/commands.md")
    parts = re.split(r"^##+ (.*)$", prose(text), flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    real = dict(leaves(cli))
    assert set(real) <= set(sections)
    groups = {path.rpartition(" ")[0] for path in real}
    assert {name for name in sections if name.startswith("garivini")} - set(real) == groups
    for path, command in {"garivini": cli, **real}.items():
        said = {
            word for span in names(sections[path]) for word in re.findall(r"(?<![\w-])--?[a-z][\w-]*", span)
        }
        if "--tls-" in said:
            said = said - {"--tls-"} | TLS
        assert said == set(options(command)), path
        for cells in rows(text, next(line for line in text.splitlines() if line.endswith(f"# {path}"))):
            if "`" in cells[0] and (option := options(command).get(names(cells[0])[0])):
                check_default(path, option, cells[1].strip("`"))


def check_default(path: str, option: click.Option, said: str) -> None:
    if option.required:
        assert said == "required", (path, option.name)
    elif isinstance(option.show_default, str):
        assert said == option.show_default, (path, option.name)
    elif isinstance(option.default, str | int | float) and not isinstance(option.default, bool):
        assert said == (str(option.default) or "none"), (path, option.name)


def test_the_common_options_have_the_defaults_that_are_said() -> None:
    said = {
        name: cells[1].strip("`")
        for cells in rows(page("reference/commands.md"), "## Common options")
        for span in names(cells[0])
        for name in span.split()[:1]
    }
    assert said["--db"] == DEFAULT_DATABASE
    assert said["--job-server"] == DEFAULT_SERVER
    assert set(said) == COMMON
    for _, command in leaves(cli):
        for name in COMMON & {"--output", "--log-format"} & set(options(command)):
            assert options(command)[name].default == said[name]


def test_the_exit_statuses_are_those_of_the_program() -> None:
    said = {int(cells[0]) for cells in rows(page("reference/commands.md"), "## Exit statuses")[1:]}
    assert said == {0, 1, 130, 143, CONFIGURATION_ERROR, *EXIT_STATUSES.values()}


def test_settings_files_in_blocks_are_valid() -> None:
    found = of_language("toml")
    assert len(found) >= 3
    for block in found:
        parse_settings(block.text.encode(), str(block))
        for wrong in (block.text.replace("poll =", "pol ="), block.text + "\nnothing = 1\n"):
            if wrong != block.text:
                with pytest.raises(UsageError):
                    parse_settings(wrong.encode(), str(block))


def test_the_reference_of_settings_has_each_key_with_its_default() -> None:
    settings = parse_settings(block_of("reference/settings.md", "defaults").text.encode(), "settings.md")
    assert (settings.databases, settings.job_servers) == ([DEFAULT_DATABASE], [DEFAULT_SERVER])
    real = dict(leaves(cli))
    worker = options(real["garivini worker"])
    names = ("queue_runner", "controller", "injector", "worker", "tls", "log")
    tables = {name: getattr(settings, name) for name in names}
    said = {
        f"{name}.{key}": getattr(table, key)
        for name, table in tables.items()
        for key in table.__struct_fields__
    }
    defaults = QueueRunnerSettings()
    assert said == {
        **{
            f"queue_runner.{key}": getattr(defaults, key)
            for key in ("lease", "watermark", "batch_max", "poll")
        },
        **{
            f"injector.{key}": list(value) if isinstance(value, tuple) else value
            for key in InjectorTable.__struct_fields__
            for value in [getattr(InjectorSettings(), key)]
        },
        "controller.max_calls": ControllerSettings().max_calls,
        "controller.drain": ControllerSettings().drain,
        "worker.processes": said["worker.processes"],
        "worker.drain": worker["--drain"].default,
        "tls.ca": worker["--tls-ca"].show_default,
        "tls.certificate": None,
        "tls.key": None,
        "tls.verify_host": worker["--tls-verify-host"].default,
        "log.format": worker["--log-format"].default,
        "log.verbose": False,
    }
    assert isinstance(said["worker.processes"], int)


def test_the_reference_of_settings_has_each_variable() -> None:
    said = {names(cells[0])[0] for cells in rows(page("reference/settings.md"), "## Environment")[1:]}
    used = {
        option.envvar
        for _, command in [("", cli), *leaves(cli)]
        for option in options(command).values()
        if option.envvar is not None
    }
    assert said == {*used, "GARIVINI_DB_FILE"}


# ---- calls


def signature(function: Any, *, bound: bool = True) -> str:
    """Return a signature without annotations, and without ``self``."""
    whole = inspect.signature(function)
    parameters = [each.replace(annotation=each.empty) for each in whole.parameters.values()]
    return str(whole.replace(parameters=parameters[bound:], return_annotation=whole.empty))


def section(text: str, name: str) -> str:
    return re.split(rf"^## {name}$", text, flags=re.M)[1].partition("\n## ")[0]


def calls(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}


def test_the_reference_of_calls_has_each_call_with_its_signature() -> None:
    text = page("reference/calls.md")

    def has(where: str, what: str) -> bool:
        return re.sub(r"\s", "", f"\n{what}") in re.sub(r"[\s`]", "", where)

    for kind in (Client, Worker):
        part = section(text, kind.__name__)
        assert has(part, f"{kind.__name__}{signature(kind.__init__)}")
        for name, call in calls(kind).items():
            assert has(part, f"{name}{signature(call)}"), f"{kind.__name__}.{name}{signature(call)}"
        said = set(re.findall(r"^`?([a-z_]+)\(", part, flags=re.M))
        assert said == set(calls(kind))
    part = section(text, "AsyncClient")
    assert has(part, f"AsyncClient{signature(AsyncClient.__init__)}")
    assert set(calls(AsyncClient)) == set(calls(Client))
    for name, call in calls(AsyncClient).items():
        assert f"`{name}`" in part
        assert signature(call) == signature(calls(Client)[name]), name
    assert has(section(text, "Worker"), f"Retry{signature(Retry.__init__)}")
    assert has(section(text, "Worker"), f"Discard{signature(Discard.__init__)}")
    assert "Handle(jobid, dbid, attempt=None)" in section(text, "Job")
    assert set(Handle._fields) == {"jobid", "dbid", "attempt"}


def test_the_reference_of_calls_has_each_attribute_and_name() -> None:
    text = page("reference/calls.md")
    said = {name for cells in rows(text, "## Job")[1:] for name in names(cells[0])}
    properties = {name for name, value in vars(Job).items() if isinstance(value, property)}
    assert said == {*Job.__struct_fields__, *properties}
    assert set(names(section(text, "Job"))) >= {state.name for state in State}
    client = Client("sqlite:///jobs.db")
    for made in (client, Worker(client)):
        attributes = {name for name in vars(made) if not name.startswith("_")}
        assert attributes <= set(names(section(text, type(made).__name__)))
    for kind in (FailedAttempt, Reported, KeptJob):
        table = section(text, "Records").partition(f"`{kind.__name__}`")[2].split("\n\n")[1]
        cells = [line.split(" | ")[0] for line in table.splitlines()[2:]]
        assert {name for cell in cells for name in names(cell)} == set(kind._fields)
    errors = {names(cells[0])[0] for cells in rows(text, "## Errors")[1:]}
    real = {
        name
        for name in garivini.__all__
        if isinstance(getattr(garivini, name), type)
        and issubclass(getattr(garivini, name), garivini.GariviniError)
    }
    assert errors | {"GariviniError"} == real
    for name in garivini.__all__:
        assert re.search(rf"\b{name}\b", text), f"{name} is not mentioned"


# ---- the row and the wire


def test_the_reference_of_the_row_has_each_table_and_column(folder: Path) -> None:
    text = page("reference/row.md")
    connection = sqlite3.connect(folder / "garivini.db")
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith("sqlite_")
    ]
    headings = set(re.findall(r"^## (\w+)$", text, flags=re.M))
    assert headings == set(tables)
    for table in tables:
        real = {column[1]: column[2] for column in connection.execute(f"PRAGMA table_info({table})")}
        first, *rest = [
            row for row in rows(text, f"## {table}") if row[0] not in ("state", "0", "1", "2", "3", "4")
        ]
        assert {name for cells in rest for name in names(cells[0])} == set(real), table
        if "type" in first:
            for cells in rest:
                assert cells[1].partition(",")[0] == real[names(cells[0])[0]], cells
    for name, sql in connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL"
    ):
        columns = re.findall(r"\w+", sql.partition("(")[2].partition(")")[0])
        assert re.search(rf"`{name}`[^;.]* on \({', '.join(f'`{column}`' for column in columns)}\)", text), (
            name
        )
    connection.close()


def test_the_reference_of_the_row_has_each_state_and_kind() -> None:
    text = page("reference/row.md")
    said = {int(cells[0]): cells[1] for cells in rows(text, "## job") if cells[0].isdigit()}
    assert said == {int(state): state.name.lower() for state in State}
    kind = next(cells[1] for cells in rows(text, "## failure") if cells[0] == "`kind`")
    assert set(names(kind)) == set(get_args(Kind))


def test_the_reference_of_the_wire_has_each_key_packet_and_command() -> None:
    text = page("reference/wire.md")
    keys = {names(cells[0])[0] for cells in rows(text, "## The payload")[1:]}
    assert keys == set(_Envelope.__struct_fields__)
    injecting = [name for cells in rows(text, "## Injecting") for name in names(cells[0])]
    assert injecting == [*_Request.__struct_fields__, *_Answer.__struct_fields__]
    payload = section(text, "The payload")
    assert set(names(payload)) >= set(ENVELOPES)
    _, _, server = text.partition("## The embedded server")
    taken, _, rest = server.partition("Requests that it refuses")
    handlers = Broker(b"H")._table()
    refused = {kind.name for kind, handler in handlers.items() if "_unsupported" in repr(handler)}
    assert {name for name in names(taken) if name.isupper()} == {kind.name for kind in handlers} - refused
    table, _, rest = rest.partition("Administrative commands:")
    assert {name for name in names(table) if re.fullmatch(r"SUBMIT\w+", name)} == refused
    lines = names(rest.partition("There is no")[0])
    assert {line.split()[0].encode() for line in lines} == set(console._COMMANDS)


# ---- links and form


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def without_blocks(path: Path) -> str:
    return prose(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", without_blocks(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", without_blocks(file), flags=re.M)
            assert anchor in map(slug, headings), f"{path}: {target}"


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", index.read_text())}
    assert linked == {path.resolve() for path in PAGES if path.is_relative_to(DOCS) and path != index}


def test_files_of_the_source_that_pages_name_are_there() -> None:
    for path in PAGES:
        for span in names(without_blocks(path)):
            if span.startswith("src/"):
                assert (ROOT / span).exists(), f"{path}: {span}"


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_whole(path: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", without_blocks(path), flags=re.M):
        assert re.match(r"\|.*\n\|[-|: ]+\|\n", table), f"{path}: rows without a heading: {table}"


def test_the_reference_of_commands_names_each_encoding_of_json(folder: Path) -> None:
    with Client(DEFAULT_DATABASE) as client:
        client.insert_job("f", b"\xff", flag="controller")
        (database,) = client.shards
        (lane,) = database.lanes().lanes
        (claimed,) = database.claim(lane, limit=1, lease=60)
        database.report([Report(claimed.handle, "data", b"x")])
        running = CliRunner().invoke(cli, ["jobs", "show", "1", "-o", "json"]).stdout
        database.finish([Success(1, 1, b"x", retention=60)])
        finished = CliRunner().invoke(cli, ["jobs", "show", "1", "-o", "json"]).stdout
    found = set(re.findall(r"\w+_encoding", running + finished))
    assert found == {"arg_encoding", "body_encoding", "result_encoding"}
    assert found <= set(names(page("reference/commands.md")))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_fit_a_page(path: Path) -> None:
    if path.is_relative_to(DOCS) and path.name != "decisions.md":
        assert [line for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 120] == []


# ---- with real processes


@pytest.mark.slow
def test_the_synopsis_runs(folder: Path) -> None:
    text = block_of("reference/calls.md", "synopsis").text
    with embedded() as server:
        (folder / "synopsis.py").write_text(text.replace(DEFAULT_SERVER, server))
        with processes.command(folder, "run", "queue-runner", GARIVINI_JOB_SERVERS=server):
            log = folder / "synopsis.log"
            with log.open("wb") as output:
                synopsis = processes.started(
                    [sys.executable, "-u", "synopsis.py"], cwd=folder, stdout=output, stderr=output
                )
                with synopsis as process:
                    until(lambda: "Hello world" in log.read_text(), log.read_text)
                    until(lambda: Client(DEFAULT_DATABASE).list_jobs() == [])
                    process.terminate()
                    assert process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_the_tests_that_are_shown_pass(folder: Path) -> None:
    for block in blocks(DOCS / "how-to/test-your-jobs.md"):
        if "file" in block.marks:
            (folder / block.marks["file"]).write_text(block.text)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "4 passed" in result.stdout


@pytest.mark.slow
def test_the_tutorial_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step: the files, the commands in their order, and what the reader is told to see."""
    monkeypatch.chdir(tmp_path)
    server, web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = {"GARIVINI_JOB_SERVERS": server, "GARIVINI_DB": DEFAULT_DATABASE}
    found = blocks(DOCS / "tutorial/first-job.md")

    def here(text: str) -> str:
        host, port = web.split(":")
        return text.replace(DEFAULT_SERVER, server).replace(f'"{host}", 8000', f'"{host}", {port}')

    def run(*words: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "garivini", *words],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, (words, result.stdout, result.stderr)
        return result.stdout

    files = {block.marks["file"]: block.text for block in found if "file" in block.marks}
    for name, text in files.items():
        (tmp_path / name).write_text(here(text))
    lines = [line for block in found if block.language == "sh" for line in block.text.splitlines()]
    steps = iter(lines[lines.index("garivini dev jobs.py") :])

    def step(expected: str) -> list[str]:
        line = next(steps)
        assert line.startswith(expected), line
        return shlex.split(line)[1:]

    def post(words: list[str]) -> str:
        request = urllib.request.Request(f"http://{web}/", data=words[words.index("-d") + 1].encode())
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            assert response.status == 202
            return str(response.read().decode())

    with processes.command(tmp_path, *step("garivini dev"), **environment) as dev:
        dev.wait_for("worker.started")
        assert run(*step("garivini insert")) == "1:1\n"
        dev.wait_for("Welcome, Ada!")
        until(lambda: Client(DEFAULT_DATABASE).list_jobs() == [])
        assert run(*step("garivini jobs list")) == "no job\n"
        step("python app.py")
        with processes.started([sys.executable, "app.py"], stderr=subprocess.DEVNULL):
            until(lambda: _listens(web))
            assert post(step("curl")) == "accepted as job 1:2\n"
            dev.wait_for("Welcome, Grace!")
            (snippet,) = [block for block in found if block.language == "python" and not block.marks]
            subprocess.run([sys.executable, "-c", here(snippet.text)], check=True)
            dev.wait_for("Welcome, Edsger!")
            assert post(step("curl")) == "accepted as job 1:4\n"
        dev.wait_for("job.failed")
        until(lambda: [job.jobid for job in Client(DEFAULT_DATABASE).failed_jobs()] == [4])
        assert "1:4" in run(*step("garivini jobs list --failed"))
        assert "KeyError: 'name'" in run(*step("garivini jobs show"))
        (change,) = [block for block in found if "change" in block.marks]
        changed(tmp_path / change.marks["change"], change)
        dev.wait_for("worker.started", 2)
        run(*step("garivini jobs retry"))
        dev.wait_for("Welcome, bob!")
        until(lambda: run("jobs", "list") == "no job\n")
        assert list(steps) == []
        assert dev.stop() == 0


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True
