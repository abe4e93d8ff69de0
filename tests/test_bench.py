import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from garivini import Client
from garivini.cli import cli
from garivini.cli.bench import bare, measures
from garivini.cli.bench.figures import DeliveryCheck, Figure, Measure, RoundResult, check_delivery
from garivini.cli.bench.runs import FLOOR, Reader, Recorder, payload
from garivini.cli.bench.setup import Setup
from garivini.errors import UsageError
from tests.databases import sqlite_url
from tests.sql_servers import MariaDB, PostgreSQL


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["bench", *arguments])


# ---- delivery


@pytest.mark.parametrize(
    ("inserted", "ran", "standing", "found"),
    [
        ([1, 2, 3], [3, 1, 2], [], DeliveryCheck(jobs=3, ran=3)),
        ([1, 2, 3], [1, 2, 3, 2, 2], [], DeliveryCheck(jobs=3, ran=3, duplicates=2)),
        ([1, 2, 3], [1, 3], [], DeliveryCheck(jobs=3, ran=2, lost=1)),
        ([1, 2], [1, 2, 9, 9], [], DeliveryCheck(jobs=2, ran=2, unexpected=1)),
        ([1, 2], [1, 2], [9], DeliveryCheck(jobs=2, ran=2, unexpected=1)),
        ([1, 2], [1, 2], [2], DeliveryCheck(jobs=2, ran=2, left=1)),
        ([1, 2], [1], [2], DeliveryCheck(jobs=2, ran=1, lost=1, left=1)),
    ],
)
def test_each_job_is_accounted_for(
    inserted: Sequence[int], ran: Sequence[int], standing: Sequence[int], found: DeliveryCheck
) -> None:
    assert check_delivery(inserted, ran, standing) == found


def test_a_job_that_may_stand_is_not_lost_but_one_that_ran_may_not() -> None:
    assert check_delivery([1, 2], [1], [2], may_stand=True) == DeliveryCheck(jobs=2, ran=1)
    assert check_delivery([1, 2], [1], [1, 2], may_stand=True) == DeliveryCheck(jobs=2, ran=1, left=1)
    assert check_delivery([1, 2, 3], [1], [2], may_stand=True).lost == 1


def test_a_duplicate_alone_is_no_fault() -> None:
    assert DeliveryCheck(jobs=1, ran=1, duplicates=1).right
    assert not any(
        delivery.right
        for delivery in (DeliveryCheck(lost=1), DeliveryCheck(unexpected=1), DeliveryCheck(left=1))
    )
    assert DeliveryCheck(jobs=1, lost=1) + DeliveryCheck(jobs=2, ran=2) == DeliveryCheck(
        jobs=3, ran=2, lost=1
    )


def test_runs_are_read_once_from_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("garivini.cli.bench.runs._NOTES", 2)
    recorder, reader = Recorder(tmp_path), Reader(tmp_path)
    assert reader.take() == []
    for jobid in (1, 2, 3):
        recorder.note(jobid)
    runs = sorted(reader.take(), key=lambda run: run.began)
    assert [run.jobid for run in runs] == [1, 2, 3]
    recorder.note(4)
    assert [run.jobid for run in reader.take()] == [4]
    assert len(reader.processes()) == 1


# ---- figures


def test_the_ratio_is_of_medians_and_its_range_of_rounds() -> None:
    figure = Figure("jobs/s", "jobs/s", ours=[10.0, 20.0, 90.0], floor=[40.0, 20.0, 30.0])
    assert figure.ratio == pytest.approx(20 / 30)
    assert figure.ratios == pytest.approx((0.25, 3.0))
    assert Figure("jobs/s", "jobs/s", [1.0], [0.0]).ratio == float("inf")


def test_a_measure_that_broke_off_has_no_figures() -> None:
    result = RoundResult({"p50": 1.5}, DeliveryCheck(), {"server": 0.5})
    assert Measure("pickup", ours=[result]).figures == []
    measure = Measure("pickup", [result], [result], {"ours": DeliveryCheck(lost=1)})
    assert [figure.unit for figure in measure.figures] == ["ms"]
    assert measure.cpu == {"ours": {"server": 0.5}, "floor": {"server": 0.5}}
    assert not measure.right


def test_payloads_have_their_size() -> None:
    assert [len(payload(size)) for size in (0, 1, 100, 4096)] == [0, 1, 100, 4096]


def test_a_database_without_a_floor_is_refused() -> None:
    with pytest.raises(UsageError, match="no baseline for oracle"):
        bare.connect("oracle://localhost/job")


