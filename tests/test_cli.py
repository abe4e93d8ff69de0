import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import venv
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from garivini import Client, SchemaError, State, UsageError
from garivini.cli import _COMMANDS, cli, main
from garivini.cli.project_files import python_files
from garivini.gearman.blocking import Client as GearmanClient
from garivini.gearman.protocol import Submission
from garivini.model.job import Handle
from garivini.model.outcome import Report, Setback, Success, failure
from garivini.model.when import Offset
from garivini.store.database import Lane
from garivini.store.records import MAX_RESULT
from tests.commands import invoke, run
from tests.databases import sqlite_url
from tests.processes import PATIENCE, alive, command, replace_file, until
from tests.servers import embedded, free_port


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with its tables."""
    return sqlite_url(tmp_path)


def test_every_command_teaches_with_an_example() -> None:
    groups = {
        "jobs": ("list", "show", "retry", "cancel", "discard", "reschedule", "priority", "delete"),
        "functions": ("list", "set", "pause", "resume"),
        "schedules": ("list", "show", "set", "pause", "resume", "run", "remove", "next"),
        "db": ("upgrade", "check", "sql"),
        "import": ("gearmand", "theschwartz"),
    }
    paths = [[name] for name in _COMMANDS if name not in groups]
    paths += [[group, name] for group, names in groups.items() for name in names]
    for path in paths:
        result = invoke(*path, "--help")
        assert result.exit_code == 0
        assert "Example" in result.output, path
        assert f"garivini {' '.join(path)}" in result.output, path


def test_the_overview_lists_every_command_without_importing_them() -> None:
    result = invoke("--help")
    assert all(f"  {name} " in result.output for name in _COMMANDS)
    code = "import sys; from garivini.cli import cli; cli(['--help'], standalone_mode=False); "
    heavy = ("sqlalchemy", "rich", "msgspec", "asyncio", "ssl", "logging", "json", "urllib.parse")
    code += f"sys.exit(any(name in sys.modules for name in {heavy}))"
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )


@pytest.mark.slow
def test_a_command_imports_what_it_uses(url: str) -> None:
    """Each is run after those that need less, in one process."""
    commands = [
        *("insert f", "jobs list", "jobs show 1", "jobs retry 1", "functions list", "functions set f"),
        *("status", "health", "doctor", "db check", "run queue-runner --poll 0", "worker none.py"),
    ]
    migrations = ["db upgrade", "db sql sqlite"]
    code = """
import contextlib, sys
from garivini.cli import main
for command in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        main(command.split())
    found = {"sqlalchemy.orm", "alembic", "rich"} & sys.modules.keys()
    print("IMPORTS", command, *sorted(found), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *commands, *migrations],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": "127.0.0.1:1"},
    )
    found = [line for line in done.stderr.splitlines() if line.startswith("IMPORTS ")]
    expected = [*commands, *(f"{command} alembic" for command in migrations)]
    assert found == [f"IMPORTS {line}" for line in expected]


