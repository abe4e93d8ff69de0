"""Workers and a client in PHP and Perl, with the code that the how-to shows, on each database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from garivini import Client, Job, State
from garivini.model.policy import Envelope, FunctionPolicy
from garivini.store.database import Database
from tests.gearman.peer import Peer as Connection
from tests.peers import peer
from tests.peers.databases import Place
from tests.peers.peer import PROGRAMS, SUFFIXES, Peer
from tests.processes import PATIENCE, Command, command, until
from tests.sql_servers import MariaDB

pytestmark = pytest.mark.servers

#: What JSON, three languages and two encodings could break.
TEXTS = ["", "Grüße, 世界 🎈", 'a "quoted"\\ line\r\n\t\0 end', "".join(map(chr, range(0x800)))]
BYTES = [bytes(range(256)), bytes(range(255, -1, -1)) * 3, *(bytes([byte]) for byte in range(256))]


@pytest.fixture(params=PROGRAMS)
def language(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def worker(
    language: str, tmp_path: Path, server: str, database: Place, queue_runner: Command
) -> Iterator[Peer]:
    """A running worker of the functions ``steps`` and ``plain``."""
    with peer.run(peer.worker(language, tmp_path, server, database), tmp_path) as running:
        yield running


def store(client: Client) -> Database:
    (database,) = client.shards
    return database


def standing(client: Client, jobid: int) -> Job:
    job = client.get_job((jobid, 1))
    assert job is not None
    return job


def put_off(worker: Peer, client: Client, jobid: int, step: str, seconds: int) -> Job:
    """Let the worker put its job off by so many seconds, which count from then on; return the job."""
    before = int(store(client).clock())
    assert worker.tell(step) == "yes"
    job = standing(client, jobid)
    assert before + seconds <= job.run_after <= store(client).clock() + seconds + 1
    return job


def started(worker: Peer) -> tuple[int, int]:
    """Wait for a job of ``steps``; return its id and attempt."""
    word, jobid, attempt, _ = worker.line()
    assert word == "started"
    return int(jobid), int(attempt)


@pytest.mark.parametrize("envelope", ["json", "latin-1"])
def test_each_argument_arrives_byte_for_byte_in_each_form(
    worker: Peer, client: Client, envelope: Envelope
) -> None:
    store(client).set_function("plain", FunctionPolicy(envelope=envelope))
    args = [text.encode() for text in TEXTS] + BYTES
    inserted = client.insert_jobs([["plain", None, None, arg] for arg in args])
    got = {}
    for _ in args:
        word, jobid, attempt, arg, form = worker.line()
        assert (word, attempt) == ("done", "1")
        got[int(jobid)] = bytes.fromhex(arg), form
    assert [got[answer.jobid][0] for answer in inserted] == args
    forms = {form for _, form in got.values()}
    assert forms == ({"utf-8", "base64"} if envelope == "json" else {"latin-1"})
    assert client.list_jobs() == []


def test_success_deletes_the_job_and_its_record(worker: Peer, client: Client) -> None:
    client.insert_job("steps")
    jobid, attempt = started(worker)
    assert worker.tell("fail") == "yes"
    assert client.retry_job((jobid, 1))
    assert started(worker) == (jobid, attempt + 1)
    assert len(client.failures((jobid, 1))) == 1
    assert worker.tell("complete") == "yes"
    assert client.get_job((jobid, 1)) is None
    assert client.failures((jobid, 1)) == []


def test_a_failure_is_recorded_and_counted_and_waits_ever_longer(worker: Peer, client: Client) -> None:
    client.insert_job("steps")
    jobid, _ = started(worker)
    job = put_off(worker, client, jobid, "fail", 120)
    assert (job.state, job.failcount, job.attempt) == (State.WAITING, 1, 1)
    (failure,) = client.failures((jobid, 1))
    assert (failure.kind, failure.error, failure.message) == ("failed", "RuntimeException", "Größe?")
    assert failure.attempt == 1
    assert abs(failure.failed_at - store(client).clock()) < 30
    assert client.reschedule_job((jobid, 1), "+0")
    assert started(worker) == (jobid, 2)
    job = put_off(worker, client, jobid, "fail", 240)
    assert (job.state, job.failcount) == (State.WAITING, 2)


def test_the_last_failure_parks_the_job(worker: Peer, client: Client) -> None:
    client.insert_job("steps")
    jobid, _ = started(worker)
    assert worker.tell("fail 1") == "yes"
    assert [job.jobid for job in client.failed_jobs()] == [jobid]
    job = standing(client, jobid)
    assert (job.state, job.failcount, job.run_after) == (State.DEAD, 1, 2147483647)


def test_a_job_that_shall_run_later_does_and_no_failure_is_counted(worker: Peer, client: Client) -> None:
    client.insert_job("steps")
    jobid, _ = started(worker)
    job = put_off(worker, client, jobid, "later 100", 100)
    assert (job.state, job.failcount) == (State.WAITING, 0)
    assert client.reschedule_job((jobid, 1), "+0")
    assert started(worker) == (jobid, 2)
    assert worker.tell("later 1") == "yes"
    assert started(worker) == (jobid, 3)


def test_a_stale_worker_changes_nothing_but_by_success(worker: Peer, client: Client) -> None:
    client.insert_job("steps")
    jobid, _ = started(worker)
    # Somebody puts the job back while it runs, and the QueueRunner sends the next attempt.
    assert client.reschedule_job((jobid, 1), "+0")
    until(lambda: standing(client, jobid).attempt == 2, "the next attempt")
    before = standing(client, jobid), client.failures((jobid, 1))
    for step in ("holds", "renew", "renew"):
        assert worker.tell(step) == "no"
    assert worker.tell("fail") == "no"
    assert (standing(client, jobid), client.failures((jobid, 1))) == before
    assert started(worker) == (jobid, 2)
    assert client.reschedule_job((jobid, 1), "+0")
    until(lambda: standing(client, jobid).attempt == 3, "the next attempt")
    before = standing(client, jobid), client.failures((jobid, 1))
    assert worker.tell("later 1000") == "no"
    assert (standing(client, jobid), client.failures((jobid, 1))) == before
    assert started(worker) == (jobid, 3)
    assert client.reschedule_job((jobid, 1), "+0")
    until(lambda: standing(client, jobid).attempt == 4, "the next attempt")
    assert worker.tell("complete") == "yes"
    assert client.get_job((jobid, 1)) is None
    # The copy that is on its way finds no row.
    assert started(worker) == (jobid, 4)
    assert worker.tell("holds") == "no"
    assert worker.tell("complete") == "yes"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "database"),
    [("php", "mariadb"), ("perl", "mariadb"), ("php", "postgresql"), ("perl", "sqlite")],
    indirect=True,
)
def test_a_long_job_is_not_run_again_while_its_worker_renews(worker: Peer, client: Client) -> None:
    store(client).set_function("steps", FunctionPolicy(lease=3, renews=True))
    client.insert_job("steps")
    jobid, attempt = started(worker)
    assert worker.tell("holds") == "yes"
    # A lease and both strikes would have passed.
    begun = store(client).clock()
    while store(client).clock() < begun + 8:
        assert worker.tell("renew") == "yes"
        now = int(store(client).clock())
        until(lambda now=now: store(client).clock() > now + 1, "the next second")
    assert standing(client, jobid).state == State.RUNNING
    assert standing(client, jobid).attempt == attempt
    # It falls silent, and is taken for dead: one lease, and a third.
    until(lambda: standing(client, jobid).attempt == attempt + 1, "the next attempt")
    assert standing(client, jobid).crashes == 1
    assert worker.tell("renew") == "no"
    assert worker.tell("complete") == "yes"


def test_a_worker_that_dies_leaves_its_job_to_another(
    language: str, tmp_path: Path, server: str, database: Place, queue_runner: Command, client: Client
) -> None:
    words = peer.worker(language, tmp_path, server, database)
    first = Peer(words, tmp_path)
    client.insert_job("steps")
    jobid, attempt = started(first)
    first.process.kill()
    first.close()
    with peer.run(words, tmp_path) as second:
        # At once, by the Gearman server, so it is the same attempt.
        assert started(second) == (jobid, attempt)
        assert second.tell("holds") == "yes"
        assert second.tell("complete") == "yes"
    assert client.list_jobs() == []


# ---- the workers as the how-to shows them


#: The function of the page's workers, and the file in which they look for it.
RESIZE_PHP = """<?php
function resize(string $arg): void
{
    if ($arg === 'bad') throw new DomainException('too large');
    echo "resized $arg\\n";
}
"""
RESIZE_PERL = """package Resize;
use parent 'Exporter';
our @EXPORT_OK = 'resize';
sub resize { die "too large\\n" if $_[0] eq 'bad'; syswrite STDOUT, "resized $_[0]\\n" }
1;
"""
RESIZE = {"php": ("resize.php", RESIZE_PHP), "perl": ("Resize.pm", RESIZE_PERL)}


def shown_worker(language: str, folder: Path, server: str, database: Place) -> list[str]:
    """Put the worker of the how-to in place, with its function; return its command."""
    host, port = server.split(":")
    if language == "php":
        named = "'mysql:host=127.0.0.1;dbname=job;charset=utf8mb4', 'job', 'password'"
        changes = {named: repr(database.pdo)[1:-1], "'127.0.0.1', 4730": f"'{host}', {port}"}
    else:
        named = "'dbi:mysql:database=job;host=127.0.0.1', 'job', 'password'"
        changes = {named: repr(database.dbi)[1:-1], "127.0.0.1:4730": server}
    peer.page_files(folder, database, changes)
    name, text = RESIZE[language]
    (folder / name).write_text(text)
    return [PROGRAMS[language], f"worker.{SUFFIXES[language]}"]


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_the_worker_that_is_shown_completes_jobs_and_records_failures(
    language: str, tmp_path: Path, server: str, database: Place, queue_runner: Command, client: Client
) -> None:
    with peer.run(shown_worker(language, tmp_path, server, database), tmp_path) as worker:
        good, bad = client.insert_jobs([["resize", None, None, arg] for arg in ("good", "bad")])
        assert worker.line() == ["resized", "good"]
        until(lambda: client.get_job((good.jobid, 1)) is None)
        until(lambda: standing(client, bad.jobid).failcount == 1)
        (failure,) = client.failures((bad.jobid, 1))
        assert failure.message.strip() == "too large"
        assert client.reschedule_job((bad.jobid, 1), "+0")
        until(lambda: standing(client, bad.jobid).failcount == 2)
        assert worker.silent()


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_the_worker_that_is_shown_takes_no_jobs_without_its_database(
    language: str,
    tmp_path: Path,
    server: str,
    database: Place,
    queue_runner: Command,
    client: Client,
    mariadb: MariaDB,
) -> None:
    words = shown_worker(language, tmp_path, server, database)
    with Peer(words, tmp_path) as worker:
        client.insert_job("resize", "one")
        assert worker.line() == ["resized", "one"]
        until(lambda: client.list_jobs() == [])
        # Whatever they do just now: the worker's may still be about its commit.
        mariadb.end_sessions(database.url.rpartition("/")[2])
        client.insert_jobs([["resize", None, None, f"{n}"] for n in range(10)])
        assert worker.process.wait(PATIENCE) != 0
        assert worker.errors
    with peer.run(words, tmp_path) as worker:
        # All but the one that it had.
        until(lambda: len(client.list_jobs()) <= 1, "the jobs to be done")


def connected(pid: int, port: int) -> bool:
    """Whether a process has a connection to a port. MariaDB resets an idle one, which the kernel notes."""
    sockets = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    established = [row for row in rows if row[3] == "01" and row[2].endswith(f":{port:04X}")]
    return any(f"socket:[{row[9]}]" in sockets for row in established)


@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
def test_the_worker_that_is_shown_does_no_work_on_a_connection_that_idled_away(
    language: str,
    tmp_path: Path,
    server: str,
    database: Place,
    queue_runner: Command,
    client: Client,
    mariadb: MariaDB,
) -> None:
    words = shown_worker(language, tmp_path, server, database)
    file = tmp_path / words[-1]
    setting = "SET SESSION wait_timeout = 31536000"
    text = file.read_text()
    assert setting in text
    store(client).set_function("resize", FunctionPolicy(lease=3))
    file.write_text(text.replace(setting, "SET SESSION wait_timeout = 1"))
    with Peer(words, tmp_path) as worker, Connection(server) as admin:
        admin.until(lambda admin: admin.status(b"resize")[2] == 1)  # it has connected to its database before
        until(
            lambda: not connected(worker.process.pid, mariadb.port),
            "the server to close the idle connection",
        )
        client.insert_job("resize", "one")
        assert worker.process.wait(PATIENCE) != 0
        assert "resized one" not in worker.rest()
    file.write_text(text)
    with peer.run(words, tmp_path) as worker:
        assert worker.line() == ["resized", "one"]
        until(lambda: client.list_jobs() == [])


# ---- a client


def test_a_perl_client_inserts_with_the_columns_of_the_original(
    language: str, tmp_path: Path, server: str, database: Place, client: Client
) -> None:
    host, port = server.split(":")

    def insert(funcname: str, delay: int, arg: bytes) -> None:
        script = str(peer.HERE / "client.pl")
        words = [script, host, port, *database.dbi, database.now, funcname, str(delay), arg.hex()]
        with Peer(["perl", *words], tmp_path) as running:
            running.process.wait()
            assert (running.process.returncode, running.errors) == (0, "")

    insert("plain", 0, BYTES[0])
    (job,) = client.list_jobs()
    assert (job.funcname, job.arg, job.uniqkey) == ("plain", BYTES[0], "key of plain")
    assert (job.coalesce, job.flag, job.priority) == ("group", "shim", "normal")
    assert (job.attempt, job.state, job.failcount, job.created) == (0, State.WAITING, 0, 0)
    assert not client.insert_job("plain", unique="key of plain").new
    before = int(store(client).clock())
    insert("rare", 1000, b"")
    (rare,) = [job for job in client.list_jobs() if job.funcname == "rare"]
    assert before + 1000 <= rare.run_after <= store(client).clock() + 1001
    # It wakes the QueueRunner, which would not look by itself for a minute.
    with (
        peer.run(peer.worker(language, tmp_path, server, database), tmp_path) as worker,
        command(
            tmp_path,
            "run",
            "queue-runner",
            "--poll",
            "60",
            GARIVINI_DB=database.url,
            GARIVINI_JOB_SERVERS=server,
        ),
    ):
        assert worker.line()[:2] == ["done", str(job.jobid)]
        for _ in range(3):
            insert("plain", 0, b"again")
            assert worker.line()[3] == b"again".hex()
