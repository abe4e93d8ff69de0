"""What commands print: any text is shown and none is obeyed, whole in a pipe, and fitted to a terminal."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from garivini import Client, UsageError
from garivini.cli.output import fit, number, visible, visible_bytes, visible_lines
from garivini.gearman.blocking import Client as GearmanClient
from garivini.gearman.protocol import Submission
from garivini.model.job import Handle
from garivini.model.outcome import Setback, failure
from garivini.store.failures import storable
from tests.commands import invoke, on_terminal, run
from tests.databases import sqlite_url
from tests.processes import PATIENCE, started
from tests.servers import embedded
from tests.sql_servers import SQLServer

#: Texts that a terminal or a library for terminals might obey.
HOSTILE: Final = (
    "[/]",
    "[abc]",
    "[/boom]",
    "[link=http://evil.example]x[/link]",
    "[bold red]x",
    "\\[x]",
    ":smile:",
    "a\x1b[31mred",
    "\x1b]8;;http://evil.example\x1b\\x",
    "\x9b2J",
    "\x07\x08\x7f",
    "line\nattempt 9 failed",
    "cell\tcell",
    "a\rb",
    "\u202egnp.exe",
    "\u2066x\u2069\u200f",
    "{0} %s {name}",
    "東京",
)
#: What must never come out unescaped: control characters but the line break and tab of our own, and
#: what changes the direction of text.
OBEYED: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(HOSTILE)
names = texts.map(lambda text: "".join(text.split()).replace("\0", "")[:40]).filter(bool)


@contextmanager
def database(text: str) -> Iterator[tuple[str, Handle]]:
    """A database with a job whose function, argument, key, error, trace, worker and lines are this text."""
    with tempfile.TemporaryDirectory() as folder:
        url = sqlite_url(Path(folder))
        with Client(url) as client:
            (jobs,) = client.shards
            client.insert_job("f", text, unique="k")
            with jobs.connections.engine.begin() as connection:
                # As another program may write it; ours refuses some.
                connection.exec_driver_sql("UPDATE job SET funcname = ?, uniqkey = ?", (text or "f", text))
            (lane,) = jobs.lanes().lanes
            (claimed,) = jobs.claim(lane, limit=1, lease=60)
            setback = Setback(
                handle=claimed.handle, kind="failed", error=text, message=text, trace=text, worker=text
            )
            jobs.settle([setback])
            yield url, claimed.handle


# ---- text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [x] text", "plain [x] text"),
        ("a\x1b[0m", r"a\x1b[0m"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\u202ex\x9b", r"\u202ex\x9b"),
        ("\ud800", r"\ud800"),
        ("Grüße €東京", "Grüße €東京"),
    ],
)
def test_visible_escapes_what_is_not_printable(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_visible_lines_keeps_line_breaks_alone() -> None:
    assert visible_lines("a\r\nb\x0bc") == "a\\r\nb\\x0bc"


def test_visible_bytes_shows_what_is_no_utf_8() -> None:
    assert visible_bytes("gr\u00fcn".encode() + b"\xff\n") == r"grün\xff\n"


def test_number_takes_the_singular_for_one() -> None:
    assert [number(count, "job") for count in (0, 1, 2, 1000)] == ["0 jobs", "1 job", "2 jobs", "1,000 jobs"]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(text=texts)
@example(text="[/]")
@example(text="[link=http://evil.example]x[/link]")
@example(text="\x1b]8;;http://evil.example\x1b\\")
@example(text="\u202e\n\t")
@example(text="\0")
def test_jobs_functions_and_status_show_any_text_of_the_database_faithfully(text: str) -> None:
    with database(text) as (url, handle):
        for arguments in (("jobs", "list"), ("jobs", "list", "--failed"), ("functions", "list")):
            result = invoke(*arguments, "--db", url)
            assert result.exit_code == 0, arguments
            assert not OBEYED.search(result.output), arguments
            assert visible(text) in result.stdout
            assert len(result.stdout.split("\n")) == 3  # heading, row, nothing
        shown = invoke("jobs", "show", str(handle.jobid), "--db", url)
        assert shown.exit_code == 0
        assert not OBEYED.search(shown.output)
        # White space at the end of a line is not shown.
        assert shown.stdout.count(visible(text).rstrip()) >= 2
        assert shown.stdout.count(visible(storable(text)).rstrip()) >= 4
        (entry,) = json.loads(invoke("jobs", "show", "1", "-o", "json", "--db", url).stdout)
        assert (entry["arg"], entry["uniqkey"], entry["failures"][0]["message"]) == (
            text,
            text,
            storable(text),
        )
        for command in ("doctor", "health", "status"):
            result = invoke(command, "--db", url, "--job-server", "127.0.0.1:1")
            assert isinstance(result.exception, SystemExit), command
            assert not OBEYED.search(result.output), command


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(name=names, arg=texts)
@example(name="[/]", arg="[/]")
@example(name="[/boom]", arg="\x1b[2J")
def test_insert_and_the_commands_after_it_take_any_name(name: str, arg: str) -> None:
    with tempfile.TemporaryDirectory() as folder, embedded() as server:
        url = sqlite_url(Path(folder))
        places = ("--db", url, "--job-server", server)
        inserted = invoke("insert", *places, "--", name, arg)
        if inserted.exit_code:
            assert isinstance(inserted.exception, UsageError), inserted.exception
            return
        assert inserted.stdout == "1:1\n"
        doctor, health, status = (invoke(command, *places) for command in ("doctor", "health", "status"))
        for result in (doctor, health, status):
            assert result.exception is None or isinstance(result.exception, SystemExit)
            assert not OBEYED.search(result.output)
        assert visible(name) in doctor.output
        assert visible(name) in health.output
        assert visible(name) in status.output
        assert (doctor.exit_code, health.exit_code, status.exit_code) == (1, 1, 0)
        assert invoke("jobs", "cancel", "1", "--reason", arg, "--db", url).exit_code == 0
        assert visible(name) in invoke("jobs", "list", "--db", url).stdout


def test_status_shows_a_function_of_the_gearman_server_whatever_its_name(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    hostile = [b"[/boom]", b"[link=x]", b"\xff\xfe", "\u202ex".encode()]
    with embedded() as server:
        with GearmanClient(server) as client:
            client.submit([Submission(name, b"") for name in hostile])
        for output in ([], ["-o", "json"]):
            result = invoke("status", "--db", url, "--job-server", server, *output)
            assert result.exit_code == 0
        shown = invoke("status", "--db", url, "--job-server", server).stdout
        for text in ("\t[/boom]\t", "\t[link=x]\t", r"\xff\xfe", r"\u202ex"):
            assert text in shown
        assert invoke("health", "--db", url, "--job-server", server).exit_code == 1
        assert invoke("doctor", "--db", url, "--job-server", server).exit_code == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_obeyed_on_a_terminal(text: str) -> None:
    with database(text) as (url, _):
        for arguments in (["jobs", "list"], ["jobs", "show", "1"], ["functions", "list"]):
            status, written = on_terminal(200, *arguments, "--db", url, NO_COLOR="1")
            assert status == 0, written
            assert not OBEYED.search(written)
            assert visible(text) in written


@pytest.mark.slow
def test_output_that_the_locale_cannot_carry_is_escaped(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    Client(url).insert_job("f", "Grüße")
    result = subprocess.run(
        [sys.executable, "-m", "garivini", "jobs", "list", "--db", url],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert rb"Gr\xfc\xdfe" in result.stdout


def test_errors_show_text_and_do_not_obey_it(tmp_path: Path) -> None:
    for arguments in (["insert", "a\nb\x1b[31m"], ["jobs", "show", "\x1b[31m"], ["\x1b[31m"]):
        result = run(*arguments, "--db", sqlite_url(tmp_path, f"{len(arguments)}-{len(arguments[0])}.db"))
        assert result.returncode == 2
        assert "\x1b" not in result.stderr
        assert "garivini: " in result.stderr


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_jobs_functions_and_status_show_any_text_of_other_databases(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: SQLServer = request.getfixturevalue(kind)
    with server.database() as url, Client(url) as client:
        (jobs,) = client.shards
        jobs.upgrade()
        for text in HOSTILE:
            name = "".join(char for char in text if char.isprintable() and not char.isspace()) or "f"
            inserted = client.insert_job(name, text, unique=text)
            lane = next(lane for lane in jobs.lanes().lanes if lane.funcname == name)
            (claimed,) = jobs.claim(lane, limit=1, lease=60)
            setback = Setback(
                handle=claimed.handle, kind="failed", error="E", message=text, trace=text, worker=text
            )
            jobs.settle([setback])
            shown = invoke("jobs", "show", str(inserted.jobid), GARIVINI_DB=url)
            assert shown.exit_code == 0
            assert shown.stdout.count(visible(text)) >= 4
            assert not OBEYED.search(shown.stdout)
        for arguments in (("jobs", "list"), ("functions", "list"), ("status",), ("doctor",), ("health",)):
            result = invoke(*arguments, GARIVINI_DB=url, GARIVINI_JOB_SERVERS="127.0.0.1:1")
            assert result.exception is None or isinstance(result.exception, SystemExit), arguments
            assert not OBEYED.search(result.output), arguments
        listed = invoke("jobs", "list", GARIVINI_DB=url).stdout.splitlines()
        assert [row.split("\t")[-1] for row in listed[1:]] == [visible(text) for text in HOSTILE]


# ---- pipes and terminals


@pytest.mark.slow
def test_a_library_for_terminals_is_not_imported_for_a_pipe(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    failed(url)
    commands = (["jobs", "list"], ["jobs", "show", "1"], ["functions", "list"], ["status"])
    code = f"""