def test_dev_watches_the_files_of_the_project_and_nothing_that_is_installed(tmp_path: Path) -> None:
    project = tmp_path / ".work" / "venv" / "shop"  # where it lies does not matter
    for name in ("jobs.py", "shop/mail.py", "environment/a.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    for name in ("env", "anything", "shop/env"):
        venv.create(project / name, symlinks=True)
        (project / name / "lib" / "installed.py").touch()
    for name in (".tox/a.py", "node_modules/b/c.py", "conda/x.py", "conda/conda-meta/y.py", "shop/.a/b.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    found = {str(path.relative_to(project)) for path in python_files(project)}
    assert found == {"jobs.py", "shop/mail.py", "environment/a.py"}


def test_check_status_and_list_of_a_mistyped_path_make_no_file(tmp_path: Path) -> None:
    for words in (
        *(["db", "check"], ["db", "drain", "1"], ["jobs", "list"], ["jobs", "show", "1"], ["status"]),
        *(["jobs", "retry", "1"], ["jobs", "delete", "1", "--yes"], ["insert", "f"], ["functions", "list"]),
        *(["functions", "set", "f", "--lease", "9"], ["health"], ["doctor"], ["run", "queue-runner"]),
    ):
        for url in (f"sqlite:///{tmp_path}/tpyo.db", f"sqlite:///file:{tmp_path}/tpyo.db?uri=true"):
            result = invoke(*words, GARIVINI_DB=url, GARIVINI_JOB_SERVERS="127.0.0.1:1")
            assert result.exit_code != 0
            assert list(tmp_path.iterdir()) == []
        if words[0] != "run":  # which waits for a folder that may be mounted later
            url = f"sqlite:///{tmp_path}/none/tpyo.db"
            invoke(*words, GARIVINI_DB=url, GARIVINI_JOB_SERVERS="127.0.0.1:1")
            assert list(tmp_path.iterdir()) == []


def test_doctor_says_that_others_can_read_a_sqlite_file() -> None:
    def says() -> list[str]:
        findings = json.loads(invoke("doctor", "-o", "json", **places).output)
        return [one["says"] for one in findings if "every user of this machine" in one["says"]]

    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        places = {"GARIVINI_DB": f"sqlite:///{name}/jobs.db", "GARIVINI_JOB_SERVERS": "127.0.0.1:1"}
        invoke("db", "upgrade", **places)
        assert says() == []
        (folder / "jobs.db").chmod(0o644)
        (advice,) = says()
        assert "0644" in advice
        folder.chmod(0o750)
        assert says() == []


def test_insert_prints_the_id_of_a_committed_job(url: str) -> None:
    result = invoke("insert", "hello", "world", "--run-after", "60", "--unique", "k", "--db", url)
    assert (result.exit_code, result.output) == (0, "1:1\n")
    job = Client(url).get_job((1, 1))
    assert job is not None
    assert (job.funcname, job.arg, job.uniqkey) == ("hello", b"world", "k")
    # Counted from the next whole second: never short.
    assert 60 <= job.run_after - job.created <= 61
    result = invoke("insert", "hello", "again", "--unique", "k", "--db", url)
    assert result.output == "1:1 (has this key already)\n"


def test_insert_stores_a_partition_by_which_jobs_are_listed(url: str) -> None:
    for name in ("a", "b"):
        invoke("insert", "hello", "--partition", name, "--db", url)
    listed = json.loads(invoke("jobs", "list", "--partition", "b", "-o", "json", "--db", url).output)
    assert [(job["jobid"], job["partition"]) for job in listed] == [(2, "b")]
    assert "partition" in invoke("jobs", "show", "2", "--db", url).output


def test_insert_says_that_a_dead_job_has_the_key_and_what_to_do(url: str) -> None:
    invoke("insert", "hello", "--unique", "k", "--db", url)
    assert invoke("jobs", "cancel", "1", "--db", url).exit_code == 0
    result = invoke("insert", "hello", "--unique", "k", "--db", url)
    assert result.exit_code == 0
    assert result.stdout == "1:1 (has this key already, and is dead)\n"
    assert "garivini jobs retry 1:1" in result.stderr
    assert "garivini jobs delete 1:1" in result.stderr


def test_insert_reads_bytes_from_standard_input(url: str) -> None:
    result = CliRunner().invoke(cli, ["insert", "hello", "-", "--db", url], input=bytes(range(256)))
    assert result.exit_code == 0
    job = Client(url).get_job((1, 1))
    assert job is not None
    assert job.arg == bytes(range(256))


def test_jobs_are_listed_shown_and_retried(url: str) -> None:
    client = Client(url)
    for number in range(3):
        client.insert_job("f", json.dumps({"number": number}))
    (database,) = client.shards
    (lane,) = database.lanes().lanes
    (claimed,) = database.claim(lane, limit=1, lease=60)
    database.settle([failure(claimed.handle, ValueError("what \x1b[31mred"), "host:1")])
    listed = json.loads(invoke("jobs", "list", "--db", url, "-o", "json").output)
    assert [job["jobid"] for job in listed] == [1, 2, 3]
    assert [job["arg"] for job in listed][1] == '{"number": 1}'
    lines = invoke("jobs", "list", "--failed", "--db", url, "-o", "jsonl").output.splitlines()
    assert [json.loads(line)["jobid"] for line in lines] == [1]
    table = invoke("jobs", "list", "--function", "f", "--state", "waiting", "--db", url).output
    assert "1:3" in table
    shown = invoke("jobs", "show", "1", "--db", url).output
    assert "ValueError: what" in shown
    assert "\x1b" not in shown
    assert "host:1" in shown
    (record,) = json.loads(invoke("jobs", "show", "1:1", "--db", url, "-o", "json").output)
    assert record["failures"][0]["error"] == "ValueError"
    assert invoke("jobs", "retry", "1", "--db", url).exit_code == 0
    job = client.get_job(Handle(1, 1))
    assert job is not None
    assert (job.state, job.failcount) == (State.WAITING, 0)
    assert job.run_after <= database.clock()
    assert invoke("jobs", "list", "--db", url, "--function", "none").output == "no job\n"


def test_what_a_job_said_and_its_result_are_shown(url: str) -> None:
    client = Client(url)
    (database,) = client.shards
    client.insert_jobs([["f", None, None, "x"]] * 2)
    (lane,) = database.lanes().lanes
    first, second = database.claim(lane, limit=2, lease=60)
    said: list[tuple[Any, bytes]] = [("status", b"3/10"), ("data", b"line \x1b[31mred")]
    said.append(("warning", b"\xff\x00"))
    database.report([Report(first.handle, *what) for what in said])
    shown = " ".join(invoke("jobs", "show", "1", "--db", url).output.split())
    assert "state leased" in shown
    assert "progress 3/10" in shown
    assert "attempt 1 data at 20" in shown
    assert ": line \\x1b[31mred attempt 1 warning at " in shown
    assert ": 2 bytes" in shown
    database.finish([Success(1, 1, b"gr\xc3\xbcn", "host:1", 60), Success(2, 1, b"\xff\x00", "", 60)])
    shown = " ".join(invoke("jobs", "show", "1", "--db", url).output.split())
    for words in ("state finished", "progress 3/10", "result grün", "worker host:1", ": line "):
        assert words in shown
    assert "result 2 bytes" in " ".join(invoke("jobs", "show", "2", "--db", url).output.split())
    entries = [
        json.loads(invoke("jobs", "show", str(job.jobid), "--db", url, "-o", "json").output)[0]
        for job in (first, second)
    ]
    assert [(entry["state"], entry["funcname"], entry["dbid"]) for entry in entries] == [
        ("finished", "f", 1)
    ] * 2
    assert [(entry["result"], entry["result_encoding"]) for entry in entries] == [
        ("grün", "utf-8"),
        ("/wA=", "base64"),
    ]
    assert [(line["kind"], line["body"]) for line in entries[0]["reports"]] == [
        ("status", "3/10"),
        ("data", "line \x1b[31mred"),
        ("warning", "/wA="),
    ]
    assert invoke("jobs", "retry", "1", "--db", url).exit_code == 1


def test_kept_jobs_are_listed(url: str) -> None:
    client = Client(url)
    (database,) = client.shards
    client.insert_jobs([[name, None, None, "x"] for name in ("f", "g\x1b", "f", "f")])
    successes = [
        Success(1, 1, b"r", "host:1", 60, 0.25),
        Success(2, 1, b"", "", 60),
        Success(3, 1, b"", "", 60),
    ]
    database.finish(successes)
    assert invoke("jobs", "list", "--db", url).output.count("\n") == 2
    options = ("--state", "finished", "--db", url)
    lines = invoke("jobs", "list", *options).output.splitlines()
    assert lines[0] == "job\tfunction\tfinished\tran\tfailures\tattempt\tworker"
    assert [line.split("\t")[:2] for line in lines[1:]] == [["1:1", "f"], ["1:2", "g\\x1b"], ["1:3", "f"]]
    assert [line.split("\t")[3] for line in lines[1:]] == ["0.250 s", "-", "-"]
    (entry,) = json.loads(
        invoke("jobs", "list", *options, "--limit", "1", "--function", "f", "-o", "json").output
    )
    assert (entry["dbid"], entry["jobid"], entry["state"], entry["seconds"]) == (1, 1, "finished", 0.25)
    assert "result" not in entry
    assert invoke("jobs", "list", *options, "--function", "none").output == "no job\n"
    assert "ran 0.250 s" in " ".join(invoke("jobs", "show", "1", "--db", url).output.split())


def test_failures_are_shown_by_what_they_have_in_common(url: str) -> None:
    client = Client(url)
    for funcname, message in (("f", "no row 1"), ("f", "no row 2\x1b[31m"), ("g", "x"), ("f", "no row 3")):
        client.failed_job(client.insert_job(funcname), ValueError(message))
    lines = invoke("jobs", "failures", "--db", url).output.splitlines()
    assert lines[0] == "failures\tjobs\tfunction\terror\tmessage\tfirst\tlast\texample"
    assert lines[1].split("\t")[:5] == ["2", "2", "f", "ValueError", "no row #"]
    assert {line.split("\t")[4] for line in lines[2:]} == {"x", "no row #\\x1b[#m"}
    options = ("--db", url, "-o", "json")
    (entry,) = json.loads(invoke("jobs", "failures", "--limit", "1", *options).output)
    assert entry["last"] - entry["first"] < 60
    counted = {"failures": 2, "jobs": 2, "funcname": "f", "error": "ValueError", "message": "no row #"}
    assert entry == {**counted, "first": entry["first"], "last": entry["last"], "jobid": 4, "dbid": 1}
    (entry,) = json.loads(invoke("jobs", "failures", "--function", "g", *options).output)
    assert (entry["funcname"], entry["jobid"]) == ("g", 3)
    assert invoke("jobs", "failures", "--function", "h", "--db", url).output == "no failure\n"


def test_a_result_that_was_too_large_is_shown_as_that(url: str) -> None:
    client = Client(url)
    (database,) = client.shards
    client.insert_job("f")
    database.finish([Success(1, None, bytes(MAX_RESULT + 1), retention=60)])
    shown = " ".join(invoke("jobs", "show", "1", "--db", url).output.split())
    assert "result too large to be kept" in shown
    assert "the result of 16777216 bytes was left out" in shown
    (entry,) = json.loads(invoke("jobs", "show", "1", "--db", url, "-o", "json").output)
    assert entry["result"] is None


def test_what_is_not_there_is_said_and_has_an_exit_status(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (["jobs", "show", "99", "--db", url], 1, "there is no job 99"),
        (["jobs", "retry", "99", "--db", url], 1, "not waiting or dead"),
        (["jobs", "show", "x", "--db", url], 2, "is not the id of a job"),
        (["jobs", "show", "7:1", "--db", url], 2, "no database 7"),
        (["jobs", "list", "--db", f"sqlite:///{tmp_path}/none/jobs.db"], 69, "cannot be opened"),
        (["jobs", "list", "--db", f"sqlite:///{tmp_path}/new.db"], 78, "garivini db upgrade"),
        (["insert", "two\nlines", "--db", url], 2, "a line break"),
        (["run", "--lease", "1", "--db", url], 2, "a lease is 3 s"),
        (["nothing"], 2, "No such command"),
    ]
    for arguments, status, message in cases:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr().err
        assert ended.value.code == status, (arguments, said)
        assert message in said, (arguments, said)


def test_a_password_is_refused_on_the_command_line_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "oracle://me:sesame@127.0.0.1/job"
    cases: tuple[tuple[list[str], str], ...] = (
        (["--db", url], "GARIVINI_DB"),
        (["--db", f"2={url}"], "GARIVINI_DB"),
        (["--db", "postgresql://127.0.0.1/job?password=sesame"], "GARIVINI_DB"),
        ([], "oracle is not supported"),
    )
    for arguments, message in cases:
        monkeypatch.setenv("GARIVINI_DB", url)
        with pytest.raises(SystemExit) as ended:
            main(["jobs", "list", *arguments])
        output = capsys.readouterr()
        assert ended.value.code == 2
        assert message in output.err
        assert "sesame" not in output.err + output.out


def test_jobs_are_cancelled_rescheduled_and_deleted(url: str) -> None:
    client = Client(url)
    client.insert_jobs([["f", None, None, str(number)] for number in range(4)])
    assert invoke("jobs", "cancel", "1", "--reason", "customer left", "--db", url).exit_code == 0
    job = client.get_job((1, 1))
    assert job is not None
    assert job.state is State.DEAD
    assert [record.message for record in client.failures((1, 1))] == ["customer left"]
    assert "not changed" in invoke("jobs", "cancel", "1", "99", "--db", url).output
    (database,) = client.shards
    before = int(database.clock())
    assert invoke("jobs", "reschedule", "2", "--at", "+3600", "--db", url).exit_code == 0
    job = client.get_job((2, 1))
    assert job is not None
    # From the next whole second on.
    assert before + 3600 <= job.run_after <= database.clock() + 3601
    assert invoke("jobs", "reschedule", "3", "--at", "never", "--db", url).exit_code == 0
    assert [job.jobid for job in client.list_jobs(state="dead")] == [1, 3]
    refused = CliRunner().invoke(cli, ["jobs", "delete", "1", "--db", url], input="n\n")
    assert refused.exit_code == 1
    assert client.get_job((1, 1)) is not None
    assert invoke("jobs", "delete", "1", "4", "--yes", "--db", url).output == "2 deleted\n"
    assert client.get_job((1, 1)) is None
    assert client.failures((1, 1)) == []


def test_functions_are_set_reset_and_listed(url: str) -> None:
    Client(url).insert_job("f")
    arguments = ("--lease", "600", "--envelope", "raw", "--renews", "--max-failures", "3")
    assert invoke("functions", "set", "f", *arguments, "--db", url).exit_code == 0
    given = "--deadline 7200 --retention 3600 --max-running 5 --dead-retention 30 --rate 100/m --burst 10"
    given += " --partition-max-running 2 --partition-rate 10/s --partition-burst 3 --fair"
    others = given.split()
    assert invoke("functions", "set", "f", *others, "--db", url).exit_code == 0
    keys = "--unique-scope while_live --on-duplicate debounce --max-delay 300 --expires 60".split()
    keys += ["--cancel-grace", "9", "--coalesce-max", "20", "--coalesce-wait", "30"]
    assert invoke("functions", "set", "f", *keys, "--db", url).exit_code == 0
    (entry,) = json.loads(invoke("functions", "list", "-o", "json", "--db", url).output)
    assert entry == {
        "function": "f",
        "jobs": {"waiting": 1},
        "lease": 600,
        "deadline": 7200,
        "renews": True,
        "envelope": "raw",
        "max_failures": 3,
        "retention": 3600,
        "retry": None,
        "timeout": None,
        "max_running": 5,
        "dead_retention": 30,
        "partition_max_running": 2,
        "partition_rate": "10/s",
        "partition_burst": 3,
        "fair": True,
        "cancel_grace": 9,
        "coalesce_max": 20,
        "coalesce_wait": 30,
        "paused_until": None,
        "rate": "100/m",
        "burst": 10,
        "unique_scope": "while_live",
        "unique_window": None,
        "on_duplicate": "debounce",
        "max_delay": 300,
        "expires": 60,
    }
    table = invoke("functions", "list", "--db", url).output
    assert "1 waiting" in table
    assert "lease 600" in table
    shown = "retention 3600, max_running 5, dead_retention 30, rate 100/m, burst 10"
    assert shown in " ".join(table.split())
    assert "partition_max_running 2, partition_rate 10/s, partition_burst 3, fair true" in " ".join(
        table.split()
    )
    assert invoke("functions", "set", "f", "--reset", "--lease", "7", "--db", url).exit_code == 0
    (entry,) = json.loads(invoke("functions", "list", "-o", "json", "--db", url).output)
    assert (entry["lease"], entry["envelope"]) == (7, None)
    assert isinstance(invoke("functions", "set", "f", "--lease", "1", "--db", url).exception, UsageError)
    together = ["--unique-window", "60", "--on-duplicate", "one_more"]
    assert isinstance(invoke("functions", "set", "f", *together, "--db", url).exception, UsageError)


def test_functions_are_paused_and_resumed(url: str) -> None:
    client = Client(url)
    (database,) = client.shards
    assert invoke("functions", "pause", "f", "--no-wait", "--db", url).output == "f is paused\n"
    assert "f\t-\tpaused\n" in invoke("functions", "list", "--db", url).output
    assert "paused_until\t4294967295\tpause" in invoke("functions", "show", "f", "--db", url).output
    for time, seconds in (("90", 90), ("15m", 900), ("2d", 2 * 86400)):
        before = int(database.clock())
        assert invoke("functions", "pause", "f", "--for", time, "--no-wait", "--db", url).exit_code == 0
        end = database.functions()["f"].paused_until
        assert end is not None
        assert before + seconds <= end <= database.clock() + seconds + 1
    for time, end in (
        ("2030-01-02T03:04:05+00:00", 1893553445),
        ("2030-01-02T03:04:05Z", 1893553445),
        ("1893553445", 1893553445),
        ("2030-01-02T03:04", int(datetime(2030, 1, 2, 3, 4).astimezone().timestamp())),
    ):
        assert invoke("functions", "pause", "f", "--until", time, "--no-wait", "--db", url).exit_code == 0
        assert database.functions()["f"].paused_until == end
    assert "paused until 2030-01-02" in invoke("functions", "list", "--db", url).output
    assert invoke("functions", "resume", "f", "--db", url).output == "f is resumed\n"
    assert database.functions() == {}
    assert invoke("functions", "resume", "f", "--db", url).exit_code == 1
    for words in (("--for", "1w"), ("--until", "soon"), ("--for", "1h", "--until", "1893553445")):
        refused = invoke("functions", "pause", "f", *words, "--no-wait", "--db", url)
        assert isinstance(refused.exception, UsageError)


def test_functions_pause_now_says_how_many_jobs_it_took_back(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garivini.client.functions.RULES_APPLY_AFTER", 0.0)
    with Client(url) as client:
        client.insert_jobs([["f", None, None, b""]] * 2)
        (database,) = client.shards
        database.claim(Lane("f", State.WAITING, "normal", 0), limit=2, lease=60)
        paused = invoke("functions", "pause", "f", "--now", "--db", url)
        assert paused.output.endswith("f is paused, 2 jobs were taken back\n")
        assert {job.state for job in client.list_jobs()} == {State.WAITING}
    refused = invoke("functions", "pause", "f", "--now", "--no-wait", "--db", url)
    assert isinstance(refused.exception, UsageError)


def test_a_paused_function_is_no_fault_of_health(url: str) -> None:
    with embedded() as server, GearmanClient(server) as gearman:
        places = ("--db", url, "--job-server", server)
        client = Client(url)
        client.insert_job("f")
        gearman.submit([Submission(b"f", b"")])
        assert invoke("health", *places).exit_code == 1
        client.pause("f", wait=False)
        assert invoke("health", *places).exit_code == 0
        assert f"paused in {client.shards[1].where}: f\n" in invoke("status", *places).output
        store, _ = json.loads(invoke("status", "-o", "json", *places).output)
        assert store["paused"] == {"f": 4294967295}
        assert (store["jobs"], store["oldest_due_seconds"]) == ({"waiting": 1}, 0)


def test_health_and_status_answer_by_their_exit_status(url: str, tmp_path: Path) -> None:
    with embedded() as server:
        places = ("--db", url, "--job-server", server)
        assert invoke("health", *places).exit_code == 0
        Client(url).insert_job("f")
        (database,) = Client(url).shards
        with database.connections.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE job SET run_after = run_after - 500")
        late = invoke("health", *places)
        assert late.exit_code == 1
        assert "has been due for 50" in late.output
        # However long a job may wait: without a worker it does not run.
        patient = invoke("health", "--max-age", "1000", *places)
        assert patient.exit_code == 1
        assert "jobs of f are due, and no worker has this function" in patient.output
        seen = invoke("status", "-o", "json", *places)
        assert seen.exit_code == 0
        store, gearman = json.loads(seen.output)
        assert store["jobs"] == {"waiting": 1}
        assert store["oldest_due_seconds"] >= 500
        assert gearman == {"server": server, "error": "", "functions": {}}
        with GearmanClient(server) as client:
            client.submit([Submission(b"f", b"")])
        deserted = invoke("health", "--max-age", "1000", *places)
        assert deserted.exit_code == 1
        assert "jobs of f are queued, and no worker has this function" in deserted.output
        assert server in invoke("status", *places).output
    gone = invoke("health", *places)
    assert gone.exit_code == 2
    assert "Connection refused" in gone.output
    assert invoke("status", *places).exit_code == 1


def test_the_tables_are_checked_and_printed(url: str, tmp_path: Path) -> None:
    assert "as it should" in invoke("db", "check", "--db", url).output
    assert isinstance(invoke("db", "check", "--db", f"sqlite:///{tmp_path}/n.db").exception, SchemaError)
    printed = invoke("db", "sql", "sqlite").output
    assert printed == invoke("db", "sql", "sqlite").output
    other = sqlite3.connect(tmp_path / "printed.db")
    other.executescript(printed)
    other.close()
    assert "as it should" in invoke("db", "check", "--db", f"sqlite:///{tmp_path}/printed.db").output


def test_flags_come_before_the_environment_and_that_before_the_settings_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Client(url).insert_job("f")
    others = [f"sqlite:///{tmp_path}/{name}.db" for name in ("environment", "flag")]
    for other in others:
        invoke("db", "upgrade", "--db", other)
    settings = tmp_path / "garivini.toml"
    settings.write_text(f'databases = ["{url}"]\n[queue_runner]\nlease = 1\n')
    assert "1:1" in invoke("jobs", "list").output
    assert invoke("jobs", "list", GARIVINI_DB=others[0]).output == "no job\n"
    assert invoke("jobs", "list", "--db", others[1], GARIVINI_DB=others[0]).output == "no job\n"
    (tmp_path / "secret").write_text(url + "\n")
    settings.unlink()
    assert "1:1" in invoke("jobs", "list", GARIVINI_DB_FILE=str(tmp_path / "secret")).output
    other_file = tmp_path / "other.toml"
    other_file.write_text(f'databases = ["{url}"]\n[queue_runner]\nlease = 1\n')
    assert "1:1" in invoke("--config", str(other_file), "jobs", "list").output
    refused = invoke("--config", str(other_file), "run")
    assert "a lease is 3 s to a week, not 1" in str(refused.exception)


def test_a_settings_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "garivini.toml"
    for text, message in (
        ("databses = []", "key databses of the file is unknown; did you mean databases?"),
        ("job-servers = []", "did you mean job_servers?"),
        ("[queu_runner]\nlease = 1", "key queu_runner of the file is unknown; did you mean queue_runner?"),
        ("[queue_runner]\nleas = 1", "key leas of [queue_runner] is unknown; did you mean lease?"),
        ("[worker]\nnothing = 1", "key nothing of [worker] is unknown; it has drain, processes"),
        ("[queue_runner]\nlease = 'long'", "[queue_runner] lease is not a whole number, such as 60"),
        ("[queue_runner]\npoll = 'long'", "[queue_runner] poll is not a number, such as 1.5"),
        ("[injector]\njson_args = 'yes'", "[injector] json_args is not true or false"),
        ("[log]\nformat = 'xml'", '[log] format is not "text" or "json"'),
        ("databases = 'sqlite:///a.db'", 'databases is not a list of texts, such as ["one", "two"]'),
        ("databases = [1]", "databases is not a list of texts"),
        ("worker = 4", "worker is a table: write [worker] and its keys below"),
        ("databases = [\nx", "garivini.toml is not TOML at line 2, column 1"),
    ):
        file.write_text(text)
        result = invoke("--config", str(file), "jobs", "list")
        assert isinstance(result.exception, UsageError)
        assert message in str(result.exception)
        assert "$" not in str(result.exception)
    assert isinstance(invoke("--config", str(tmp_path / "none"), "jobs", "list").exception, UsageError)


def test_a_settings_file_with_a_password_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "garivini.toml"
    file.write_text('databases = ["mysql://me:sesame@127.0.0.1/job"]')
    file.chmod(0o644)
    result = invoke("--config", str(file), "db", "sql", "sqlite")
    assert "chmod 600" in result.stderr
    assert "sesame" not in result.output
    file.chmod(0o600)
    assert "chmod 600" not in invoke("--config", str(file), "db", "sql", "sqlite").output


def test_a_misspelt_variable_flag_or_command_is_said_with_the_right_one(url: str, tmp_path: Path) -> None:
    said = invoke("jobs", "list", GARIVINI_DB=url, GARIVINI_JOB_SERVER="h").stderr
    assert "GARIVINI_JOB_SERVER is unknown: did you mean GARIVINI_JOB_SERVERS?" in said
    assert invoke("jobs", "list", GARIVINI_DB=url, GARIVINI_COLOUR="red").stderr == ""
    assert "--state" in invoke("jobs", "list", "--stat", "dead", GARIVINI_DB=url).stderr
    wrong = invoke("insert", "f", GARIVINI_DB=url, GARIVINI_TLS_CA="none", GARIVINI_TLS_VERIFY_HOST="maybe")
    assert "GARIVINI_TLS_VERIFY_HOST is maybe: write yes or no" in str(wrong.exception)


def test_a_bare_job_id_is_in_the_only_database_and_needs_one_if_there_are_several(
    url: str, tmp_path: Path
) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    invoke("db", "upgrade", "--db", f"7={other}")
    assert invoke("insert", "f", "--db", f"7={other}").stdout == "7:1\n"
    assert "7:1" in invoke("jobs", "show", "1", "--db", f"7={other}").stdout
    assert "7:1" in invoke("jobs", "show", "7:1", "--db", url, "--db", f"7={other}").stdout
    for words in (["show", "1"], ["retry", "1"], ["cancel", "1"], ["delete", "1", "--yes"]):
        refused = invoke("jobs", *words, "--db", url, "--db", f"7={other}")
        assert "job 1 has no database, and there are several: write for example 1:1" in str(refused.exception)
    for wrong in ("x", "1:", ":1", "1:2:3", "-1", "1_0", " 1", "\u0661", "0", "1:0", "0:1", "9" * 25):
        refused = invoke("jobs", "show", "--db", url, "--", wrong)
        assert isinstance(refused.exception, UsageError), wrong
        assert "is not the id of a job: write 1:42" in str(refused.exception)


MODULE = """
import os, signal, time
from pathlib import Path
from garivini import Client, Worker

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])

@worker.function("note")
def note(job):
    Path(f"note-{job.arg.decode()}").touch()

@worker.function("hold")
def hold(job):
    Path(f"holding-{os.getpid()}").touch()
    while not Path("go-on").exists():
        time.sleep(0.01)

@worker.function("count")
def count(job):
    time.sleep(0.003)
    with open("counted", "a") as file:
        file.write(job.arg.decode() + "\\n")
    if job.arg == b"100":
        hold(job)

@worker.function("overrun", timeout=0.5)
def overrun(job):
    Path(f"overran-{time.monotonic_ns()}").touch()
    time.sleep(60)

@worker.function("deadly")
def deadly(job):
    Path(f"death-{time.monotonic_ns()}").touch()
    os.kill(os.getpid(), signal.SIGKILL)

@worker.function("die")
def die(job):
    if not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
class TestProcesses:
    """Commands as a user runs them."""

    def environment(self, url: str, tmp_path: Path) -> dict[str, str]:
        (tmp_path / "work.py").write_text(MODULE)
        return {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}"}

    def test_run_and_worker_carry_a_job_and_stop_cleanly(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        with (
            command(tmp_path, "run", **environment) as roles,
            command(tmp_path, "worker", "work.py", "-p", "2", **environment) as worker,
        ):
            roles.wait_for("role.started")
            worker.wait_for("worker.started", 2)  # one process is enough for the job
            assert run("insert", "note", "x", **environment).returncode == 0
            until((tmp_path / "note-x").exists)
            until(lambda: Client(url).list_jobs() == [])
            assert worker.stop() == 0
            assert worker.output.count("worker.stopped") == 2
            assert roles.stop() == 0
            assert "role.stopped" in roles.output

    def test_logs_are_json_on_request(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        with command(tmp_path, "run", "--log-format", "json", **environment) as roles:
            roles.wait_for("role.started")
            assert roles.stop() == 0
            entries = [json.loads(line) for line in roles.output.splitlines()]
        assert {"server.listening", "role.started", "role.stopped"} <= {entry["event"] for entry in entries}
        started, _ = [entry for entry in entries if entry["event"] == "role.started"]
        assert (started["role"], started["level"]) == ("queue-runner of database 1", "info")
        assert started["process"] == roles.process.pid

    def test_dev_runs_everything_and_reloads_the_module(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/new.db"
        environment = self.environment(url, tmp_path)
        with command(tmp_path, "dev", "work.py", **environment) as dev:
            dev.wait_for("worker.started")
            Client(url).insert_job("note", "before")
            until((tmp_path / "note-before").exists)
            changed = MODULE.replace('f"note-', 'f"changed-')
            replace_file(tmp_path / "work.py", changed)
            dev.wait_for("worker.started", 2)
            Client(url).insert_job("note", "after")
            until((tmp_path / "changed-after").exists)
            assert dev.stop(signal.SIGINT) == 0
            assert "worker.stopped" in dev.output

    def test_a_draining_worker_finishes_what_it_has_begun(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        with (
            command(tmp_path, "run", **environment),
            command(tmp_path, "worker", "work.py", "-p", "1", **environment) as worker,
        ):
            Client(url).insert_job("hold")
            until(lambda: list(tmp_path.glob("holding-*")))
            worker.process.send_signal(signal.SIGTERM)
            (tmp_path / "go-on").touch()
            assert worker.process.wait(PATIENCE) == 0
            assert Client(url).list_jobs() == []

    def test_a_second_signal_ends_a_worker_in_the_middle_of_a_job(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        with (
            command(tmp_path, "run", **environment),
            command(tmp_path, "worker", "work.py", "-p", "1", **environment) as worker,
        ):
            Client(url).insert_job("hold")
            until(lambda: list(tmp_path.glob("holding-*")))
            (holding,) = tmp_path.glob("holding-*")

            def ended() -> bool:
                # The first one drains, which lasts as long as the job; a later one ends it.
                worker.process.send_signal(signal.SIGTERM)
                return worker.process.poll() is not None

            until(ended)
            assert not alive(int(holding.name.removeprefix("holding-")))
            (job,) = Client(url).list_jobs()
            assert job.state is not State.DEAD

    def test_a_job_that_kills_its_worker_once_runs_again_in_another(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        with (
            command(tmp_path, "run", **environment),
            command(tmp_path, "worker", "work.py", "-p", "1", **environment) as worker,
        ):
            Client(url).insert_job("die")
            until((tmp_path / "died").exists)
            until(lambda: Client(url).list_jobs() == [])
            worker.wait_for("worker.child_died")

    def test_a_queue_runner_that_is_killed_loses_nothing(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        client = Client(url)
        with embedded(port=int(environment["GARIVINI_JOB_SERVERS"].rsplit(":", 1)[1])):
            roles = ("run", "queue-runner", "--lease", "3")
            with command(tmp_path, "worker", "work.py", "-p", "2", **environment):
                for start in range(0, 2000, 500):
                    with command(tmp_path, *roles, **environment) as queue_runner:
                        queue_runner.wait_for("role.started")
                        client.insert_jobs(["note", None, None, str(n)] for n in range(start, start + 500))
                        until(lambda start=start: (tmp_path / f"note-{start + 50}").exists())
                        queue_runner.process.kill()
                        queue_runner.process.wait()
                with command(tmp_path, *roles, **environment):
                    until(
                        lambda: client.list_jobs() == [],
                        lambda: client.list_jobs(limit=3),
                        progress=lambda: len(list(tmp_path.glob("note-*"))),
                    )
        assert len(list(tmp_path.glob("note-*"))) == 2000

    def test_a_def_function_that_runs_too_long_is_ended_and_backs_off(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        client = Client(url)
        with (
            command(tmp_path, "run", **environment),
            command(tmp_path, "worker", "work.py", "-p", "1", **environment) as worker,
        ):
            overrun = client.insert_job("overrun")
            worker.wait_for("worker.child_died")
            client.insert_job("note", "after")
            until((tmp_path / "note-after").exists)
            job = client.get_job((overrun.jobid, overrun.dbid))
            assert job is not None
            assert (job.state, job.failcount, job.crashes) == (State.WAITING, 1, 0)
            (failed,) = client.failures((overrun.jobid, overrun.dbid))
            assert (failed.error, failed.message) == ("TimeLimit", "ran longer than 0.5 s")
            assert "time.sleep(60)" in failed.trace
            # The server was told before the process ended, so it gave the copy to nobody else.
            assert len(list(tmp_path.glob("overran-*"))) == 1

    def test_a_job_that_kills_its_worker_every_time_is_dead_and_its_neighbours_go_on(
        self, url: str, tmp_path: Path
    ) -> None:
        environment = self.environment(url, tmp_path)
        client = Client(url)
        with (
            command(tmp_path, "run", **environment),
            command(tmp_path, "worker", "work.py", "-p", "2", **environment) as worker,
        ):
            deadly = client.insert_job("deadly")
            client.insert_jobs(["note", None, None, str(number)] for number in range(200))
            until(lambda: [job.funcname for job in client.list_jobs()] == ["deadly"])
            until(lambda: client.list_jobs(state="dead"), lambda: f"{client.list_jobs()}\n{worker.output}")
            job = client.get_job((deadly.jobid, deadly.dbid))
            assert job is not None
            assert job.crashes == 3
            assert len(list(tmp_path.glob("death-*"))) == 3
            record = client.failures((deadly.jobid, deadly.dbid))
            assert record[-1].error == "ProcessDied"
            assert "killed by signal 9 (SIGKILL)" in record[-1].message

    def test_what_is_done_before_a_long_job_is_not_done_again_when_its_process_dies(
        self, url: str, tmp_path: Path
    ) -> None:
        environment = self.environment(url, tmp_path)
        client = Client(url)
        with (
            command(tmp_path, "run", **environment),
            command(tmp_path, "worker", "work.py", "-p", "1", **environment),
        ):
            client.insert_jobs(["count", None, None, str(number)] for number in range(200))
            until(lambda: list(tmp_path.glob("holding-*")))
            (holding,) = tmp_path.glob("holding-*")
            done = len((tmp_path / "counted").read_text().split())
            # They are committed while the long job runs.
            until(lambda: len(client.list_jobs(limit=1000)) == 201 - done)
            os.kill(int(holding.name.removeprefix("holding-")), signal.SIGKILL)
            (tmp_path / "go-on").touch()
            until(lambda: client.list_jobs() == [])
            counted = (tmp_path / "counted").read_text().split()
            assert sorted(counted, key=int) == [str(number) for number in sorted([*range(200), 100])]

    def test_what_lies_behind_a_long_job_is_given_to_another_worker(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        client = Client(url)
        with (
            command(tmp_path, "run", "--lease", "3", **environment),
            command(tmp_path, "worker", "work.py", "-p", "2", **environment) as worker,
        ):
            # Quick jobs make the children hold many at a time.
            client.insert_jobs(["note", None, None, str(number)] for number in range(1000))
            until(lambda: client.list_jobs() == [], progress=lambda: len(list(tmp_path.glob("note-*"))))
            rows = [["hold", None, None, ""]] + [["note", None, None, f"behind-{n}"] for n in range(200)]
            client.insert_jobs(rows)
            until(lambda: len(list(tmp_path.glob("note-behind-*"))) == 200)
            until(lambda: [job.funcname for job in client.list_jobs()] == ["hold"])
            assert len(list(tmp_path.glob("holding-*"))) == 1
            (tmp_path / "go-on").touch()
            until(lambda: client.list_jobs() == [])
            assert "job.failed" not in worker.output

    def test_a_module_that_cannot_be_used_is_said_once(self, url: str, tmp_path: Path) -> None:
        environment = self.environment(url, tmp_path)
        (tmp_path / "empty.py").write_text("")
        for module, message in (
            ("empty.py", "no Worker"),
            ("none.such", "no module"),
            ("work:nobody", "no Worker named"),
        ):
            with command(tmp_path, "worker", module, **environment) as worker:
                assert worker.process.wait(PATIENCE) == 78
                assert message in worker.output

    def test_an_embedded_server_is_for_loopback_only(self, url: str, tmp_path: Path) -> None:
        result = run("run", "--db", url, "--job-server", "0.0.0.0:4730")
        assert result.returncode == 2
        assert "no authentication" in result.stderr


def test_jobs_show_says_how_many_records_were_not_kept(url: str) -> None:
    with Client(url) as client:
        at = client.insert_job("f")
        (database,) = client.shards
        for _ in range(60):
            (taken,) = database.claim(Lane("f", State.WAITING, "normal", 0), limit=1, lease=60)
            database.settle([Setback(handle=taken.handle, kind="rescheduled", when=Offset(0))])
        assert len(client.failures(at)) == 50
    output = invoke("jobs", "show", "1", "--db", url).output
    assert output.count("rescheduled") == 50
    before, _, after = output.partition("10 failures of later attempts were not kept")
    assert "attempt 10 rescheduled" in before
    assert "attempt 21 rescheduled" in after
    (shown,) = json.loads(invoke("jobs", "show", "1", "-o", "json", "--db", url).output)
    assert (len(shown["failures"]), shown["failures_omitted"]) == (50, 10)
