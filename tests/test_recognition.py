"""Jobs of another incarnation of their database: only rows that are recognised are written."""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, cast

import pytest
from msgspec.structs import replace

from garivini import Client, HandleLike, UsageError, events
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import Keeper
from garivini.keeper.supervised_child import Obituary, Slot, SupervisedChild
from garivini.model.job import Job
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Report, Setback, Success
from garivini.model.payload import encode_payload
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.id_watch import IdWatch
from garivini.roles.job_servers import JobServers
from garivini.roles.watermark import Watermark
from garivini.store.database import Database, Lane
from garivini.store.incarnations import UNKNOWN, ReplacedError
from tests.processes import until
from tests.system import upgraded

LANE = Lane("f", State.WAITING, "normal", 0)
#: The number of an incarnation that is over. A server has it with a probability of 2^-32.
OVER = 7


@pytest.fixture(params=["mariadb", "postgresql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.getfixturevalue(request.param).database() as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(upgraded(url)) as database:
        yield database


@pytest.fixture
def seen() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The events."""
    found: list[tuple[str, dict[str, Any]]] = []
    unlisten = events.listen(lambda name, fields: found.append((name, fields)))
    yield found
    unlisten()


def claimed(database: Database, count: int = 1, uniqkey: str | None = None) -> list[Job]:
    database.insert([new_job("f", b"x", uniqkey=uniqkey and f"{uniqkey}{number}") for number in range(count)])
    return database.claim(LANE, limit=count, lease=60)


def before(job: Job, **changed: Any) -> Job:
    """Return a job as an incarnation that is over has given it."""
    return replace(job, incarnation=OVER, **changed)


# ---- the database


def test_claim_returns_incarnation_and_time_of_the_insert(database: Database) -> None:
    (job,) = claimed(database)
    (row,) = database.jobs()
    assert job.incarnation == database.incarnation
    assert job.incarnation not in (None, UNKNOWN, OVER)
    assert job.created == row.created > 0


def test_insert_returns_the_incarnation(database: Database) -> None:
    answers = database.insert([new_job("f", b"", uniqkey=key) for key in (None, "k", "k")])
    assert [answer.incarnation for answer in answers] == [database.incarnation, database.incarnation, None]


def test_the_incarnation_is_known_after_the_first_read(database: Database) -> None:
    other = Database(database.connections._settings)
    assert other.incarnation == UNKNOWN
    assert other.jobs() == []
    assert other.incarnation == database.incarnation == other.expect()
    other.close()


@pytest.mark.parametrize(
    "changed", [{"created": 5}, {"funcname": "g"}, {"uniqkey": "z"}, {"attempt": 2}, {"arg": b"y"}]
)
def test_recognised_compares_what_tells_a_row_from_another(
    database: Database, changed: dict[str, Any]
) -> None:
    (job,) = claimed(database, uniqkey="k")
    other = replace(job, **changed)
    assert database.recognised([job, other]) == [job]
    assert [it is job for it in database.recognised([other, job])] == [True]


def test_recognised_leaves_out_jobs_without_a_row(database: Database) -> None:
    (job,) = claimed(database)
    database.complete([job.jobid])
    assert database.recognised([job]) == []


def test_recognised_ignores_arguments_that_a_controller_has_not_kept(database: Database) -> None:
    (job,) = claimed(database)
    assert database.recognised([replace(job, arg=b"")], arguments=False) != []


WRITES: Mapping[str, Callable[[Database, Job], Any]] = {
    "complete": lambda database, job: database.complete([job.jobid]),
    "finish": lambda database, job: database.finish([Success(job.jobid, 1, retention=9)]),
    "settle": lambda database, job: database.settle([Setback(handle=job.handle, kind="failed")]),
    "renew": lambda database, job: database.renew([job.handle], lease=60),
    "give_back": lambda database, job: database.give_back([job.handle]),
    "mark_leased": lambda database, job: database.mark_leased([job.handle]),
    "release": lambda database, job: database.release([job]),
    "end_early": lambda database, job: database.end_early([job.handle], lease=60),
    "report": lambda database, job: database.report([Report(job.handle, "data", b"x")]),
    "count_run": lambda database, job: database.count_run(job.handle),
    "extend": lambda database, job: database.extend([]),
    "reclaim": lambda database, job: database.reclaim([], lease=60),
}


def test_expecting_another_incarnation_writes_nothing(database: Database) -> None:
    (job,) = claimed(database)
    rows = database.jobs()
    for write in WRITES.values():
        with pytest.raises(ReplacedError):
            write(database.expecting(OVER), job)
    assert database.jobs() == rows
    assert database.failures(job.jobid) == []
    assert database.reports(job.jobid) == []


@pytest.mark.parametrize("name", ["complete", "settle", "release"])
def test_expecting_the_present_incarnation_writes(database: Database, name: str) -> None:
    (job,) = claimed(database)
    rows = database.jobs()
    WRITES[name](database.expecting(job.incarnation), job)
    assert database.jobs() != rows


# ---- the keeper


class Kept:
    """A keeper, and what it has reported."""

    def __init__(self, database: Database, child: SupervisedChild | None = None) -> None:
        self.ended: list[Execution] = []
        self.checked: list[tuple[Execution, bool]] = []
        self.given_back: list[Execution] = []
        self.unstarted: set[int] = set()
        self.keeper = Keeper(
            database,
            on_committed=self.ended.extend,
            on_checked=lambda execution, holds: self.checked.append((execution, holds)),
            take_back=lambda execution: execution.job.jobid in self.unstarted,
            on_given_back=self.given_back.extend,
            child=child,
        )

    def __enter__(self) -> "Kept":
        self.keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.keeper.stop() == 0

    def end(self, *executions: Execution) -> None:
        for execution in executions:
            self.keeper.end(execution)
        until(lambda: len(self.ended) == len(executions), "the commits")


def execution_of(job: Job) -> Execution:
    return Execution(job, cast(Any, None), "me")


def test_end_completes_a_job_of_another_incarnation_whose_row_is_recognised(
    database: Database, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    mine, others = claimed(database, 2)
    with Kept(database) as kept:
        kept.end(execution_of(before(mine)), execution_of(others))
    assert database.jobs() == []
    assert "outcomes.unrecognised" not in [name for name, _ in seen]


def test_end_completes_a_job_without_incarnation_by_its_id(database: Database) -> None:
    """As it comes from a QueueRunner of a version whose payloads have none, beside one of this version."""
    old, new = claimed(database, 2)
    with Kept(database) as kept:
        kept.end(execution_of(replace(old, incarnation=None, created=0)), execution_of(new))
    assert database.jobs() == []


def test_run_counts_no_start_of_a_job_of_another_incarnation(database: Database) -> None:
    strange, mine = claimed(database, 2)
    with Kept(database) as kept:
        with pytest.raises(ReplacedError):
            kept.keeper.job_calls.count_run(before(strange))
        assert kept.keeper.job_calls.count_run(mine) == 1
    assert [row.runs for row in database.jobs()] == [0, 1]


@pytest.mark.parametrize("kind", ["succeeded", "kept", "returned", "failed"])
def test_end_leaves_a_row_that_is_not_recognised(
    database: Database, seen: list[tuple[str, dict[str, Any]]], kind: str
) -> None:
    strange, known = claimed(database, 2)
    rows = database.jobs()
    execution = execution_of(before(strange, created=5))
    if kind == "failed":
        execution.setback = Setback(handle=strange.handle, kind="failed")
    execution.returned = kind == "returned"
    if kind == "kept":
        database.set_function("f", FunctionPolicy(retention=9))
    with Kept(database) as kept:
        kept.end(execution, execution_of(known))
    assert database.jobs() == rows[:1]
    assert database.failures(strange.jobid) == []
    assert database.finished(strange.jobid) is None
    assert [fields for name, fields in seen if name == "outcomes.unrecognised"] == [
        {"dbid": 1, "outcomes": 1}
    ]


def test_a_start_check_drops_a_copy_whose_row_is_not_recognised(database: Database) -> None:
    strange, mine = claimed(database, 2)
    first = execution_of(before(strange, arg=b"other"))
    second = execution_of(before(mine))
    with Kept(database) as kept:
        kept.end(execution_of(claimed(database)[0]))  # so that the incarnation is known
        assert kept.keeper.must_check(first)
        kept.keeper.check(first)
        kept.keeper.check(second)
        until(lambda: len(kept.checked) == 2, "the checks")
        assert second.job.incarnation == mine.incarnation
    assert sorted((it.job.jobid, holds) for it, holds in kept.checked) == [
        (strange.jobid, False),
        (mine.jobid, True),
    ]
    states = {row.jobid: row.state for row in database.jobs()}
    assert states == {strange.jobid: State.LEASED, mine.jobid: State.RUNNING}


def test_a_renewal_supersedes_a_job_whose_row_is_not_recognised(database: Database) -> None:
    strange, mine, late = claimed(database, 3)
    executions = [
        execution_of(before(strange, created=5)),
        execution_of(before(mine)),
        execution_of(before(late, created=5)),
    ]
    with Kept(database) as kept:
        kept.unstarted.add(late.jobid)
        for execution in executions:
            kept.keeper.hold(execution)
        until(lambda: executions[0].job.superseded and kept.given_back, "the first renewals")
    assert not executions[1].job.superseded
    assert executions[1].job.incarnation == mine.incarnation
    states = {row.jobid: row.state for row in database.jobs()}
    assert states == {strange.jobid: State.LEASED, mine.jobid: State.RUNNING, late.jobid: State.LEASED}


def test_a_report_of_a_job_whose_row_is_not_recognised_is_omitted(database: Database) -> None:
    strange, mine = claimed(database, 2)
    with Kept(database) as kept:
        for job in (before(strange, created=5), before(mine)):
            kept.keeper.report(Report(job.handle, "data", b"x", job))
        until(lambda: database.reports(mine.jobid), "the report")
    assert database.reports(strange.jobid) == []


def test_an_obituary_of_another_incarnation_is_not_recorded(database: Database) -> None:
    strange, mine = claimed(database, 2)
    obituaries = [
        Obituary(strange.handle, "crashed", "", OVER),
        Obituary(mine.handle, "crashed", "", mine.incarnation),
    ]
    child = SupervisedChild(-1, Slot(), obituaries, 1.0)
    with Kept(database, child):
        until(lambda: child.slot.read().recorded, "the obituaries")
    assert [row.crashes for row in database.jobs()] == [0, 1]


def test_a_replaced_database_is_written_after_the_rows_are_recognised(
    database: Database, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    """As if the keeper's connections had reached another incarnation before."""
    mine, strange = claimed(database, 2)
    rows = {row.jobid: row for row in database.jobs()}
    with Kept(database) as kept:
        recognition = kept.keeper._outcomes._writer._recognition
        until(lambda: recognition.current is not None, "the first round")
        recognition.current = recognition._database.connections._expected = OVER
        kept.end(execution_of(before(mine)), execution_of(before(strange, created=5)))
    assert database.jobs() == [rows[strange.jobid]]
    assert ("outcomes.unrecognised", {"dbid": 1, "outcomes": 1}) in seen


# ---- clients


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


FORMS: Mapping[str, Callable[[Job], HandleLike]] = {
    "job": lambda job: job,
    "bytes": encode_payload,
    "text": lambda job: encode_payload(job).decode(),
    "mapping": lambda job: json.loads(encode_payload(job)),
}
CALLS: Mapping[str, Callable[[Client, HandleLike], bool]] = {
    "complete_job": Client.complete_job,
    "failed_job": Client.failed_job,
    "reschedule_job": lambda client, handle: client.reschedule_job(handle, "+60"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_a_client_writes_no_outcome_to_a_row_that_is_not_recognised(
    database: Database, client: Client, seen: list[tuple[str, dict[str, Any]]], name: str, form: str
) -> None:
    strange, mine = claimed(database, 2, "k")
    rows = {row.jobid: row for row in database.jobs()}
    assert CALLS[name](client, FORMS[form](before(mine)))
    assert not CALLS[name](client, FORMS[form](before(strange, uniqkey="other")))
    left = {row.jobid: row for row in database.jobs()}
    assert left[strange.jobid] == rows[strange.jobid]
    assert left.get(mine.jobid) != rows[mine.jobid]
    assert database.failures(strange.jobid) == []
    assert seen.count(("outcomes.unrecognised", {"dbid": 1, "outcomes": 1})) == 1


def test_a_client_compares_if_its_database_was_replaced_since_its_last_call(
    database: Database, client: Client
) -> None:
    strange, mine, by_id = claimed(database, 3)
    assert client.list_jobs()
    client._shards[1].connections._incarnations._last = OVER
    assert client.complete_jobs([before(mine), before(strange, created=5), by_id.handle]) == 2
    assert [row.jobid for row in database.jobs()] == [strange.jobid]


# ---- roles


async def test_a_dispatcher_releases_no_job_of_a_database_that_was_replaced(
    database: Database, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    (job,) = claimed(database)
    rows = database.jobs()
    servers = JobServers(["127.0.0.1:1"])
    with ThreadPoolExecutor(1) as thread:
        dispatcher = Dispatcher(database, servers, Watermark(servers, 0), thread=thread)
        await dispatcher.send([before(job)], -1000.0)  # too late to submit it
        await dispatcher.park(before(job), "BadRow", "bad")
        database.connections._incarnations._last = OVER  # as if the row had been read there
        with pytest.raises(ReplacedError):
            dispatcher.park_row(job.jobid, UsageError("bad"))
        assert database.jobs() == rows
        assert [name for name, _ in seen if name == "dispatch.failed"] == ["dispatch.failed"] * 2
        await dispatcher.send([job], -1000.0)
        assert [row.state for row in database.jobs()] == [State.WAITING]
    await servers.close()


def test_note_reports_a_lower_id_of_a_newer_job_once(seen: list[tuple[str, dict[str, Any]]]) -> None:
    ids = IdWatch(3)
    for jobid, created in ((10, 100), (9, 101), (12, 100), (2, 90), (1, 0), (5, 102), (6, 103), (5, 104)):
        ids.note(jobid, created)
    assert seen == [("database.ids_restarted", {"dbid": 3, "jobid": 5, "highest": 12})]
