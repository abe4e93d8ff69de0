"""``garivini doctor``: each thing that is wrong is found, and said with what to change."""

import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from garivini import Client
from garivini.cli import cli
from garivini.cli.doctor import gearmand as start
from garivini.cli.doctor import sql
from garivini.cli.doctor.finding import Finding
from garivini.errors import ConflictError, OutcomeUnknownError
from garivini.gearman import packets
from garivini.gearman.blocking import Client as GearmanClient
from garivini.gearman.protocol import Submission
from tests.databases import sqlite_url
from tests.processes import PATIENCE, until
from tests.servers import embedded
from tests.sql_servers import MariaDB, PostgreSQL
from tests.system import upgraded


def examine(url: str, address: str) -> tuple[int, list[dict[str, Any]]]:
    arguments = ["doctor", "--job-server", address, "-o", "json"]
    result = CliRunner().invoke(cli, arguments, env={"GARIVINI_DB": url}, catch_exceptions=False)
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return result.exit_code, found


def faults(found: list[dict[str, Any]]) -> list[str]:
    return [finding["says"] for finding in found if finding["grade"] == "fault"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.fixture
def address() -> Iterator[str]:
    with embedded() as address:
        yield address


def test_a_sound_set_up_is_well(url: str, address: str) -> None:
    status, found = examine(url, address)
    assert (status, [finding["grade"] for finding in found]) == (0, ["ok", "ok"])


def test_it_leaves_nothing_in_the_database(url: str, address: str) -> None:
    examine(url, address)
    client = Client(url)
    assert client.list_jobs() == []
    assert client.insert_job("f").jobid == 1


def test_for_people_each_fault_has_what_to_do_below_it(tmp_path: Path, address: str) -> None:
    arguments = ["doctor", "--db", f"sqlite:///{tmp_path / 'empty.db'}", "--job-server", address]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 1
    assert "FAULT   database 1" in result.stdout
    assert "run `garivini db upgrade`" in result.stdout


def test_what_cannot_be_reached_is_a_fault(url: str) -> None:
    status, found = examine(url, "127.0.0.1:1")
    assert status == 1
    assert faults(found) == ["Gearman server 127.0.0.1:1 cannot be reached: Connection refused"]


def test_due_jobs_without_a_worker_are_a_fault(url: str, address: str) -> None:
    Client(url).insert_jobs([["resize", None, None, ""], ["mail", None, None, ""]], run_after=0)
    Client(url).insert_job("later", run_after=3600)
    _, found = examine(url, address)
    assert faults(found) == [
        "jobs of mail are due, and no worker has this function",
        "jobs of resize are due, and no worker has this function",
    ]


def test_dead_jobs_are_worth_a_word(url: str, address: str) -> None:
    client = Client(url)
    client.cancel_job(client.insert_job("f"))
    status, found = examine(url, address)
    assert (status, faults(found)) == (0, [])
    assert "1 job of f is dead" in [finding["says"] for finding in found]


def test_ids_that_start_again_are_a_fault(url: str, address: str) -> None:
    with GearmanClient(address) as client:
        uniques = [b"1:999:1", b"1:1000:2", b"2:5000:1", b"not one of ours"]
        client.submit([Submission(b"f", b"", unique) for unique in uniques])
    _, found = examine(url, address)
    # The jobs of f also wait for a worker, which is a fault of its own.
    (fault,) = [says for says in faults(found) if "ids start" in says]
    assert "ids start again: Gearman has 2 of its jobs from id 999 on, and the next insert gets 1" in fault


# ---- with health and status


def answers(url: str, address: str) -> tuple[int, list[str], int, str]:
    """Return the exit status and faults of doctor, and the exit status and words of health."""
    status, found = examine(url, address)
    health = CliRunner().invoke(cli, ["health", "--job-server", address], env={"GARIVINI_DB": url})
    return status, faults(found), health.exit_code, health.stderr


def test_doctor_and_health_agree_on_a_sound_set_up(url: str, address: str) -> None:
    Client(url).insert_job("later", run_after=3600)
    assert answers(url, address) == (0, [], 0, "")


def test_doctor_and_health_agree_on_a_due_job_without_a_worker(url: str, address: str) -> None:
    Client(url).insert_job("f")
    status, found, health, words = answers(url, address)
    assert (status, found, health) == (1, ["jobs of f are due, and no worker has this function"], 1)
    assert "jobs of f are due, and no worker has this function" in words


def test_doctor_and_health_agree_on_a_dispatched_job_without_a_worker(url: str, address: str) -> None:
    with Client(url, [address]) as client:
        client.insert_job("f")
    status, found, health, words = answers(url, address)
    assert (status, found, health) == (1, ["jobs of f are queued, and no worker has this function"], 1)
    assert found[0] in words


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("run_queued_job", "1 call of run_queued_job waits, and there is no Controller"),
        ("inject_jobs", "1 call of inject_jobs waits, and there is no Injector"),
    ],
)
def test_doctor_and_health_agree_on_a_role_that_is_missing(
    url: str, address: str, function: str, words: str
) -> None:
    with GearmanClient(address) as client:
        client.submit([Submission(function.encode(), b"")])
    status, found, health, said = answers(url, address)
    assert (status, found, health) == (1, [words], 1)
    assert words in said