import contextlib, sys
from garivini.cli import main
for arguments in {commands}:
    with contextlib.suppress(SystemExit):
        main([*arguments, "--db", {url!r}])
    sys.stderr.write(f"{{'rich' in sys.modules}} ")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.stderr.endswith(b"False " * 4)


def failed(url: str, message: str = "m") -> None:
    with Client(url) as client:
        (jobs,) = client.shards
        client.insert_job("report.monthly", json.dumps({"text": "x" * 300}))
        (lane,) = jobs.lanes().lanes
        (claimed,) = jobs.claim(lane, limit=1, lease=60)
        try:
            raise ValueError(message)
        except ValueError as error:
            jobs.settle([failure(claimed.handle, error)])


def test_jobs_list_is_whole_lines_with_tabs_in_a_pipe(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    failed(url)
    result = run("jobs", "list", "--db", url, COLUMNS="40")
    heading, row = result.stdout.splitlines()
    assert heading.split("\t")[:3] == ["job", "function", "state"]
    cells = row.split("\t")
    assert cells[:3] == ["1:1", "report.monthly", "waiting"]
    assert cells[-1] == json.dumps({"text": "x" * 300})


def test_jobs_show_does_not_wrap_a_traceback(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    failed(url, "long " * 60)
    with Client(url) as client:
        (record,) = client.failures((1, 1))
    for written in (
        run("jobs", "show", "1", "--db", url, COLUMNS="40").stdout,
        on_terminal(40, "jobs", "show", "1", "--db", url, TERM="dumb")[1],
    ):
        assert set(record.trace.rstrip().splitlines()) <= set(written.splitlines())


def test_jobs_list_leaves_columns_out_before_it_cuts_one(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    failed(url)
    for columns, there, gone in (
        (200, ["report.monthly", "waiting", '{"text": "xxx'], []),
        (60, ["1:1", "report.monthly", "waiting", "due / lease ends"], ["argument", "attempt"]),
        (30, ["1:1", "report.monthly", "waiting"], ["argument", "due", "failures"]),
        (20, ["1:1", "repor…", "waiting"], ["monthly"]),
    ):
        status, written = on_terminal(columns, "jobs", "list", "--db", url, NO_COLOR="1")
        assert status == 0
        assert all(text in written for text in there), (columns, written)
        assert not any(text in written for text in gone), (columns, written)
        assert all(len(line) <= columns for line in written.splitlines())
        assert not set("│┃┏━") & set(written)


def test_jobs_list_does_not_cut_a_later_row_that_has_room(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    with Client(url) as client:
        client.insert_jobs([["f", None, None, ""]] * 70)
        client.insert_job("a.much.longer.name")
    status, written = on_terminal(100, "jobs", "list", "--limit", "80", "--db", url, NO_COLOR="1")
    assert status == 0
    assert len(written.splitlines()) == 72
    assert "a.much.longer.name  waiting" in written
    status, written = on_terminal(30, "jobs", "list", "--limit", "80", "--db", url, NO_COLOR="1")
    assert all(len(line) <= 30 for line in written.splitlines())


def test_a_heading_is_bold_on_a_terminal_and_plain_without_colour(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    failed(url)
    assert "\x1b[1mjob " in on_terminal(80, "jobs", "list", "--db", url)[1]
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in on_terminal(80, "jobs", "list", "--db", url, **plain)[1]


def test_fit_leaves_out_the_lowest_rank_first() -> None:
    ranks = [None, None, 2, 1]
    assert fit([3, 10, 10, 40], ranks, 80) == {0: 3, 1: 10, 2: 10, 3: 40}
    assert fit([3, 10, 10, 40], ranks, 40) == {0: 3, 1: 10, 2: 10}
    assert fit([3, 10, 10, 40], ranks, 20) == {0: 3, 1: 10}
    assert fit([3, 10, 10, 40], ranks, 10) == {0: 3, 1: 5}
    assert sum(fit([3, 10, 10, 40], ranks, 1).values()) == 4


def many(url: str, jobs: int) -> None:
    with Client(url) as client:
        (database,) = client.shards
        with database.connections.engine.begin() as connection:
            connection.exec_driver_sql(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                "INSERT INTO job (funcname, arg, run_after) SELECT 'f', zeroblob(100), 1000000 + i FROM n",
                (jobs,),
            )


def cpu_ticks(stat: bytes) -> int:
    """Return the processor time of a process, of its stat file: a busy machine does not change it."""
    user, system = stat.rpartition(b")")[2].split()[11:13]
    return int(user) + int(system)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
def test_jobs_list_streams_a_long_list_in_constant_memory(tmp_path: Path, form: str) -> None:
    url = sqlite_url(tmp_path)
    many(url, 100_000)
    arguments = ["jobs", "list", "--limit", "100000", "-o", form, "--db", url]
    code = (
        "import sys; from garivini.cli import main\n"
        f"try: main({arguments})\n"
        "finally: sys.stderr.write(open('/proc/self/status').read() + open('/proc/self/stat').read())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        first = cpu_ticks(Path(f"/proc/{process.pid}/stat").read_bytes())
        rows = process.stdout.read()
        said = process.stderr.read()
        took = cpu_ticks(said)
        peak = re.search(rb"VmHWM:\s*(\d+) kB", said)
    assert rows.count(b"\\u0000" if form != "table" else b"\\x00") >= 100_000
    assert first < took / 2  # it goes on after the first row, and stops while nobody reads
    assert peak is not None
    assert int(peak[1]) < 100 * 1024  # a list of all of them takes more


def test_json_is_one_document_and_the_same_as_before(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    assert invoke("jobs", "list", "-o", "json", "--db", url).stdout == "[]\n"
    failed(url)
    failed(url)
    written = invoke("jobs", "list", "-o", "json", "--db", url).stdout
    assert written == json.dumps(json.loads(written), indent=2) + "\n"
    assert [job["jobid"] for job in json.loads(written)] == [1, 2]


@pytest.mark.slow
def test_a_pipe_that_is_closed_ends_a_list_without_a_word(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    many(url, 20_000)
    with started(
        [sys.executable, "-m", "garivini", "jobs", "list", "--limit", "20000", "--db", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(PATIENCE) == 1
