"""The keeper when something is wrong with one outcome: that one waits or is reduced, and all else goes on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any, Final, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import Engine, create_engine

from garivini import Client, events
from garivini.keeper.execution import Execution
from garivini.keeper.functions import Registration
from garivini.keeper.keeper import Keeper
from garivini.keeper.supervised_child import Obituary, Slot, SupervisedChild
from garivini.model.job import Handle, Job
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Setback
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.model.when import At, Never, Offset
from garivini.store.database import Database
from tests.databases import sqlite_url
from tests.processes import PATIENCE, SOON
from tests.sql_servers import SERVERS, MariaDB, MariaDBOrMySQL, SQLServer
from tests.system import upgraded

DRIVERS: Final = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}


@pytest.fixture
def seen() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    unlisten = events.listen(lambda name, fields: found.append((name, fields)))
    yield found
    unlisten()


class Kept:
    """A keeper of a database, and what it has said."""

    def __init__(self, target: Any, **options: Any) -> None:
        self.client = Client(target)
        (self.database,) = self.client.shards
        self.committed: Queue[Execution] = Queue()
        self.checked: Queue[tuple[Execution, bool]] = Queue()
        self.keeper = Keeper(
            self.database,
            on_committed=self._take,
            on_checked=lambda run, mine: self.checked.put((run, mine)),
            take_back=lambda run: False,
            on_given_back=lambda runs: None,
            **options,
        )

    def _take(self, runs: list[Execution]) -> None:
        for run in runs:
            self.committed.put(run)

    def runs(self, count: int, lease: int = 60) -> list[Execution]:
        """Insert so many jobs that are leased, and return their runs."""
        new = replace(new_job("f", b""), lease=lease)
        answers = self.database.insert([new] * count)
        return [Execution(Job.from_insert(new, answer), cast(Any, None), "me") for answer in answers]

    def get(self, count: int, within: float = SOON) -> list[Execution]:
        """Wait for so many committed runs."""
        deadline = time.monotonic() + within
        return [self.committed.get(timeout=max(0.001, deadline - time.monotonic())) for _ in range(count)]

    def join(self) -> None:
        """Wait for a thread that a stop has not waited for: it would go on beside other tests."""
        self.keeper._thread.join(PATIENCE)
        assert not self.keeper._thread.is_alive()

    def close(self) -> None:
        for job in self.database.jobs(limit=10_000):
            self.database.complete([job.jobid])
        self.client.close()


@pytest.fixture(params=["sqlite", *SERVERS])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kept(urls: Callable[[str], str], name: str) -> Iterator[Kept]:
    """A keeper whose thread is not running yet."""
    kept = Kept(urls(name))
    yield kept
    if kept.keeper._thread.ident is not None:
        kept.keeper.stop()
    kept.close()


def engine_of(url: str, query: str = "") -> Engine:
    scheme, _, rest = url.partition("://")
    return create_engine(f"{DRIVERS[scheme]}://{rest}{query}")


@contextmanager
def locked(url: str, jobids: list[int], table: str = "job") -> Iterator[None]:
    engine = engine_of(url)
    with engine.connect() as connection, connection.begin() as transaction:
        for jobid in jobids:
            connection.exec_driver_sql(f"SELECT 1 FROM {table} WHERE jobid = {jobid} FOR UPDATE")
        yield
        transaction.rollback()
    engine.dispose()


def fail(run: Execution, **fields: Any) -> None:
    run.setback = Setback(**{"handle": run.job.handle, "kind": "failed", "message": "no", **fields})


def give_back(run: Execution) -> None:
    run.returned = True


# ---- locks


@pytest.mark.parametrize("name", SERVERS, indirect=True)
@pytest.mark.parametrize("end", [lambda run: None, fail, give_back], ids=["success", "failure", "return"])
def test_a_locked_row_delays_its_own_outcome_alone(
    kept: Kept, urls: Callable[[str], str], name: str, end: Callable[[Execution], None]
) -> None:
    runs = kept.runs(20)
    for run in runs:
        end(run)
    taken = {runs[3].job.jobid, runs[11].job.jobid}
    with locked(urls(name), sorted(taken)):
        kept.keeper.start()
        for run in runs:
            kept.keeper.end(run)
        ended = {run.job.jobid for run in kept.get(18)}
        assert ended.isdisjoint(taken)
        # And those that end from now on do not wait for the lock at all.
        more = kept.runs(3)
        for run in more:
            kept.keeper.end(run)
        assert len(kept.get(3, 1.0)) == 3
    assert {run.job.jobid for run in kept.get(2)} == taken


@pytest.mark.parametrize("name", SERVERS, indirect=True)
def test_a_locked_record_delays_the_outcome_of_its_job_alone(
    kept: Kept, urls: Callable[[str], str], name: str
) -> None:
    """As an operator's clean-up of old records would hold it."""
    runs = kept.runs(20)
    kept.database.settle([Setback(handle=run.job.handle, kind="crashed") for run in runs[:10]])
    with locked(urls(name), [runs[3].job.jobid], "failure"):
        kept.keeper.start()
        for run in runs:
            kept.keeper.end(run)
        assert runs[3] not in kept.get(19)
    assert kept.get(1) == [runs[3]]