def test_doctor_and_health_agree_on_a_job_that_nobody_takes(url: str, address: str) -> None:
    Client(url).insert_job("f")
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE job SET run_after = run_after - 70")
    with ability(address, b"f"):
        status, found, health, words = answers(url, address)
        assert (status, health) == (1, 1)
        assert re.fullmatch(r"a job of f has been due for 7\d s and there is no QueueRunner", found[0])
        assert "there is no QueueRunner" in words
        with ability(address, b"garivini_wake"):
            assert answers(url, address) == (0, [], 0, "")
            with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
                connection.execute("UPDATE job SET run_after = run_after - 300")
            status, found, health, words = answers(url, address)
            assert (status, health) == (1, 1)
            assert "and has not started" in found[0]
            assert "and has not started" in words


def test_doctor_health_and_status_agree_on_a_schedule_that_is_late(url: str, address: str) -> None:
    with Client(url) as client:
        for name in ("late", "paused", "early"):
            client.schedules.set(name, "f", every=3600)
        client.schedules.pause("paused")
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE schedule SET next_tick = strftime('%s', 'now') - 70 WHERE name <> 'early'")
    status, found, health, words = answers(url, address)
    assert (status, health) == (1, 1)
    (fault,) = found
    assert re.fullmatch(r"the tick of schedule late has been due for 7\d s", fault)
    assert fault in words
    seen = CliRunner().invoke(cli, ["status", "--job-server", address], env={"GARIVINI_DB": url})
    assert re.search(r"schedules whose tick is due in .*: late for 7\d seconds", seen.output)


def test_doctor_and_health_blame_a_server_that_is_down_for_itself_alone(url: str, address: str) -> None:
    Client(url).insert_job("f", run_after=0)
    down = "Gearman server 127.0.0.1:1 cannot be reached: Connection refused"
    assert answers(url, "127.0.0.1:1") == (1, [down], 2, f"{down}\n")
    # Nor if another one answers: the workers may be there.
    result = CliRunner().invoke(
        cli, ["health", "--job-server", address, "--job-server", "127.0.0.1:1"], env={"GARIVINI_DB": url}
    )
    assert (result.exit_code, result.stderr) == (2, f"{down}\n")


def test_doctor_health_and_status_agree_on_a_database_without_tables(tmp_path: Path, address: str) -> None:
    url = f"sqlite:///{tmp_path}/other.db"
    sqlite3.connect(tmp_path / "other.db").close()
    status, found, health, words = answers(url, address)
    assert (status, len(found), health) == (1, 1, 2)
    assert "garivini db upgrade" in found[0]
    assert words == f"{found[0]}\n"
    result = CliRunner().invoke(cli, ["status", "--db", url, "--job-server", address])
    assert result.exit_code == 1
    assert found[0] in result.stdout


