"""Perl's ``prefix``: client and worker put it and a tab before the names of functions."""

import subprocess
from pathlib import Path

import pytest

from garivini import Client
from garivini.gearman import blocking
from garivini.gearman.protocol import Submission
from tests.databases import sqlite_url
from tests.gearman.peer import Peer
from tests.peers import peer
from tests.processes import PATIENCE

pytestmark = pytest.mark.servers

CLIENT = """
use Gearman::Client;
my $client = Gearman::Client->new(job_servers => [$ARGV[0]], prefix => 'shop');
my $answer = $client->do_task('turn', 'abc');
print $$answer;
"""
WORKER = """
use Gearman::Worker;
$| = 1;
my $worker = Gearman::Worker->new(job_servers => [$ARGV[0]], prefix => 'shop');
$worker->register_function(turn => sub { scalar reverse $_[0]->arg });
print "ready\\n";
$worker->work while 1;
"""


def test_a_perl_client_and_worker_with_a_prefix_meet(either_server: str, tmp_path: Path) -> None:
    with peer.run(["perl", "-e", WORKER, either_server], tmp_path) as worker:
        assert worker.line() == ["ready"]
        done = subprocess.run(
            ["perl", "-e", CLIENT, either_server], capture_output=True, timeout=PATIENCE, check=False
        )
        assert (done.stdout, done.stderr) == (b"cba", b"")
        with blocking.Client(either_server) as client:
            assert client.run(Submission(b"shop\tturn", b"xyz")) == b"zyx"
            assert b"shop\tturn" in client.functions()


def test_a_job_of_a_prefixed_function_is_dispatched(either_server: str, tmp_path: Path) -> None:
    with (
        Client(sqlite_url(tmp_path), job_servers=either_server) as client,
        Peer(either_server) as worker,
    ):
        worker.can_do(b"shop\tturn")
        client.insert_job("shop\tturn", b"x")
        assert b'"funcname":"shop\\tturn"' in worker.grab()[1]