def test_the_bare_steps_on_postgresql_take_each_job_once(postgresql: PostgreSQL) -> None:
    with postgresql.database() as url:
        with Client(url) as client:
            for database in client.shards:
                database.upgrade()
        store = bare.connect(url)
        ids = [*store.insert_many([b"1", b"2"]), store.insert_one(b"3")]
        assert store.holds(3)
        assert not store.holds(4)
        assert (store.standing(), store.standing(leased=True), store.ended()) == (ids, [], 0)
        assert [row[:3] for row in store.claim()] == [
            (jobid, FLOOR, arg) for jobid, arg in zip(ids, (b"1", b"2", b"3"), strict=True)
        ]
        assert store.claim() == []
        assert store.standing(leased=True) == ids
        later = store.insert_many([b"4"], 60)
        assert store.claim() == []  # it is not due
        store.delete(list(later))
        store.delete(ids[:2])
        assert (store.standing(), store.ended(), store.empty()) == (ids[2:], 3, False)
        store.clear()
        assert store.empty()
        assert "synchronous_commit=on" in store.describe()["durability"]
        store.close()


# ---- the command


LATENCIES = {
    "pickup": ["p50", "p99", "max"],
    "pickup-bulk": ["last"],
    "wake": ["p50", "p99", "max"],
    "pure-pickup": ["p50", "p99", "max"],
}


def check(measure: dict[str, Any], figures: list[str]) -> None:
    assert [figure["name"] for figure in measure["figures"]] == figures
    for figure in measure["figures"]:
        for side in ("ours", "floor"):
            assert len(figure[side]["rounds"]) == 1
            assert figure[side]["median"] > 0
        assert figure["ratio"] == pytest.approx(figure["ours"]["median"] / figure["floor"]["median"])
        assert figure["ratio_range"] == [figure["ratio"]] * 2
    for delivery in measure["delivery"].values():
        assert delivery["right"]
        assert delivery["jobs"] > 0


@pytest.mark.slow
def test_all_measures_are_taken_on_mariadb_as_well(mariadb: MariaDB, tmp_path: Path) -> None:
    with mariadb.database() as url, Setup(tmp_path, None, 100, 1, url) as setup:
        assert "innodb_flush_log_at_trx_commit=1" in setup.store.describe()["durability"]
        for name in measures.MEASURES:
            measure = measures.take(name, setup, measures.Size(300, 1.0), 1, lambda _: None)
            assert measure.right, measure.deliveries
            check(measure.as_dict(), LATENCIES.get(name, ["jobs/s"]))


@pytest.mark.slow
def test_all_measures_are_taken_beside_their_floors() -> None:
    result = bench("--jobs", "300", "--rounds", "1", "--seconds", "1", "-o", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["right"] is True
    assert found["method"]["durability"] == "journal_mode=WAL, synchronous=FULL"
    measures = {measure["name"]: measure for measure in found["measures"]}
    assert list(measures) == [
        *("bulk-insert", "single-insert", "drain", "steady", "pickup", "pickup-bulk", "wake"),
        *("pure", "pure-pickup"),
    ]
    assert found["method"]["compared"].keys() == measures.keys()
    for name, measure in measures.items():
        check(measure, LATENCIES.get(name, ["jobs/s"]))
    assert measures["drain"]["delivery"]["ours"] | {"duplicates": 0} == {
        "jobs": 330,
        "ran": 330,
        "duplicates": 0,
        "lost": 0,
        "unexpected": 0,
        "left": 0,
        "right": True,
    }


def test_a_database_with_jobs_is_left_alone_and_a_password_stays_out_of_sight(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    with Client(url) as client:
        client.insert_job("f")
        result = bench("--db", url)
        assert isinstance(result.exception, UsageError)
        assert "this database has some" in str(result.exception)
        assert len(client.list_jobs()) == 1
    result = bench("--db", "mysql://user:secret@127.0.0.1/bench")
    assert "put the URL in GARIVINI_BENCH_DB" in str(result.exception)


@pytest.mark.slow
def test_a_chosen_measure_is_shown_as_a_table_with_its_method() -> None:
    result = bench("--jobs", "50", "--rounds", "2", "--only", "bulk-insert", "--payload", "10")
    assert result.exit_code == 0, result.output
    for text in ("synchronous=FULL", "executemany", "ratio", "bulk-insert, floor: delivered"):
        assert text in result.stdout
    assert "single-insert" not in result.stdout


@pytest.mark.slow
def test_a_job_that_is_not_there_makes_it_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    insert = bare.BareSQLite.insert_many

    def boastful(store: bare.BareSQLite, args: Sequence[bytes]) -> range:
        found = insert(store, args)
        return range(found.start, found.stop + 1)

    monkeypatch.setattr(bare.BareSQLite, "insert_many", boastful)
    result = bench("--jobs", "50", "--rounds", "1", "--only", "bulk-insert")
    assert result.exit_code == 1
    assert "bulk-insert, floor: NOT DELIVERED" in result.stdout
    assert "lost 1" in result.stdout