def test_status_separates_due_delayed_and_backed_off_jobs(url: str, address: str) -> None:
    with Client(url) as client:
        client.insert_jobs([["f", None, None, ""]] * 3)
        client.insert_jobs([["f", None, None, ""]] * 2, run_after=600)
        client.failed_job((1, 1))
        arguments = ["status", "--db", url, "--job-server", address]
        shown = CliRunner().invoke(cli, arguments).stdout.splitlines()
        cells = dict(zip(shown[0].split("\t"), shown[1].split("\t"), strict=True))
        assert {name: cells[name] for name in ("due", "delayed", "backed off", "leased", "dead")} == {
            "due": "2",
            "delayed": "2",
            "backed off": "1",
            "leased": "0",
            "dead": "0",
        }
        entry = json.loads(CliRunner().invoke(cli, [*arguments, "-o", "json"]).stdout)[0]
        assert entry["waiting"] == {"due": 2, "delayed": 2, "backed_off": 1}
        assert entry["jobs"] == {"waiting": 5}


def test_status_hides_functions_of_its_own_unless_asked(url: str, address: str) -> None:
    with GearmanClient(address) as client:
        names = (b"garivini_wake", b"run_queued_job", b"inject_jobs", b"mine")
        client.submit([Submission(name, b"") for name in names])
    arguments = ["status", "--db", url, "--job-server", address, "-o", "json"]
    assert list(json.loads(CliRunner().invoke(cli, arguments).stdout)[1]["functions"]) == ["mine"]
    shown = json.loads(CliRunner().invoke(cli, [*arguments, "--all"]).stdout)[1]["functions"]
    assert sorted(shown) == ["garivini_wake", "inject_jobs", "mine", "run_queued_job"]