@pytest.mark.parametrize("name", SERVERS, indirect=True)
def test_a_locked_row_delays_its_own_renewal_and_start_check_alone(
    kept: Kept, urls: Callable[[str], str], name: str
) -> None:
    runs = kept.runs(6, lease=3)
    held, asked = runs[:3], runs[3:]
    with locked(urls(name), [held[0].job.jobid, asked[0].job.jobid]):
        kept.keeper.start()
        for run in held:
            kept.keeper.hold(run)
        for run in asked:
            kept.keeper.check(run)
        assert {kept.checked.get(timeout=SOON) for _ in range(2)} == {(run, True) for run in asked[1:]}
        deadline = time.monotonic() + PATIENCE
        while [kept.database.get(run.job.jobid).state for run in held[1:]] != [State.RUNNING] * 2:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
            time.sleep(0.05)  # a renewed row says nothing
    assert kept.checked.get(timeout=SOON) == (asked[0], True)
    while (job := kept.database.get(held[0].job.jobid)) is None or job.state is not State.RUNNING:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not any(run.job.superseded for run in runs)
    for run in runs:
        kept.keeper.end(run)


@pytest.mark.parametrize("name", SERVERS, indirect=True)
def test_a_locked_row_delays_no_obituary_of_another(
    urls: Callable[[str], str], name: str, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    first = Kept(urls(name))
    runs = first.runs(3)
    obituaries = [Obituary(run.job.handle, "crashed", "killed") for run in runs]
    child = SupervisedChild(-1, Slot(), list(obituaries), 30.0)
    kept = Kept(urls(name), child=child)
    with locked(urls(name), [runs[1].job.jobid]):
        kept.keeper.start()
        deadline = time.monotonic() + SOON
        while child.obituaries != [obituaries[1]]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    while child.obituaries:
        assert time.monotonic() < deadline + SOON
        time.sleep(0.02)
    kept.keeper.stop()
    assert child.slot.read()[2]
    kept.close()
    first.close()


# ---- what a database does not take


@pytest.mark.parametrize("name", SERVERS, indirect=True)
def test_a_text_that_the_connection_cannot_carry_is_stored_in_ascii(
    urls: Callable[[str], str], name: str, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    query = "?charset=latin1" if name == "mariadb" else "?client_encoding=latin1"
    engine = engine_of(urls(name), query)
    kept = Kept(engine)
    runs = kept.runs(5)
    fail(runs[2], message="\U0001f600", error="ValueError")
    kept.keeper.start()
    for run in runs:
        kept.keeper.end(run)
    assert set(map(id, kept.get(5))) == set(map(id, runs))
    (failure,) = kept.database.failures(runs[2].job.jobid)
    assert (failure.error, failure.message) == ("ValueError", "\\U0001f600")
    assert [fields["jobid"] for event, fields in seen if event == "outcome.reduced"] == [runs[2].job.jobid]
    kept.keeper.stop()
    kept.close()
    engine.dispose()


def _refuse_changes(server: SQLServer, database: str) -> None:
    """Refuse each delete of a job and each record of a failure, by triggers."""
    if server.scheme == "mysql":
        body = "FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not now'"
    else:
        body = "FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        server.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN RAISE EXCEPTION ''not now''; END'",
            database,
        )
    server.execute(f"CREATE TRIGGER refuse_delete BEFORE DELETE ON job {body}", database)
    server.execute(f"CREATE TRIGGER refuse_insert BEFORE INSERT ON failure {body}", database)


def _allow_changes(server: SQLServer, database: str) -> None:
    for name, table in (("refuse_delete", "job"), ("refuse_insert", "failure")):
        on = "" if server.scheme == "mysql" else f" ON {table}"
        server.execute(f"DROP TRIGGER {name}{on}", database)


#: How a database refuses all outcomes and takes them again, and the event that shows it.
_WAYS_TO_REFUSE: Final[dict[str, tuple[Callable[..., None], Callable[..., None], str]]] = {
    "read-only": (
        lambda server, _: server.set_read_only(True),
        lambda server, _: server.set_read_only(False),
        "role.error",
    ),
    "by a trigger": (_refuse_changes, _allow_changes, "outcomes.put_aside"),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", _WAYS_TO_REFUSE)
@pytest.mark.parametrize("own", ["own_mariadb", "own_postgresql"])
def test_outcomes_wait_whole_for_a_database_that_refuses_all_writes(
    request: pytest.FixtureRequest, own: str, how: str, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    server: SQLServer = request.getfixturevalue(own)
    url = server.create_database()
    upgraded(url).close()
    kept = Kept(url)
    runs = kept.runs(60)
    for run in runs[:20]:
        fail(run, message="\U0001f600")
    kept.keeper.start()
    kept.keeper.end(runs.pop())
    kept.get(1)
    refuse, allow, event = _WAYS_TO_REFUSE[how]
    refuse(server, url.rpartition("/")[2])
    for run in runs:
        kept.keeper.end(run)
    deadline = time.monotonic() + PATIENCE
    while not any(name == event for name, _ in seen):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    allow(server, url.rpartition("/")[2])
    assert set(map(id, kept.get(len(runs), PATIENCE))) == set(map(id, runs))
    messages = [kept.database.failures(run.job.jobid)[0].message for run in runs[:20]]
    assert messages == ["\U0001f600"] * 20
    names = [event for event, _ in seen]
    assert "role.error" in names
    assert not {"outcome.dropped", "outcome.reduced"} & set(names)
    kept.keeper.stop()
    kept.close()


@pytest.mark.slow
@pytest.mark.servers
def test_a_failure_of_any_length_is_stored_where_statements_must_be_short() -> None:
    with MariaDBOrMySQL("max-allowed-packet=262144") as server:
        url = server.create_database()
        upgraded(url).close()
        kept = Kept(url)
        runs = kept.runs(2)
        fail(runs[0], message="\U0001f600" * 500_000, trace="'" * 500_000)
        kept.keeper.start()
        for run in runs:
            kept.keeper.end(run)
        assert set(map(id, kept.get(2))) == set(map(id, runs))
        (failure,) = kept.database.failures(runs[0].job.jobid)
        assert len(failure.message) == len(failure.trace) >= 1000
        kept.keeper.stop()
        kept.close()


@pytest.mark.parametrize("name", SERVERS, indirect=True)
def test_all_goes_on_when_a_lock_on_the_whole_table_ends(
    kept: Kept, urls: Callable[[str], str], name: str
) -> None:
    runs = kept.runs(20)
    fail(runs[0])
    kept.keeper.start()
    engine = engine_of(urls(name))
    lock = "LOCK TABLES job WRITE" if name == "mariadb" else "LOCK TABLE job IN ACCESS EXCLUSIVE MODE"
    with engine.connect() as connection:
        connection.exec_driver_sql(lock)
        for run in runs:
            kept.keeper.end(run)
        time.sleep(1.0)
        assert kept.committed.empty()
        if name == "mariadb":
            connection.exec_driver_sql("UNLOCK TABLES")
        connection.rollback()
    engine.dispose()
    assert set(map(id, kept.get(20, PATIENCE))) == set(map(id, runs))


IDS: Final = st.sampled_from([None, 0, -1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, "x", 1.5, b"1"])
TEXTS: Final = st.one_of(
    st.sampled_from(["\0", "\ud800", "\U0001f600", "x" * 100_000, "ü" * 70_000, None, 5, b"bytes"]),
    st.text(max_size=5),
)
WHENS: Final = st.sampled_from(
    [None, Never(), Offset(-1), Offset(2**40), At(-5), At(0), At(2**32), At(2**63), Offset(0)]
)


@st.composite
def wrongs(draw: st.DrawFn) -> Callable[[Execution], Execution]:
    """Make an outcome wrong in some way."""
    fields = draw(
        st.fixed_dictionaries(
            {}, optional={"jobid": IDS, "attempt": IDS, "run_after": IDS, "dbid": IDS, "funcname": TEXTS}
        )
    )
    kind = draw(st.sampled_from(["success", "returned", "failed", "rescheduled", "discarded"]))
    texts = draw(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("error", "message", "trace", "worker"), TEXTS))
    )
    when = draw(WHENS)

    def wrong(run: Execution) -> Execution:
        job = replace(run.job, **fields)
        bad = Execution(job, run.held, run.worker, returned=kind == "returned")
        if kind not in ("success", "returned"):
            handle = Handle(job.jobid, job.dbid, job.attempt)
            bad.setback = Setback(handle=handle, kind=cast(Any, kind), when=when)
            for name, text in texts.items():  # past the checks of the constructor
                object.__setattr__(bad.setback, name, text)
        return bad

    return wrong


@pytest.fixture(scope="module", params=["sqlite", *SERVERS])
def running(request: pytest.FixtureRequest, urls: Callable[[str], str]) -> Iterator[Kept]:
    """A keeper that runs, for many examples."""
    kept = Kept(urls(request.param))
    kept.keeper.start()
    yield kept
    kept.keeper.stop(0.1)
    kept.join()
    kept.close()


@pytest.mark.slow
@settings(max_examples=60)
@given(wrong=wrongs(), place=st.integers(0, 5))
def test_one_outcome_that_is_wrong_in_any_way_leaves_all_others_going_on(
    running: Kept, wrong: Callable[[Execution], Execution], place: int
) -> None:
    good, (victim,), (asked,) = running.runs(5), running.runs(1), running.runs(1)
    runs: list[Execution] = [*good]
    runs.insert(place, wrong(victim))
    for run in runs:
        running.keeper.end(run)
    running.keeper.check(asked)
    left = set(map(id, good))
    deadline = time.monotonic() + SOON
    while left:
        left.discard(id(running.committed.get(timeout=max(0.001, deadline - time.monotonic()))))
    while running.checked.get(timeout=max(0.001, deadline - time.monotonic())) != (asked, True):
        pass


def test_a_lease_is_the_one_that_is_set_and_not_the_payloads(kept: Kept) -> None:
    kept.database.set_function("f", FunctionPolicy(lease=30))
    try:
        (run,) = kept.runs(1)
        run.job = replace(run.job, lease=600_000)
        kept.keeper.read_functions()
        kept.keeper.start()
        deadline = time.monotonic() + PATIENCE
        while kept.keeper.functions.policies is None and time.monotonic() < deadline:
            time.sleep(0.01)
        kept.keeper.check(run)
        assert kept.checked.get(timeout=PATIENCE) == (run, True)
        job = kept.database.get(run.job.jobid)
        assert job is not None
        assert job.run_after - kept.database.clock() <= 31
    finally:
        kept.database.unset_function("f")


def test_a_job_that_goes_back_is_due_whatever_its_payload_says(kept: Kept) -> None:
    runs = kept.runs(1)
    runs[0].job = replace(runs[0].job, run_after=2**32 - 1)
    give_back(runs[0])
    kept.keeper.start()
    kept.keeper.end(runs[0])
    kept.get(1, PATIENCE)
    job = kept.database.get(runs[0].job.jobid)
    assert job is not None
    assert job.state is State.WAITING
    # The keeper's idea of that clock is ahead by as long as it took to read it.
    assert job.run_after <= kept.database.clock() + SOON


# ---- many at once


def test_copies_without_an_attempt_are_adopted_together(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    adopt = Database.adopt

    def counted(self: Database, jobids: Any, **named: Any) -> list[Job]:
        calls.append(len(jobids))
        return adopt(self, jobids, **named)

    monkeypatch.setattr(Database, "adopt", counted)
    runs = kept.runs(50)
    for run in runs:
        run.job = replace(run.job, attempt=None, lease=0, arg=b"the copy's")
        kept.keeper.check(run)
    kept.keeper.start()
    for _ in runs:
        run, mine = kept.checked.get(timeout=PATIENCE)
        assert (mine, run.job.attempt, run.job.arg, run.job.lease) == (True, 2, b"the copy's", 60)
    assert calls == [50]


@pytest.mark.slow
def test_the_first_outcomes_do_not_wait_for_the_registration_of_many_functions(
    urls: Callable[[str], str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = {f"f{number}": FunctionPolicy(renews=True, lease=30) for number in range(3000)}
    kept = Kept(urls(name), functions=functions)
    runs = kept.runs(3)
    for run in runs:
        kept.keeper.end(run)
    registered: list[int] = []
    found: list[Registration] = []
    register = Registration.step

    def watched(registration: Registration) -> None:
        if registration._own is functions:  # a keeper of an earlier test may still be ending
            registered.append(kept.committed.qsize())
            found.append(registration)
        register(registration)

    monkeypatch.setattr(Registration, "step", watched)
    kept.keeper.start()
    deadline = time.monotonic() + PATIENCE
    while len(kept.database.functions()) < 3000:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert registered[0] == 3
    kept.keeper.stop()
    # A second one finds them set, and writes none of them.
    again = Kept(urls(name), functions=functions)
    again.keeper.start()
    deadline = time.monotonic() + PATIENCE
    while found[-1] is found[0] or found[-1].remaining != []:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not found[-1]._changed
    again.keeper.stop()
    kept.database.register_functions(dict.fromkeys(functions, FunctionPolicy()))
    kept.close()
    again.close()


# ---- the end


@pytest.mark.parametrize("name", SERVERS, indirect=True)
def test_stop_ends_in_time_and_says_what_it_left(
    kept: Kept, urls: Callable[[str], str], name: str, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    runs = kept.runs(3)
    kept.keeper.start()
    with locked(urls(name), [runs[0].job.jobid]):
        for run in runs:
            kept.keeper.end(run)
        kept.get(2)
        began = time.monotonic()
        kept.keeper.stop(0.3)
        assert time.monotonic() - began < 0.3 + SOON
    assert [fields["outcomes"] for event, fields in seen if event == "keeper.abandoned"] == [1]
    kept.join()


def test_stop_says_that_it_left_an_outcome_whose_commit_has_not_answered(
    tmp_path: Path, seen: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(sqlite_url(tmp_path))
    (run,) = kept.runs(1)
    writes, answers = Event(), Event()
    complete = Database.complete

    def late(self: Database, *arguments: Any, **options: Any) -> Any:
        writes.set()
        assert answers.wait(PATIENCE)
        return complete(self, *arguments, **options)

    monkeypatch.setattr(Database, "complete", late)
    kept.keeper.start()
    kept.keeper.end(run)
    assert writes.wait(PATIENCE)
    assert kept.keeper.stop(0.05) == 1
    assert [fields["outcomes"] for event, fields in seen if event == "keeper.abandoned"] == [1]
    answers.set()
    kept.join()
    kept.close()


@pytest.mark.servers
def test_stop_ends_in_time_while_the_database_does_not_answer(
    own_mariadb: MariaDB, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    url = own_mariadb.create_database()
    upgraded(url).close()
    kept = Kept(url)
    (run,) = kept.runs(1)
    kept.keeper.start()
    own_mariadb.freeze()
    try:
        kept.keeper.end(run)
        began = time.monotonic()
        kept.keeper.stop(0.3)
        assert time.monotonic() - began < 0.3 + SOON
    finally:
        own_mariadb.thaw()
    assert [fields["outcomes"] for event, fields in seen if event == "keeper.abandoned"] == [1]
    kept.join()


def test_stop_ends_in_time_while_the_database_is_away(
    tmp_path: Path, seen: list[tuple[str, dict[str, Any]]]
) -> None:
    url = sqlite_url(tmp_path)
    kept = Kept(url)
    (run,) = kept.runs(1)
    kept.client.close()
    path = tmp_path / "jobs.db"
    path.rename(tmp_path / "away.db")
    path.mkdir()  # what cannot be opened
    kept.keeper.end(run)
    kept.keeper.start()
    began = time.monotonic()
    kept.keeper.stop(0.3)
    assert time.monotonic() - began < 0.3 + SOON
    assert [fields["outcomes"] for event, fields in seen if event == "keeper.abandoned"] == [1]
