"""The client: every call of the original, as a Python program makes it, and what it never does."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from garivini import events
from garivini.client import Client
from garivini.errors import UnreachableError, UsageError
from garivini.model.handles import HandleLike
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job
from garivini.model.job_query import JobQuery
from garivini.model.limits import NEVER
from garivini.model.payload import encode_payload
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store.database import Lane
from tests.databases import sqlite_url


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with Client(sqlite_url(tmp_path)) as client:
        yield client


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Client]:
    """A client of two databases."""
    with Client([sqlite_url(tmp_path, "a.db"), sqlite_url(tmp_path, "b.db")]) as client:
        yield client


def dispatch(client: Client, funcname: str = "hello") -> bytes:
    """Claim one job as a QueueRunner does; return the payload that the worker receives."""
    (database,) = client.shards
    (job,) = database.claim(Lane(funcname, State.WAITING, "normal", 0), limit=1, lease=60)
    return encode_payload(job)


def look(client: Client, handle: HandleLike) -> Job:
    job = client.get_job(handle)
    assert job is not None
    return job


def wait_of(job: Job) -> float:
    """Return the seconds between the insert of a job and its time."""
    return job.run_after - job.created


# ---- the synopsis


def test_the_synopsis_of_the_original_works_in_python(tmp_path: Path) -> None:
    sqlite_url(tmp_path)
    dbs = {1: {"id": 1, "dsn": f"DBI:SQLite:dbname={tmp_path / 'jobs.db'}", "user": "job", "pass": "job"}}

    with Client(dbs=dbs) as cli:
        jobid, dbid = cli.insert_job(funcname="hello", arg="world")
        assert dbid == 1

    # The worker is another process with a client of its own.
    with Client(dbs=dbs) as cli:
        job = json.loads(dispatch(cli))
        assert (job["jobid"], job["dbid"], job["funcname"], job["arg"]) == (jobid, 1, "hello", "world")
        assert cli.complete_job(job)
        assert cli.list_jobs() == []


@pytest.mark.parametrize("form", ["mapping", "bytes", "text", "job", "pair", "list", "answer", "handle"])
def test_a_job_is_completed_by_any_form_of_its_handle(client: Client, form: str) -> None:
    answer = client.insert_job("hello", "world")
    other = client.insert_job("hello", "stays")
    payload = dispatch(client)
    handles: dict[str, HandleLike] = {
        "mapping": json.loads(payload),
        "bytes": payload,
        "text": payload.decode(),
        "job": look(client, answer),
        "pair": (answer.jobid, answer.dbid),
        "list": [answer.jobid, answer.dbid],  # type: ignore[dict-item]
        "answer": answer,
        "handle": Handle(answer.jobid, answer.dbid, 1),
    }
    assert client.complete_job(handles[form])
    assert not client.complete_job(handles[form])
    assert [job.jobid for job in client.list_jobs()] == [other.jobid]


def test_a_finished_job_is_completed_whoever_holds_it_now(client: Client) -> None:
    client.insert_job("hello")
    late = json.loads(dispatch(client))
    client.reschedule_job((late["jobid"], 1), "+0")
    dispatch(client)
    assert client.complete_job(late)


@pytest.mark.parametrize("url", ["sqlite", "mariadb", "postgresql"])
def test_complete_job_keeps_a_job_with_the_result_that_it_is_given(
    url: str, urls: Callable[[str], str]
) -> None:
    with Client(urls(url)) as client:
        client.shards[1].set_function("f", FunctionPolicy(retention=60))
        with_result, without, plain = (client.insert_job(name) for name in ("f", "f", "plain"))
        assert client.complete_job(with_result, "grün", worker="me")
        assert not client.complete_job(with_result, "again")
        assert client.complete_job(without)
        assert client.complete_job(plain, b"result")
        kept = client.result(with_result)
        assert kept is not None
        assert (kept.result, kept.worker, kept.expires - kept.finished_at) == ("grün".encode(), "me", 60)
        assert [client.result(job) for job in (without, plain)] == [None, None]
        assert client.list_jobs() == []


def test_complete_job_refuses_a_result_that_is_not_text_or_bytes(client: Client) -> None:
    job = client.insert_job("f")
    wrong: Any
    for wrong in (3, {"sum": 3}, "\ud800"):
        with pytest.raises(UsageError, match="result"):
            client.complete_job(job, wrong)
    nobody: Any = 7
    with pytest.raises(UsageError, match="worker"):
        client.complete_job(job, b"", worker=nobody)
    assert client.get_job(job) is not None


# ---- inserting


def test_an_inserted_job_has_what_was_given(client: Client) -> None:
    answer = client.insert_job(
        "f", b"\xff", run_after=90, unique="k", coalesce="c", flag="controller", priority="low"
    )
    job = look(client, answer)
    assert (job.funcname, job.arg, job.uniqkey, job.coalesce) == ("f", b"\xff", "k", "c")
    assert (job.flag, job.priority) == ("controller", "low")
    assert 90 <= wait_of(job) <= 91


def test_insert_job_and_insert_jobs_store_a_partition(client: Client) -> None:
    one = client.insert_job("f", partition="a")
    others = client.insert_jobs([{"funcname": "f", "partition": "b"}, {"funcname": "f", "partition": ""}])
    assert [look(client, answer).partition for answer in (one, *others)] == ["a", "b", None]
    assert [job.jobid for job in client.search_jobs(JobQuery(partition="b"))] == [others[0].jobid]


@pytest.mark.parametrize(
    ("partition", "reason"),
    [("p" * 201, "at most 200 bytes"), ("ü" * 101, "at most 200 bytes"), ("a\0", "NUL"), (b"a", "is a str")],
)
def test_insert_job_refuses_a_partition_that_cannot_be_stored(
    client: Client, partition: Any, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        client.insert_job("f", partition=partition)


def test_arguments_stand_in_the_order_of_the_original(client: Client) -> None:
    job = look(client, client.insert_job("f", "arg", 90, "k", "c", "controller"))
    assert (job.arg, job.uniqkey, job.coalesce, job.flag) == (b"arg", "k", "c", "controller")
    assert 90 <= wait_of(job) <= 91


def test_a_job_without_a_delay_is_due_at_once(client: Client) -> None:
    assert wait_of(look(client, client.insert_job("f"))) <= 0


def test_a_delay_may_be_a_timedelta(client: Client) -> None:
    job = look(client, client.insert_job("f", run_after=timedelta(minutes=2)))
    assert 120 <= wait_of(job) <= 121


def test_a_unique_key_answers_the_live_job_under_either_name(client: Client) -> None:
    first = client.insert_job("f", unique="k")
    assert first.new
    assert client.insert_job("f", uniqkey="k") == Inserted(first.jobid, 1, new=False)
    assert client.insert_job("f", unique="k", uniqkey="k") == Inserted(first.jobid, 1, new=False)
    assert client.insert_job("g", uniqkey="k").new


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"funcname": ""}, "function name"),
        ({"arg": {"a": 1}}, r"json\.dumps"),
        ({"run_after": -1}, "run_after"),
        ({"run_after": time.time()}, "seconds from now"),
        ({"unique": "a", "uniqkey": "b"}, "two names of the same argument"),
        ({"unique": "k" * 256}, "unique key"),
        ({"flag": "other"}, "flag"),
        ({"priority": "urgent"}, "priority"),
    ],
)
def test_a_job_that_cannot_be_stored_is_refused(
    client: Client, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        client.insert_job(**{"funcname": "f", **arguments})
    assert client.list_jobs() == []


def test_making_a_client_does_no_io(tmp_path: Path) -> None:
    Client(f"sqlite:///{tmp_path / 'jobs.db'}", job_servers="127.0.0.1:1")
    assert list(tmp_path.iterdir()) == []


# ---- inserting many


def test_rows_are_lists_or_mappings_and_answered_in_order(client: Client) -> None:
    answers = client.insert_jobs(
        [
            ["f", "k1", "c", "one"],
            ("g", None, None, b"two"),
            {"funcname": "h", "arg": "three", "unique": "k3", "coalesce": "c", "priority": "high"},
            {"funcname": "h", "uniqkey": "k4"},
            {"funcname": "h", "uniqkey": "k3"},
        ]
    )
    assert [answer.new for answer in answers] == [True, True, True, True, False]
    assert answers[4].jobid == answers[2].jobid
    assert [
        (job.funcname, job.uniqkey, job.coalesce, job.arg, job.priority)
        for job in (look(client, answer) for answer in answers[:4])
    ] == [
        ("f", "k1", "c", b"one", "normal"),
        ("g", None, None, b"two", "normal"),
        ("h", "k3", "c", b"three", "high"),
        ("h", "k4", None, b"", "normal"),
    ]


def test_one_delay_and_one_flag_are_those_of_all_rows(client: Client) -> None:
    rows: list[Any] = [["f", None, None, "1"], {"funcname": "f"}]
    for answer in client.insert_jobs(rows, 90, "controller"):
        job = look(client, answer)
        assert job.flag == "controller"
        assert 90 <= wait_of(job) <= 91


def test_rows_may_come_from_a_generator_and_may_be_none(client: Client) -> None:
    assert len(client.insert_jobs(["f", None, None, str(n)] for n in range(3))) == 3
    assert client.insert_jobs([]) == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"funcname": "f", "run_after": 5},
            "'run_after' is not one of arg, coalesce, expires, funcname, headers, partition",
        ),
        ({"funcname": "f", "uniq": "k", 5: 6}, "'uniq', 5 is not one of"),
        ({"arg": "x"}, "it has no funcname"),
        ({"funcname": "f", "unique": "a", "uniqkey": "b"}, "two names of the same argument"),
        (["f", None, None], "neither a mapping nor"),
        (["f", None, None, "x", 0], "neither a mapping nor"),
        ("fkca", "neither a mapping nor"),
        (b"fkca", "neither a mapping nor"),
        (5, "neither a mapping nor"),
        (None, "neither a mapping nor"),
        ({"f", "k", "c", "a"}, "neither a mapping nor"),
        (["f", None, None, {"a": 1}], r"json\.dumps"),
        (["", None, None, "x"], "function name"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_inserted(client: Client, row: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"job 1 of the list: .*{reason}.*; nothing was inserted"):
        client.insert_jobs([["f", None, None, "x"], row])
    assert client.list_jobs() == []


def test_jobs_spread_over_databases_and_are_found_again(two: Client) -> None:
    answers = two.insert_jobs([{"funcname": "f", "arg": str(n), "unique": f"k{n}"} for n in range(40)])
    assert {answer.dbid for answer in answers} == {1, 2}
    assert [look(two, answer).arg for answer in answers] == [b"%d" % n for n in range(40)]
    assert two.complete_jobs(answers) == 40
    assert two.complete_jobs(answers) == 0


# ---- completing


def test_many_jobs_are_completed_in_one_call(client: Client) -> None:
    answers = client.insert_jobs(["f", None, None, ""] for _ in range(5))
    assert client.complete_jobs(iter(answers[:3])) == 3
    assert client.complete_jobs([(answer.jobid, answer.dbid) for answer in answers]) == 2
    assert client.complete_jobs([]) == 0


def test_a_handle_that_is_none_or_of_an_unknown_database_completes_nothing(client: Client) -> None:
    answer = client.insert_job("f")
    wrong: Any
    for wrong in ((answer.jobid, 9), {"jobid": answer.jobid}, b"x", 5):
        with pytest.raises(UsageError):
            client.complete_jobs([answer, wrong])
    assert len(client.list_jobs()) == 1


# ---- another time


def test_a_job_rescheduled_to_never_is_parked_and_kept(client: Client) -> None:
    client.insert_job("hello", "world")
    payload = dispatch(client)
    assert client.reschedule_job(payload, "never")
    job = look(client, payload)
    assert (job.state, job.run_after, job.arg, job.failcount) == (State.DEAD, NEVER, b"world", 0)


@pytest.mark.parametrize("when", ["+360", timedelta(minutes=6)])
def test_a_job_is_rescheduled_to_seconds_from_now(client: Client, when: Any) -> None:
    client.insert_job("hello")
    payload = dispatch(client)
    before = int(time.time())
    assert client.reschedule_job(payload, when)
    job = look(client, payload)
    assert before + 360 <= job.run_after <= time.time() + 361
    assert (job.state, job.failcount) == (State.WAITING, 0)


@pytest.mark.parametrize("when", ["1313572984", 1313572984, datetime(2011, 8, 17, 9, 23, 4, tzinfo=UTC)])
def test_a_job_is_rescheduled_to_a_unix_time(client: Client, when: Any) -> None:
    client.insert_job("hello")
    payload = dispatch(client)
    assert client.reschedule_job(payload, when)
    assert look(client, payload).run_after == 1313572984


@pytest.mark.parametrize("when", ["soon", "+", -1, datetime(2030, 1, 1), None])
def test_a_wrong_time_changes_nothing(client: Client, when: Any) -> None:
    answer = client.insert_job("hello")
    before = look(client, answer)
    with pytest.raises(UsageError):
        client.reschedule_job(answer, when)
    assert look(client, answer) == before


def test_a_stale_handle_neither_reschedules_nor_fails(client: Client) -> None:
    client.insert_job("hello")
    late = dispatch(client)
    client.reschedule_job((json.loads(late)["jobid"], 1), "+0")
    now = dispatch(client)
    before = look(client, now)
    seen: list[str] = []
    stop = events.listen(lambda name, fields: seen.append(name))
    client.reschedule_job(late, "never")
    client.failed_job(late)
    stop()
    assert look(client, now) == before
    assert not {"job.failed", "job.rescheduled", "job.dead"} & set(seen)


# ---- failures


def test_a_failure_is_counted_and_waits_two_minutes_at_first(client: Client) -> None:
    client.insert_job("hello")
    payload = dispatch(client)
    before = int(time.time())
    assert client.failed_job(payload, "why")
    job = look(client, payload)
    assert (job.failcount, job.state) == (1, State.WAITING)
    assert before + 0.9 * 120 <= job.run_after <= time.time() + 1.1 * 120 + 1
    assert [(record.kind, record.message) for record in client.failures(payload)] == [("failed", "why")]


def test_a_failure_reported_twice_is_counted_once(client: Client) -> None:
    client.insert_job("hello")
    payload = dispatch(client)
    assert client.failed_job(payload)
    assert client.failed_job(payload)
    assert look(client, payload).failcount == 1


def test_an_exception_is_recorded_with_its_class_and_trace(client: Client) -> None:
    answer = client.insert_job("hello")
    try:
        raise KeyError("missing \ud800")
    except KeyError as error:
        client.failed_job(answer, error)
    (record,) = client.failures(answer)
    assert record.error == "KeyError"
    assert "missing" in record.message
    assert record.trace.startswith("Traceback")
    assert "test_an_exception_is_recorded" in record.trace


def test_an_exception_that_cannot_say_its_message_is_recorded_all_the_same(client: Client) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    answer = client.insert_job("hello")
    assert client.failed_job(answer, Odd())
    (record,) = client.failures(answer)
    assert record.error.endswith("Odd")
    assert "ValueError" in record.message


def test_a_job_that_is_gone_cannot_fail_nor_be_rescheduled(client: Client) -> None:
    assert not client.failed_job((999, 1))
    assert not client.reschedule_job((999, 1), "+5")
    assert client.get_job((999, 1)) is None
    assert client.failures((999, 1)) == []
    assert client.result((999, 1)) is None
    assert client.reports((999, 1)) == []


@pytest.mark.parametrize("when", ["failed", "never"])
def test_what_becomes_of_a_job_is_told_to_listeners(client: Client, when: str) -> None:
    client.insert_job("hello")
    payload = dispatch(client)
    seen: list[tuple[str, dict[str, Any]]] = []
    stop = events.listen(lambda name, fields: seen.append((name, fields)))
    if when == "failed":
        client.failed_job(payload, ValueError("x"))
    else:
        client.reschedule_job(payload, when)
    stop()
    name, fields = seen[-1]
    assert name == ("job.failed" if when == "failed" else "job.dead")
    assert (fields["jobid"], fields["dbid"], fields["attempt"]) == (json.loads(payload)["jobid"], 1, 1)


# ---- lists


def test_jobs_are_listed_by_function_state_and_page(client: Client) -> None:
    ids = [answer.jobid for answer in client.insert_jobs(["f", None, None, ""] for _ in range(3))]
    other = client.insert_job("g").jobid
    client.reschedule_job((ids[0], 1), "never")

    def listed(*arguments: Any, **options: Any) -> list[int]:
        return [job.jobid for job in client.list_jobs(*arguments, **options)]

    assert listed() == [*ids, other]
    assert listed("f") == ids
    assert listed("f", "dead") == listed(state="DEAD") == ids[:1]
    assert listed(state="waiting", after=ids[1]) == [ids[2], other]
    assert listed(limit=2) == ids[:2]
    assert listed("h") == []


def test_an_unknown_state_names_those_there_are(client: Client) -> None:
    with pytest.raises(UsageError, match="it is one of waiting, leased, running, suspect, dead"):
        client.list_jobs(state="done")


def test_failed_jobs_are_those_that_failed_once_or_are_dead(client: Client) -> None:
    fresh, failed, dead, other = (client.insert_job(name) for name in "fffg")
    client.failed_job(failed)
    client.reschedule_job(dead, "never")
    client.failed_job(other)

    def listed(*arguments: Any, **options: Any) -> list[int]:
        return [job.jobid for job in client.failed_jobs(*arguments, **options)]

    assert listed() == [failed.jobid, dead.jobid, other.jobid]
    assert listed("f") == [failed.jobid, dead.jobid]
    assert listed(after=failed.jobid, limit=1) == [dead.jobid]
    assert fresh.jobid not in listed()


def test_lists_reach_over_all_databases(two: Client) -> None:
    answers = two.insert_jobs([{"funcname": "f", "unique": f"k{n}"} for n in range(20)])
    for answer in answers:
        two.failed_job(answer)
    expected = {tuple(answer) for answer in answers}
    assert {(job.jobid, job.dbid) for job in two.list_jobs()} == expected
    assert {(job.jobid, job.dbid) for job in two.failed_jobs()} == expected


def test_a_dead_job_is_retried_and_a_running_one_is_not(client: Client) -> None:
    answer = client.insert_job("hello")
    client.reschedule_job(answer, "never")
    assert client.retry_job(answer)
    assert look(client, answer).state is State.WAITING
    payload = dispatch(client)
    assert not client.retry_job(payload)
    assert not client.retry_job((999, 1))


# ---- Gearman servers


def test_addresses_are_checked_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not the address of a Gearman server"):
        Client("sqlite:///jobs.db", "host:port")


# ---- life


def test_a_client_goes_on_after_it_was_closed(client: Client) -> None:
    client.insert_job("f")
    client.close()
    client.insert_job("f")
    assert len(client.list_jobs()) == 2


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    with (
        Client(f"sqlite:///{tmp_path / 'none' / 'jobs.db'}") as client,
        pytest.raises(UnreachableError, match="database 1"),
    ):
        client.insert_job("f")


def test_importing_garivini_does_not_import_sqlalchemy() -> None:
    program = (
        "import sys, garivini\ngarivini.Job, garivini.UsageError\nassert 'sqlalchemy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
