"""A password gets into no output, whatever is wrong with the URL it stands in, and wherever that is."""

import logging
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from garivini import AsyncClient, Client, UsageError, Worker
from garivini.cli import main
from garivini.databases import parse_databases
from garivini.settings.tables import parse_settings

#: The pieces of the password: also one alone must not be seen.
HEAD, TAIL = "Sesame7", "Tahini9"
#: What may stand between them, and mean something else in a URL.
ODD = [
    "",
    "@",
    ":",
    "/",
    "?",
    "#",
    "&",
    ";",
    ",",
    " ",
    "%",
    "=",
    "://",
    "@@",
    "?a=",
    "&a=",
    "@h/",
    "@h?a=",
    "\\",
]
ODD += [",mysql://", ";mysql://", "@h/d,", "[", "]", "\n", "'", '"', "@127.0.0.1:1/d,mysql://u:"]


def urls(password: str) -> list[str]:
    """Return URLs with a password in each place where one may stand, well or not."""
    drivers = [f"{driver}://" for driver in ("mysql", "postgresql", "mysql+mysqldb", "oracle", "sqlite", "")]
    found = [
        f"{driver}{user}:{password}@{host}{port}{end}"
        for driver in drivers
        for user in ("u", "")
        for host in ("127.0.0.1", "[::1]", "")
        for port in (":1", "")
        for end in ("/d", "", "/d?charset=utf8mb4&nonsense=1")
    ]
    found += [
        f"{driver}127.0.0.1:1/d{sign}{name}={password}"
        for driver in ("mysql://u@", "postgresql://", "sqlite:///", "sqlite:///file:")
        for sign in ("?", "&", ";", "?connect_timeout=5&", "?connect_timeout=5;")
        for name in ("password", "passwd", "sslpassword", "ssl_key_password")
    ]
    found += [f"{text}mysql://u:{password}@127.0.0.1:1/d" for text in ("x", f"{HEAD} ", f"x://{TAIL}", "2=")]
    found += [
        f"DBI:mysql:host=127.0.0.1;port=1;{end}" for end in (f"password={password}", f"password={password};d")
    ]
    found += [
        f"DBI:Pg:dbname=d;host=127.0.0.1;port=1;user=u;password={password}",
        f"DBI:mysql:u:{password}@h/d",
    ]
    found += [f"mysql://u:{HEAD}", f"u:{password}@h/d", f"mysql:/u:{password}@h/d"]
    if "@" not in password:  # else it is a sound URL, of another password and host
        found.append(f"mysql://u:{password}")
    return found


@st.composite
def wrong_urls(draw: st.DrawFn) -> str:
    password = HEAD + draw(st.sampled_from(ODD)) + TAIL
    if draw(st.booleans()):
        password = quote(password, safe="")
    return draw(st.sampled_from(urls(password)))


def told(error: BaseException) -> str:
    """Return all that an error says: itself, its traceback, and all errors behind it, shown or not."""
    found, left = [], [error]
    while left:
        each = left.pop()
        found += ["".join(traceback.format_exception(each, chain=False)), repr(each)]
        left += [behind for behind in (each.__cause__, each.__context__) if behind is not None]
    # The lines of source that a traceback quotes are this file's own.
    return "\n".join(line for line in "\n".join(found).splitlines() if not line.startswith("    "))


def clean(text: str) -> None:
    assert HEAD not in text, text
    assert TAIL not in text, text


COMMANDS = [
    ["jobs", "list"],
    ["db", "check"],
    ["status"],
    ["doctor"],
    ["health"],
    ["jobs", "list", "--help"],
    ["db", "check", "--help"],
    ["run", "queue-runner", "--help"],
    ["insert", "f", "x"],
]


@pytest.mark.slow
def test_no_call_of_a_client_tells_a_password_of_its_url() -> None:
    @settings(max_examples=300, deadline=None)
    @given(url=wrong_urls())
    @example(url=f"mysql://u:{HEAD}@{TAIL}@127.0.0.1:1/d")
    @example(url=f"mysql://u:{HEAD}@127.0.0.1:1/d,mysql://u:{TAIL}@127.0.0.1:1/d")
    @example(url=f"postgresql://127.0.0.1:1/d?user=u&sslpassword={HEAD}&{TAIL}=1")
    @example(url=f"mysql://u@127.0.0.1:1/d?password={HEAD}&{TAIL}=1")
    def check(url: str) -> None:
        with suppress(UsageError):
            clean(repr(parse_databases(url)))
        try:
            with Client(url, "127.0.0.1:1") as client:
                (database,) = client.shards
                clean(repr([client, client.shards, database, database.where, database.connections.engine]))
                clean(repr([AsyncClient(url), Worker(client), vars(database)]))
                client.insert_job("f")
        except Exception as error:
            clean(told(error))

    check()


