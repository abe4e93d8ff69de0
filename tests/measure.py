"""What the databases take: a claim at 20,000 and 2,000,000 rows, an upgrade under load, the bench's floors.

``python -m tests.measure [upgrade] [claims] [crowd] [floors] [postgresql] [frozen]``: postgresql is the crowd
and the floors there, frozen is on two databases of either kind, all others are on MariaDB. It takes minutes.
Compare within a run only.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click

from garivini import Client
from garivini.cli.bench import measures, processes
from garivini.cli.bench.runs import OURS, Reader
from garivini.cli.bench.setup import Setup
from garivini.cli.ports import free_address
from garivini.databases import DatabaseSettings
from garivini.model.job import Job
from garivini.model.state import State
from garivini.store.database import Database, Lane
from tests.sql_servers import MariaDB, PostgreSQL
from tests.store.test_mysql_upgrade import ORIGINAL, Perl

SETTINGS = ("innodb-buffer-pool-size=2G", "innodb-log-file-size=1G")
_LANE = Lane("f0", State.WAITING, "normal", 0)
_ROUNDS = 15
#: A tenth of the rows is due in the lane that is claimed from; keys, delayed and dead ones stand beside it.
_FILL = """
INSERT INTO job (funcname, uniqkey, run_after, arg, state, priority)
SELECT CONCAT('f', seq % 5), IF(seq % 20 < 10, seq, NULL), 1000000000 + seq, REPEAT('x', 100),
       IF(seq % 10 = 9, 4, 0), 1
  FROM seq_1_to_{rows}
"""


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def steps(database: Database) -> dict[str, float]:
    """Take the steps of a pass once; return their milliseconds."""
    jobs: list[Job] = []
    found = {
        "lanes": timed(database.lanes),
        "claim of 1,000": timed(lambda: jobs.extend(database.claim(_LANE, limit=1000, lease=600))),
    }
    assert len(jobs) == 1000
    handles = [job.handle for job in jobs]
    found["renew of 1,000"] = timed(lambda: database.renew(handles, lease=600))
    found["give_back of 1,000"] = timed(lambda: database.give_back(handles))
    return found


#: Deadlocks so far.
_DEADLOCKS = {
    MariaDB: "SELECT variable_value FROM information_schema.global_status"
    " WHERE variable_name = 'innodb_deadlocks'",
    PostgreSQL: "SELECT sum(deadlocks) FROM pg_stat_database",
}


def claims(server: MariaDB) -> None:
    """Measure the steps of a pass at both sizes in turn."""
    databases = {}
    for rows in (20_000, 2_000_000):
        url = server.create_database()
        databases[rows] = Database(DatabaseSettings(1, url))
        databases[rows].upgrade()
        server.execute(_FILL.format(rows=rows), url.rpartition("/")[2])
    rounds = [{rows: steps(database) for rows, database in databases.items()} for _ in range(_ROUNDS)]
    click.echo(f"{f'milliseconds, median of {_ROUNDS}':32} 20,000   2,000,000   ratio")
    for name in rounds[0][20_000]:
        small, large = (statistics.median(taken[rows][name] for taken in rounds) for rows in databases)
        click.echo(f"{name:32} {small:6.2f}   {large:9.2f}   {large / small:5.2f}")
    for database in databases.values():
        database.close()


def upgrade(server: MariaDB, rows: int = 1_000_000) -> None:
    """Measure an upgrade, and the longest that programs of the Perl system wait before it and during it."""
    url = server.create_database()
    name = url.rpartition("/")[2]
    server.execute(ORIGINAL.format(engine="InnoDB", charset="latin1"), name)
    server.execute(
        "INSERT INTO job (funcname, uniqkey, run_after, arg, flag)"
        " SELECT CONCAT('f', seq % 5), IF(seq % 2, seq, NULL), 1000000000 + seq, REPEAT('x', 100), 'shim'"
        f" FROM seq_1_to_{rows}",
        name,
    )
    phase, stop = ["before"], threading.Event()
    waits: dict[str, list[float]] = {"before": [], "during": []}

    def work(step: Callable[[Perl], object]) -> None:
        perl = Perl(url)
        while not stop.is_set():
            now = phase[0]
            waits[now].append(timed(lambda: step(perl)))
        perl.connection.close()

    threads = [
        threading.Thread(target=work, args=[step])
        for step in (lambda perl: perl.insert(b"more"), lambda perl: perl.claim(50))
    ]
    for thread in threads:
        thread.start()
    time.sleep(5)
    phase[0] = "during"
    database = Database(DatabaseSettings(1, url))
    whole = timed(database.upgrade)
    stop.set()
    for thread in threads:
        thread.join()
    click.echo(f"upgrade of {rows:,} rows under load: {whole / 1000:.1f} s")
    for name, found in waits.items():
        click.echo(
            f"{name}: {len(found)} statements of others, median {statistics.median(found):.1f} ms, "
            f"longest {max(found):.0f} ms"
        )
    database.close()


def floors(server: MariaDB | PostgreSQL) -> None:
    """Measure as `garivini bench` does, on this server and the embedded Gearman server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        server.database() as url,
        Setup(Path(folder), None, 100, 1, url) as setup,
    ):
        for name in measures.MEASURES:
            taken = measures.take(name, setup, measures.Size(20_000, 2.0), 5, lambda _: None)
            for figure in taken.figures:
                least, most = figure.ratios
                ours, bare = statistics.median(figure.ours), statistics.median(figure.floor)
                click.echo(
                    f"{name} {figure.name}: ours {ours:,.1f}, floor {bare:,.1f}, ratio {figure.ratio:.2f}"
                    f" ({least:.2f} - {most:.2f}){'' if taken.right else ' NOT DELIVERED'}"
                )