@contextmanager
def ability(address: str, function: bytes) -> Iterator[None]:
    """A worker of one function, which takes nothing."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as link:
        link.sendall(packets.encode(packets.REQUEST, packets.Type.CAN_DO, function))
        link.sendall(packets.encode(packets.REQUEST, packets.Type.ECHO_REQ, b"x"))
        assert link.recv(12)  # it has read the one before
        yield


# ---- grades


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (
            "-j 3 -R -t1 -L127.0.0.1",
            {"--job-retries": "3", "--round-robin": "", "--threads": "1", "--listen": "127.0.0.1"},
        ),
        ("--job-retries=3 --keepalive", {"--job-retries": "3", "--keepalive": ""}),
        ("--listen localhost -d", {"--listen": "localhost", "-d": ""}),
        ("", {}),
    ],
)
def test_the_options_of_gearmand_are_read_in_each_of_their_forms(words: str, options: dict[str, str]) -> None:
    assert start.options(["gearmand", *words.split()]) == options


def test_the_advised_start_has_nothing_to_change() -> None:
    options = start.options(["gearmand", *start.ADVISED.split()])
    assert list(start.grade_start("s", options)) == []


@pytest.mark.parametrize(
    ("changed", "grade"),
    [
        ({"--job-retries": "0"}, "fault"),
        ({"--listen": "0.0.0.0"}, "advice"),
        ({"--hashtable-buckets": "991"}, "advice"),
        ({"--queue-type": "MySQL"}, "advice"),
    ],
)
def test_one_wrong_option_is_one_finding_with_what_to_do(changed: dict[str, str], grade: str) -> None:
    options = start.options(["gearmand", *start.ADVISED.split()]) | changed
    (finding,) = start.grade_start("s", options)
    assert finding.grade == grade
    assert finding.do


@pytest.mark.parametrize("left_out", ["--round-robin", "--keepalive"])
def test_a_flag_that_is_left_out_is_a_finding(left_out: str) -> None:
    options = start.options(["gearmand", *start.ADVISED.split()])
    del options[left_out]
    assert len(list(start.grade_start("s", options))) == 1


SOUND = {
    "sqlite": {"version": "3.40.1", "journal_mode": "wal"},
    "mysql": {
        "version": "10.11.6-MariaDB-0+deb12u1",
        "innodb_flush_log_at_trx_commit": "1",
        "innodb_doublewrite": "ON",
        "read_only": "OFF",
        "max_allowed_packet": "67108864",
        "innodb_buffer_pool_size": "4294967296",
        "general_log": "OFF",
        "max_connections": "151",
        "job_engine": "InnoDB",
        "log_bin": "ON",
        "sync_binlog": "1",
        "job_collation": "utf8mb4_bin",
        "original_table": "1",
        "default_envelope": "latin-1",
        "wait_timeout": "28800",
        "stats_auto_recalc": "on",
        "original_index": "None",
        "functions_with_rules": "0",
        "snapshots": "hidden",  # from an ordinary user
    },
    "postgresql": {
        "version": "15.8 (Debian 15.8-0+deb12u1)",
        "fsync": "on",
        "full_page_writes": "on",
        "transaction_read_only": "off",
        "in_recovery": "false",
        "commits_without_standby": "0",
        "autovacuum": "on",
        "job_autovacuum": "true",
        "rows_not_analyzed": "0",
        "oldest_snapshot": "0",
        "snapshot_holder": "0",
        "role": "jobs",
        "synchronous_commit": "on",
        "settings_of_others": "none",
    },
}


@pytest.mark.parametrize("dialect", SOUND)
def test_a_sound_database_has_nothing_to_change(dialect: str) -> None:
    assert sql.grade(dialect, "d", SOUND[dialect]) == []


@pytest.mark.parametrize(
    ("dialect", "setting", "value", "grade"),
    [
        ("sqlite", "version", "3.34.0", "fault"),
        ("sqlite", "journal_mode", "delete", "fault"),
        ("mysql", "innodb_flush_log_at_trx_commit", "2", "fault"),
        ("mysql", "innodb_doublewrite", "OFF", "fault"),
        ("mysql", "read_only", "ON", "fault"),
        ("mysql", "sync_binlog", "0", "fault"),
        ("mysql", "max_allowed_packet", "16777216", "advice"),
        ("mysql", "innodb_buffer_pool_size", "134217728", "advice"),
        ("mysql", "general_log", "ON", "advice"),
        ("mysql", "wsrep_cluster_size", "2", "advice"),
        ("mysql", "job_collation", "latin1_swedish_ci", "advice"),
        ("mysql", "default_envelope", "not set", "fault"),
        ("mysql", "wait_timeout", "59", "advice"),
        ("mysql", "stats_auto_recalc", "off", "advice"),
        ("mysql", "group_replication_single_primary_mode", "OFF", "fault"),
        ("mysql", "group_replication_consistency", "EVENTUAL", "advice"),
        ("mysql", "functions_with_rules", "1", "advice"),
        ("sqlite", "network_file_system", "fuse.sshfs", "fault"),
        ("postgresql", "version", "12.20", "fault"),
        ("postgresql", "fsync", "off", "fault"),
        ("postgresql", "full_page_writes", "off", "fault"),
        ("postgresql", "transaction_read_only", "on", "fault"),
        ("postgresql", "in_recovery", "true", "fault"),
        ("postgresql", "synchronous_standbys", "0", "fault"),
        ("postgresql", "commits_without_standby", "3", "fault"),
        ("postgresql", "autovacuum", "off", "fault"),
        ("postgresql", "rows_not_analyzed", "10000", "advice"),
    ],
)
def test_one_wrong_setting_is_one_finding_that_names_it(
    dialect: str, setting: str, value: str, grade: str
) -> None:
    (finding,) = sql.grade(dialect, "d", SOUND[dialect] | {setting: value})
    assert isinstance(finding, Finding)
    assert finding.grade == grade
    assert setting in finding.says
    assert value in finding.says
    assert finding.do


def test_a_setting_that_a_database_does_not_have_is_no_fault() -> None:
    assert sql.grade("mysql", "d", {"innodb_doublewrite": "ON"}) == []


def test_connections_to_several_nodes_of_a_cluster_are_a_fault() -> None:
    assert list(sql.grade_nodes("d", frozenset())) == []
    assert list(sql.grade_nodes("d", frozenset(("a",)))) == []
    (finding,) = sql.grade_nodes("d", frozenset(("b", "a")))
    assert (finding.grade, "cluster: a, b." in finding.says, bool(finding.do)) == ("fault", True, True)


def test_sync_binlog_matters_only_where_there_is_a_binary_log() -> None:
    assert sql.grade("mysql", "d", SOUND["mysql"] | {"log_bin": "OFF", "sync_binlog": "0"}) == []


# ---- servers


@pytest.mark.parametrize("kind", ["sqlite", "mariadb", "postgresql"])
def test_a_database_tells_every_setting_that_is_graded(
    kind: str, url: str, mariadb: MariaDB, postgresql: PostgreSQL
) -> None:
    with ExitStack() as stack:
        if kind != "sqlite":
            server = mariadb if kind == "mariadb" else postgresql
            url = stack.enter_context(server.database())
        database = stack.enter_context(closing(upgraded(url)))
        facts = database.facts()
        assert set(facts) == set(SOUND[database.dialect])


def test_a_mariadb_that_may_lose_commits_is_a_fault(own_mariadb: MariaDB, address: str) -> None:
    with own_mariadb.database() as url:
        upgraded(url).close()
        status, found = examine(url, address)
        assert (status, faults(found)) == (0, [])
        own_mariadb.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        status, found = examine(url, address)
    assert status == 1
    (fault,) = faults(found)
    assert fault.startswith("innodb_flush_log_at_trx_commit is 2: a crash may undo a commit")


def test_a_postgresql_that_takes_no_jobs_is_a_fault(own_postgresql: PostgreSQL, address: str) -> None:
    with own_postgresql.database() as url:
        upgraded(url).close()
        assert examine(url, address)[0] == 0
        own_postgresql.set_read_only(True)
        status, found = examine(url, address)
    assert status == 1
    assert any(fault.startswith("transaction_read_only is on: it accepts no jobs") for fault in faults(found))


@pytest.mark.servers
def test_a_postgresql_whose_synchronous_standby_is_gone_is_a_fault(
    address: str,
) -> None:
    """Inserts are stored, yet their outcome is unknown, and the session of each waits on."""

    def set_standbys(names: str) -> None:
        server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        server.execute("SELECT pg_reload_conf()")
        until(lambda: server.execute("SHOW synchronous_standby_names") == [(names,)])

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with (
        PostgreSQL("wal_level=replica", "max_wal_senders=5") as server,
        server.database() as url,
        Client(f"{url}?read_timeout=1&options=-c%20lock_timeout=200ms") as client,
    ):
        upgraded(url).close()
        set_standbys("gone")
        try:
            with pytest.raises(OutcomeUnknownError):
                client.insert_job("f", run_after=3600, unique="k")
            with pytest.raises(ConflictError):
                client.insert_job("f", run_after=3600, unique="k")
            assert client.list_jobs() == []  # nobody sees it before its commit is over
            assert server.execute(waiting) == [(1,)]
            until(lambda: "commits_without_standby is 1" in "".join(faults(examine(url, address)[1])))
            assert any(
                one.startswith("synchronous_standbys is 0") for one in faults(examine(url, address)[1])
            )
        finally:
            set_standbys("")  # the advice
        until(lambda: server.execute(waiting) == [(0,)])
        assert len(client.list_jobs()) == 1
        assert examine(url, address)[0] == 0
        assert not client.insert_job("f", run_after=3600, unique="k").new