@pytest.mark.parametrize("place", ["environment", "file", "settings", "flag", "word", "servers", "names"])
def test_no_command_tells_a_password(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    for name in ("GARIVINI_DB", "GARIVINI_DB_FILE", "GARIVINI_JOB_SERVERS"):
        monkeypatch.delenv(name, raising=False)

    few = min(40, settings().max_examples)

    @settings(max_examples=few, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(url=wrong_urls(), command=st.sampled_from(COMMANDS))
    @example(url=f"mysql://u:{HEAD}@127.0.0.1:1/d,mysql://u:{TAIL}@127.0.0.1:1/d", command=["jobs", "list"])
    @example(url=f"mysql://u:{HEAD}{TAIL}@127.0.0.1:1/d", command=["jobs", "list", "--help"])
    @example(url=f"u:{HEAD} {TAIL}@127.0.0.1/d", command=["status"])
    @example(url=f"mysql://u@127.0.0.1:1/d?password={HEAD} {TAIL}", command=["run", "queue-runner", "--help"])
    def check(url: str, command: list[str]) -> None:
        arguments = ["--job-server", "127.0.0.1:1"] if command[0] in ("status", "doctor", "insert") else []
        with monkeypatch.context() as patch:
            match place:
                case "environment":
                    patch.setenv("GARIVINI_DB", url)
                case "file":
                    (tmp_path / "dbs").write_text(url)
                    patch.setenv("GARIVINI_DB_FILE", str(tmp_path / "dbs"))
                case "settings":
                    text = url.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
                    (tmp_path / "garivini.toml").write_text(f'databases = ["{text}"]')
                case "flag":
                    arguments += ["--db", url]
                case "word":
                    arguments += [url]
                case "servers":
                    patch.setenv("GARIVINI_DB", f"sqlite:///{tmp_path}/none.db")
                    patch.setenv("GARIVINI_JOB_SERVERS", url)
                    arguments = []
                case "names":
                    patch.setenv("GARIVINI_DB_FILE", url)
            with suppress(SystemExit):
                main([*command, *arguments])
        output = capfd.readouterr()
        clean(output.out + output.err)

    check()


URL = f"mysql://u:{HEAD}@127.0.0.1:1/{TAIL}"


@pytest.mark.parametrize(
    "dbs",
    [
        {URL: 1},
        {1: {"id": URL, "dsn": URL}},
        {1: {"dsn": 5, "pass": HEAD}},
        {1: {"dsn": f"mysql://{HEAD}@{TAIL}@h/d", "user": "u", "pass": f"{HEAD}@{TAIL}"}},
        {1: {"dsn": f"DBI:mysql:job;{HEAD}={TAIL}", "user": "u", "pass": HEAD}},
        [(URL,)],
        [{"dsn": f"{HEAD}"}],
        URL.encode(),
    ],
)
def test_databases_in_a_wrong_form_do_not_tell_a_password(dbs: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Client(dbs)
    clean(told(caught.value))


@pytest.mark.parametrize(
    "name",
    [
        "CONFIG",
        "DB_FILE",
        "JOB_SERVERS",
        "TLS_CA",
        "TLS_VERIFY_HOST",
        "LOG_FORMAT",
        "LOG_LEVEL",
        "BENCH_DB",
        "IMPORT_DB",
    ],
)
def test_a_url_in_a_wrong_variable_is_not_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(f"GARIVINI_{name}", URL)
    if name == "TLS_VERIFY_HOST":
        monkeypatch.setenv("GARIVINI_TLS_CA", "system")
    commands = {
        "LOG_FORMAT": ["run"],
        "LOG_LEVEL": ["run"],
        "BENCH_DB": ["bench", "--help"],
        "IMPORT_DB": ["import", "gearmand", "--help"],
    }
    with pytest.raises(SystemExit):
        main(commands.get(name, ["status"]))
    output = capfd.readouterr()
    clean(output.out + output.err)
    if name not in ("LOG_FORMAT", "LOG_LEVEL", "BENCH_DB", "IMPORT_DB"):
        try:
            Client()
        except UsageError as error:
            clean(told(error))


def test_an_engine_of_which_a_piece_of_the_password_became_the_host_is_refused() -> None:
    engine = create_engine(f"mysql+pymysql://u:{HEAD}@{TAIL}@127.0.0.1/d")
    with pytest.raises(UsageError, match="more than one @") as caught:
        Client(engine)
    clean(told(caught.value))


def test_settings_do_not_print_passwords() -> None:
    clean(repr(parse_settings(f'databases = ["mysql://u:{HEAD}{TAIL}@h/d"]'.encode(), "garivini.toml")))


@pytest.mark.parametrize(
    "text",
    [
        f'databases = "mysql://u:{HEAD}@h/{TAIL}"',
        f'databases = [["mysql://u:{HEAD}@h/{TAIL}"]]',
        f'"mysql://u:{HEAD}@h/{TAIL}" = 1',
        f'databases = ["mysql://u:{HEAD}\\q{TAIL}@h/d"]',
        f'databases = ["mysql://u:{HEAD}@h/{TAIL}',
        f"databases = [mysql://u:{HEAD}@h/{TAIL}]",
        f'[log]\nformat = "mysql://u:{HEAD}@h/{TAIL}"',
        f'[databases]\n"mysql://u:{HEAD}@h/{TAIL}" = 1\n"mysql://u:{HEAD}@h/{TAIL}" = 1',
        f"mysql://u:{HEAD}@h/{TAIL}",
    ],
)
def test_a_wrong_settings_file_does_not_tell_a_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(text.encode(), "garivini.toml")
    clean(told(caught.value))