def crowd(server: MariaDB | PostgreSQL, seconds: float = 60.0) -> None:
    """Run four QueueRunners and eight completing workers; count deadlocks, and jobs lost and run twice."""
    with (
        tempfile.TemporaryDirectory() as name,
        server.database() as url,
        Client(url) as client,
        ExitStack() as ends,
    ):
        folder = Path(name)
        (folder / "runs").mkdir()
        for database in client.shards:
            database.upgrade()
        address = free_address()
        environment = {
            "GARIVINI_DB": url,
            "GARIVINI_JOB_SERVERS": address,
            "GARIVINI_BENCH_RUNS": str(folder / "runs"),
        }
        commands: list[tuple[str, ...]] = [("gearman", "run", "gearman", "--job-server", address)]
        commands += [(f"runner{number}", "run", "queue-runner") for number in range(4)]
        commands += [("worker", "worker", "garivini.cli.bench.work", "--processes", "8")]
        for role, *words in commands:
            process = processes.command(role, *words, folder=folder, environment=environment)
            ends.callback(process.wait)
            ends.callback(process.end)
        counted = _DEADLOCKS[type(server)]
        ((before,),) = server.execute(counted)
        inserted: set[int] = set()
        reader, ran = Reader(folder / "runs"), Counter[int]()
        deadline = time.monotonic() + seconds
        number = 0
        while time.monotonic() < deadline:
            jobs: list[list[object]] = [
                [OURS, f"{number}-{n}" if n % 4 == 0 else None, None, b"x" * 100] for n in range(500)
            ]
            inserted |= {answer.jobid for answer in client.insert_jobs(jobs)}
            number += 1
            ran.update(run.jobid for run in reader.take())
            (standing,) = (sum(count.jobs for count in database.counts()) for database in client.shards)
            if standing > 20_000:
                time.sleep(0.2)
        (database,) = client.shards
        while database.jobs(limit=1):
            time.sleep(0.1)
        ran.update(run.jobid for run in reader.take())
        ((after,),) = server.execute(counted)
        twice = sum(count - 1 for count in ran.values())
        click.echo(
            f"crowd: {len(inserted):,} jobs, {int(after) - int(before)} deadlocks, "
            f"{len(inserted - ran.keys())} lost, {twice} run twice"
        )


def frozen(kind: type[MariaDB | PostgreSQL]) -> None:
    """Measure the pickup of jobs in one of two databases, with the other at work, frozen, and back."""
    with (
        tempfile.TemporaryDirectory() as name,
        kind() as server,
        kind() as other,
        server.database() as url,
        other.database() as other_url,
        ExitStack() as ends,
    ):
        folder = Path(name)
        (folder / "runs").mkdir()
        both = Client([url, other_url])
        for database in both.shards:
            database.upgrade()
        both.close()
        address = free_address()
        environment = {
            "GARIVINI_DB": f"{url} {other_url}",
            "GARIVINI_JOB_SERVERS": address,
            "GARIVINI_BENCH_RUNS": str(folder / "runs"),
        }
        for role, *words in (
            ("gearman", "run", "gearman", "--job-server", address),
            ("runner", "run", "queue-runner"),
            ("worker", "worker", "garivini.cli.bench.work", "--processes", "1"),
        ):
            process = processes.command(role, *words, folder=folder, environment=environment)
            ends.callback(process.wait)
            ends.callback(process.end)
        reader = Reader(folder / "runs")
        processes.until(lambda: processes.answers(address), "the Gearman server")
        client = ends.enter_context(Client(url, address))

        def pickup(count: int, *, dispatch: bool) -> float:
            """Return the median of milliseconds from an insert to its start."""
            found = []
            for _ in range(count):
                began = time.monotonic_ns()
                jobid = client.insert_job(OURS, b"x" * 100, dispatch=dispatch).jobid
                while not (runs := [run for run in reader.take() if run.jobid == jobid]):
                    time.sleep(0.001)
                found.append((runs[0].began - began) / 1e6)
                time.sleep(0.01)
            return statistics.median(found)

        for dispatch, way in ((True, "direct"), (False, "QueueRunner")):
            pickup(20, dispatch=dispatch)
            for phase, change in (
                ("both at work", None),
                ("one frozen", other.freeze),
                ("both again", other.thaw),
            ):
                if change is not None:
                    change()
                    time.sleep(2)
                p50 = pickup(200, dispatch=dispatch)
                click.echo(f"frozen, {kind.__name__}, {way}, {phase}: pickup p50 {p50:.2f} ms")


def main(chosen: list[str]) -> None:
    with MariaDB(*SETTINGS) as server:
        for part in (upgrade, claims, crowd, floors):
            if part.__name__ in chosen or not chosen:
                part(server)
    if "postgresql" in chosen or not chosen:
        with PostgreSQL() as postgresql:
            crowd(postgresql)
            floors(postgresql)
    if "frozen" in chosen or not chosen:
        frozen(PostgreSQL)
        frozen(MariaDB)


if __name__ == "__main__":
    main(sys.argv[1:])
