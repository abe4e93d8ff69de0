"""Commands and settings of the pages are those of the program."""

import re
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner

from garivini import (
    Client,
    UsageError,
)
from garivini.cli import EXIT_STATUSES, cli
from garivini.cli.options import DEFAULT_DATABASE, DEFAULT_SERVER
from garivini.keeper.supervised_child import CONFIGURATION_ERROR
from garivini.model.outcome import Report, Success
from garivini.roles.controller import ControllerSettings
from garivini.roles.injector import InjectorSettings
from garivini.roles.queue_runner import QueueRunnerSettings
from garivini.settings.tables import InjectorTable, parse_settings
from tests.docs.commands import commands, leaves, options, parse
from tests.docs.pages import PAGES, block_of, names, of_language, page, prose, rows


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


#: What ``--tls-*`` stands for.
TLS: Final = {"--tls-ca", "--tls-certificate", "--tls-key", "--tls-verify-host", "--tls-no-verify-host"}
COMMON: Final = {
    "--db",
    "--job-server",
    "-o",
    "--output",
    "-v",
    "--verbose",
    "--log-format",
    "--log-level",
    *TLS,
}


def test_the_reference_of_commands_names_each_command_and_its_options() -> None:
    text = page("reference/commands.md")
    parts = re.split(r"^##+ (.*)$", prose(text), flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    real = dict(leaves(cli))
    assert set(real) <= set(sections)
    groups = {path.rpartition(" ")[0] for path in real}
    assert {name for name in sections if name.startswith("garivini")} - set(real) == groups
    filters = {name for cells in rows(text, "### Filters")[1:] for name in names(cells[0])}
    for path, command in {"garivini": cli, **real}.items():
        said = {
            word for span in names(sections[path]) for word in re.findall(r"(?<![\w-])--?[a-z][\w-]*", span)
        }
        if "--tls-" in said:
            said = said - {"--tls-"} | TLS
        if "(#filters)" in sections[path]:
            said |= filters
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
        for name in COMMON & {"--output", "--log-format", "--log-level"} & set(options(command)):
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
        parameter.envvar
        for _, command in [("", cli), *leaves(cli)]
        for parameter in command.params
        if parameter.envvar is not None
    }
    assert said == {*used, "GARIVINI_DB_FILE"}


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
