"""Names in a table of the Perl system, whose collation takes some for one: each row goes by its own."""
# ruff: noqa: F811

from pathlib import Path
from typing import Any

import pytest

from garivini import Client
from garivini.errors import RefusedError
from garivini.model.inserted import Inserted
from garivini.model.new_jobs import new_job
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.store.database import Database, Lane
from tests.databases import mysql_plan
from tests.sql_servers import ON_MYSQL
from tests.store.test_errors import Opener
from tests.store.test_mysql_upgrade import ORIGINAL, Place, place  # noqa: F401
from tests.system import system

pytestmark = pytest.mark.servers

NAMES = ("Mail", "mail", "MAIL")


@pytest.fixture(params=["latin1", "utf8mb3", "utf8mb4", "utf8mb4 COLLATE utf8mb4_unicode_ci"])
def folding(request: pytest.FixtureRequest, place: Place, opened: Opener) -> Database:
    place.execute(ORIGINAL.format(engine="InnoDB", charset=request.param))
    database = opened(place.url)
    database.upgrade()
    return database


def lane(funcname: str, state: State = State.WAITING) -> Lane:
    return Lane(funcname, state, "normal", 0)


def test_claim_returns_each_row_under_its_own_name_and_with_its_own_lease(folding: Database) -> None:
    folding.insert([new_job(name, name.encode()) for name in NAMES * 2])
    jobs = folding.claim(lane("mail"), limit=10, lease=lambda name: 60 if name == "mail" else 600)
    assert [job.funcname for job in jobs] == list(NAMES) * 2
    assert all(job.arg == job.funcname.encode() for job in jobs)
    assert {job.funcname: job.lease for job in jobs} == {"Mail": 600, "mail": 60, "MAIL": 600}
    for job in jobs:
        found = folding.get(job.jobid)
        assert found is not None
        assert (found.run_after, found.attempt) == (job.lease_end, 1)


def test_counts_and_filters_go_by_the_bytes_of_a_name(folding: Database) -> None:
    folding.insert([new_job(name, b"") for name in ("Mail", "mail", "mail", "MAIL", "Résumé", "Resume")])
    counted = {count.funcname: count.jobs for count in folding.counts()}
    assert counted == {"Mail": 1, "mail": 2, "MAIL": 1, "Résumé": 1, "Resume": 1}
    assert [job.funcname for job in folding.jobs(funcname="mail")] == ["mail", "mail"]
    assert [job.funcname for job in folding.jobs(funcname="Resume")] == ["Resume"]
    assert folding.jobs(funcname="mAIL") == []
    folding.claim(lane("mail"), limit=10, lease=60)
    assert [folding.leased(name, lease=60, limit=10) for name in NAMES] == [1, 2, 1]
    assert folding.leased("mAIL", lease=60, limit=10) == 0


def test_expired_tells_the_function_of_each_row(folding: Database, place: Place) -> None:
    folding.insert([new_job(name, b"") for name in NAMES])
    folding.claim(lane("mail"), limit=10, lease=60)
    place.execute("UPDATE job SET run_after = 1")
    lapsed = folding.expired(lane("Mail", State.LEASED), limit=10)
    assert [row.funcname for row in lapsed] == list(NAMES)
    assert [job.funcname for job in folding.reclaim([(row, False) for row in lapsed], lease=60)] == list(
        NAMES
    )


def test_set_function_sets_its_own_name_alone(folding: Database) -> None:
    folding.set_function("Mail", FunctionPolicy(max_failures=1))
    folding.set_function("mail", FunctionPolicy(max_failures=7))
    assert {name: policy.max_failures for name, policy in folding.functions().items() if name} == {
        "Mail": 1,
        "mail": 7,
    }


@pytest.mark.parametrize("other", [("MAIL", "k"), ("mail", "K")])
def test_insert_of_a_key_that_the_table_takes_for_another_is_refused_and_stores_nothing(
    folding: Database, other: tuple[str, str]
) -> None:
    (first,) = folding.insert([new_job("mail", b"first", uniqkey="k")])
    funcname, uniqkey = other
    wrong = new_job(funcname, b"second", uniqkey=uniqkey)
    for jobs in ([wrong], [new_job("f", b"", uniqkey="k"), wrong]):
        with pytest.raises(RefusedError, match=f"by its collation job {first.jobid} has the same"):
            folding.insert(jobs)
    assert [job.arg for job in folding.jobs()] == [b"first"]
    assert folding.insert([new_job("mail", b"", uniqkey="k")]) == [Inserted(first.jobid, 1, new=False)]
    assert folding.live(funcname, uniqkey) is None


def test_names_are_distinguished_once_the_columns_compare_bytes(
    folding: Database, place: Place, opened: Opener
) -> None:
    collation = "utf8mb4_nopad_bin" if not ON_MYSQL else "utf8mb4_0900_bin"
    place.execute(
        "ALTER TABLE job"
        f" MODIFY funcname VARCHAR(200) CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL,"
        f" MODIFY uniqkey VARCHAR(255) CHARACTER SET utf8mb4 COLLATE {collation}"
    )
    database = opened(place.url)
    answers = database.insert([new_job(name, b"", uniqkey="k") for name in NAMES])
    assert all(answer.new for answer in answers)
    assert not database.connections.dialect.folding
    assert [job.funcname for job in database.claim(lane("mail"), limit=9, lease=60)] == ["mail"]


async def test_jobs_of_names_in_other_cases_run_each_in_its_own_function(
    tmp_path: Path, folding: Database, place: Place
) -> None:
    async with system(tmp_path, place.url) as queue:
        ran: list[tuple[str, str]] = []

        def register(name: str) -> None:
            @queue.worker.function(name)
            async def run(job: Any) -> None:
                ran.append((name, job.arg.decode()))

        for name in NAMES:
            register(name)
        rows = [[name, None, None, name.encode()] for name in NAMES * 20]
        await queue.call(queue.client.insert_jobs, rows)
        queue.start_worker()
        queue.start_queue_runner()
        await queue.gone()
        assert sorted(ran) == sorted((name, name) for name in NAMES * 20)


def test_claim_by_the_bytes_of_a_name_reads_the_lane_index(folding: Database) -> None:
    folding.insert([new_job("f", b"") for _ in range(100)])
    with folding.connections.connection() as connection:
        for name, values in (
            ("due", {"funcname": "f", "priority": 1, "limit": 10, "small": 10}),
            ("leased", {"funcname": "f", "lease": 60, "limit": 10}),
        ):
            step = mysql_step(name)
            text, bound = step.bind(values)
            plans = [row for row in mysql_plan(connection, text, bound) if row[0] == "job"]
            assert {key for _, _, key, _ in plans} == {"job_lane"}
            assert all("filesort" not in extra for *_, extra in plans)


def mysql_step(name: str) -> Any:
    from garivini.store.sql_files import load

    return load("mysql", "%s", folding=True)[name].templates[0]


@pytest.mark.parametrize("charset", ["binary", "latin1 COLLATE latin1_bin"])
def test_a_table_with_binary_columns_works_and_a_name_that_is_no_text_is_parked(
    tmp_path: Path, place: Place, opened: Opener, charset: str
) -> None:
    place.execute(ORIGINAL.format(engine="InnoDB", charset=charset))
    database = opened(place.url)
    database.upgrade()
    with Client(place.url) as client:
        client.insert_job("grüße", "Größe", unique="schlüssel", coalesce="ä")
        assert not client.insert_job("grüße", "Größe", unique="schlüssel").new
        client.insert_job("grüße", "Größe", unique="Schlüssel")
    if charset == "binary":
        place.execute("INSERT INTO job (funcname, uniqkey, run_after) VALUES (x'66e9', x'ff', 1)")
    lanes = database.lanes()
    assert [found.funcname for found in lanes.lanes] == ["grüße"]
    jobs = database.claim(lanes.lanes[0], limit=10, lease=60)
    assert [(job.funcname, job.uniqkey, job.arg.decode()) for job in jobs] == [
        ("grüße", "schlüssel", "Größe"),
        ("grüße", "Schlüssel", "Größe"),
    ]
    assert len(database.jobs(funcname="grüße")) == 2
    assert {count.funcname for count in database.counts()} <= {"grüße", "f\\xe9"}
    if charset == "binary":
        ((_, settled),) = database.park_broken(lanes.broken)
        assert settled.state is State.DEAD
        assert not database.lanes().broken
        assert [job.uniqkey for job in database.jobs(state=State.DEAD)] == ["\\xff"]


def test_numbers_that_no_row_of_ours_has_are_shown_and_stop_nothing(place: Place, opened: Opener) -> None:
    place.execute(ORIGINAL.format(engine="InnoDB", charset="latin1"))
    database = opened(place.url)
    database.upgrade()
    place.execute(
        "INSERT INTO job (funcname, run_after, state, priority) VALUES ('f', 1, 9, 1), ('f', 1, 0, 7)"
    )
    database.insert([new_job("f", b"")])
    assert [(job.state, job.priority) for job in database.jobs()] == [
        (State(9), "normal"),
        (State.WAITING, "7"),
        (State.WAITING, "normal"),
    ]
    assert sum(count.jobs for count in database.counts()) == 3
    (found,) = database.lanes().lanes
    assert len(database.claim(found, limit=10, lease=60)) == 1
