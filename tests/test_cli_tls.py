"""TLS from the commands to Gearman servers: where it is set, that it is used, what is said where it fails."""

import signal
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from garivini import Client, UsageError
from garivini.cli import tls
from garivini.gearman import blocking
from garivini.settings.tls import make_context
from garivini.submission import WAKE
from tests.commands import invoke, run
from tests.databases import sqlite_url
from tests.processes import command, until
from tests.servers import embedded, free_port
from tests.test_cli import MODULE
from tests.tls import certificate, encrypted


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, which is its own authority, and its key."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(files: tuple[Path, Path]) -> Iterator[str]:
    with encrypted(*files) as address:
        yield address


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with its tables."""
    return sqlite_url(tmp_path)


# ---- where it is set


def test_tls_is_set_by_flags_the_environment_or_the_settings_file(
    url: str, server: str, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = ("--db", url, "--job-server", server)
    ca = str(files[0])
    for name in ("status", "health"):
        assert invoke(name, *places, "--tls-ca", ca).exit_code == 0
        assert invoke(name, *places, GARIVINI_TLS_CA=ca).exit_code == 0
        Path("garivini.toml").write_text(f'[tls]\nca = "{ca}"\n')
        assert invoke(name, *places).exit_code == 0
        # A flag goes before the file, also to say no.
        assert invoke(name, *places, "--tls-ca", "none").exit_code == {"status": 1, "health": 2}[name]
        Path("garivini.toml").unlink()


def test_the_host_need_not_be_verified_wherever_that_is_said(url: str, tmp_path: Path) -> None:
    files = certificate(tmp_path, "DNS:gearman.example")
    settings = tmp_path / "garivini.toml"
    with encrypted(*files) as server:
        arguments = ("status", "--db", url, "--job-server", server, "--tls-ca", str(files[0]))
        assert invoke(*arguments).exit_code == 1
        assert invoke(*arguments, "--tls-no-verify-host").exit_code == 0
        assert invoke(*arguments, GARIVINI_TLS_VERIFY_HOST="no").exit_code == 0
        settings.write_text("[tls]\nverify_host = false\n")
        assert invoke("--config", str(settings), *arguments).exit_code == 0
        assert invoke("--config", str(settings), *arguments, "--tls-verify-host").exit_code == 1


# One says so during the handshake, the other after it.
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_may_want_a_certificate(
    url: str, files: tuple[Path, Path], tmp_path: Path, newest: ssl.TLSVersion
) -> None:
    mine = certificate(tmp_path, "DNS:client")
    both = tmp_path / "both.pem"
    both.write_text(mine[0].read_text() + mine[1].read_text())
    with encrypted(*files, clients=mine[0], newest=newest) as server:
        arguments = ("health", "--db", url, "--job-server", server, "--tls-ca", str(files[0]))
        refused = invoke(*arguments)
        assert refused.exit_code == 2
        assert "it may require a certificate: name one with --tls-certificate" in refused.output
        shown = (*arguments, "--tls-certificate")
        assert invoke(*shown, str(mine[0]), "--tls-key", str(mine[1])).exit_code == 0
        assert invoke(*shown, str(both)).exit_code == 0


def test_system_is_what_the_system_trusts_and_nothing_is_no_tls() -> None:
    context = make_context("system")
    assert context is not None
    assert context.check_hostname
    assert make_context(None) is None
    assert make_context("none", "mine.pem", "mine.key") is None


def test_an_insert_submits_its_job_through_tls(url: str, files: tuple[Path, Path]) -> None:
    with encrypted(*files) as server:
        options = ("--db", url, "--job-server", server, "--tls-ca", str(files[0]))
        assert invoke("insert", "f", *options).exit_code == 0
        with blocking.Client(server, tls=make_context(str(files[0]))) as gearman:
            assert gearman.functions()[b"f"].queued == 1


def test_what_wakes_a_queue_runner_does_so_through_tls(url: str, files: tuple[Path, Path]) -> None:
    with Client(url) as client:
        client.insert_job("f")
    for arguments in (["jobs", "retry", "1"], ["jobs", "reschedule", "1", "--at", "+0"]):
        with encrypted(*files) as server:
            options = ("--db", url, "--job-server", server, "--tls-ca", str(files[0]))
            assert invoke(*arguments, *options).exit_code == 0
            with blocking.Client(server, tls=make_context(str(files[0]))) as gearman:
                assert gearman.functions()[WAKE.encode()].queued == 1, arguments


# ---- what is wrong with the settings


def test_what_is_wrong_with_a_file_is_said_before_anything_is_done(
    url: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    ca, key = map(str, files)
    other, _ = map(str, certificate(tmp_path, "DNS:other"))
    _, locked = map(str, certificate(tmp_path, "DNS:locked", passphrase="sesame"))
    noise = tmp_path / "noise.pem"
    noise.write_text("Dear diary")
    trust = ("--tls-ca", ca)
    for arguments, message in (
        (("--tls-ca", "none.pem"), "--tls-ca: 'none.pem' cannot be read: No such file"),
        (("--tls-ca", ""), "--tls-ca: '' cannot be read"),
        (("--tls-ca", str(tmp_path)), "cannot be read: Is a directory"),
        (("--tls-ca", str(noise)), "noise.pem has no certificate in PEM form"),
        (("--tls-ca", key), "has no certificate in PEM form"),
        (("--tls-certificate", ca), "name the trusted authorities with --tls-ca"),
        ((*trust, "--tls-key", key), "name the certificate with --tls-certificate"),
        ((*trust, "--tls-certificate", "none.pem"), "--tls-certificate: 'none.pem' cannot be read"),
        ((*trust, "--tls-certificate", ca, "--tls-key", "none.key"), "--tls-key: 'none.key' cannot be read"),
        ((*trust, "--tls-certificate", str(noise), "--tls-key", key), "noise.pem has no certificate"),
        ((*trust, "--tls-certificate", ca), "or it has no key"),
        ((*trust, "--tls-certificate", other, "--tls-key", key), "is not that of"),
        ((*trust, "--tls-certificate", ca, "--tls-key", locked), "has a passphrase, which is not supported"),
    ):
        result = invoke("insert", "f", "--db", url, *arguments)
        assert isinstance(result.exception, UsageError), (arguments, result.output, result.exception)
        assert message in str(result.exception), arguments
    assert Client(url).list_jobs() == []
    assert run("worker", "none.py", "--tls-ca", "none.pem").returncode == 2


def test_the_embedded_server_speaks_no_tls_and_says_so(url: str, files: tuple[Path, Path]) -> None:
    for roles in ([], ["gearman"], ["gearman", "queue-runner"]):
        result = invoke("run", *roles, "--db", url, "--tls-ca", str(files[0]))
        assert isinstance(result.exception, UsageError)
        assert "run the other roles only, or give --tls-ca none" in str(result.exception)


# ---- what is wrong with a server


def test_what_is_wrong_with_a_server_is_said_with_what_to_change(
    url: str, server: str, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = certificate(tmp_path, "DNS:gearman.example")
    with embedded() as plain, encrypted(*other) as misnamed:
        for address, ca, message in (
            (plain, files[0], "it may have no TLS on this port: name another port, or give --tls-ca none"),
            (server, other[0], "--tls-ca must name the authority that signed its certificate"),
            (server, "system", "--tls-ca must name the authority that signed its certificate"),
            (misnamed, other[0], "write --job-server as its certificate names it"),
        ):
            arguments = ("--db", url, "--job-server", address, "--tls-ca", str(ca))
            # The plain one says nothing to a handshake.
            with monkeypatch.context() as patch:
                if address == plain:
                    patch.setattr(tls, "PATIENCE", 1.0)
                    patch.setattr("garivini.cli.survey.PATIENCE", 1.0)
                health = invoke("health", *arguments)
                status = invoke("status", "-o", "json", *arguments)
            assert (health.exit_code, health.output.count("\n")) == (2, 1)
            assert health.output.startswith(f"Gearman server {address} cannot be reached: ")
            assert message in health.output
            assert message in status.output
    forgotten = invoke("health", "--db", url, "--job-server", server)
    assert "if it has TLS, name the trusted authorities with --tls-ca" in forgotten.output
    gone = invoke("health", "--db", url, "--job-server", plain, "--tls-ca", str(files[0]))
    assert gone.output == f"Gearman server {plain} cannot be reached: Connection refused\n"


# ---- commands that stay up


OWN_TLS = """
import os, ssl
worker.tls = ssl.create_default_context(cafile=os.environ["OWN_CA"])
"""


@pytest.mark.slow
class TestProcesses:
    """Commands as a user runs them."""

    def test_a_job_goes_from_insert_to_worker_through_tls(
        self, url: str, server: str, files: tuple[Path, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "work.py").write_text(MODULE)
        (tmp_path / "garivini.toml").write_text(f'[tls]\nca = "{files[0]}"\n')
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": server}
        with (
            command(tmp_path, "run", "queue-runner", **environment) as roles,
            command(tmp_path, "worker", "work.py", "-p", "1", **environment) as worker,
        ):
            assert run("insert", "note", "x", GARIVINI_TLS_CA=str(files[0]), **environment).returncode == 0
            until((tmp_path / "note-x").exists)
            until(lambda: Client(url).list_jobs() == [])
            # The QueueRunner's ear for wake-ups has its connection too.
            roles.wait_for("gearman.connected")
            assert (worker.stop(), roles.stop()) == (0, 0)
            assert "cannot be reached" not in worker.output + roles.output

    def test_a_module_with_a_tls_of_its_own_keeps_it(
        self, url: str, server: str, files: tuple[Path, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "work.py").write_text(MODULE + OWN_TLS)
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": server, "OWN_CA": str(files[0])}
        for ca in ("system", "none"):
            with command(
                tmp_path, "worker", "work.py", "-p", "1", GARIVINI_TLS_CA=ca, **environment
            ) as worker:
                worker.wait_for("gearman.connected")
                assert worker.stop() == 0

    def test_what_is_wrong_with_tls_is_said_at_the_start(
        self, url: str, server: str, files: tuple[Path, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "work.py").write_text(MODULE)
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": server, "GARIVINI_TLS_CA": "system"}
        for arguments in (["run", "queue-runner"], ["worker", "work.py", "-p", "1"]):
            with command(tmp_path, *arguments, **environment) as running:
                running.wait_for("--tls-ca must name the authority that signed its certificate; retrying")
                running.wait_for("gearman.unreachable")
                assert running.stop() == 0

    def test_dev_is_without_tls_whatever_the_settings_say(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"sqlite:///{tmp_path}/new.db"
        (tmp_path / "work.py").write_text(MODULE)
        (tmp_path / "garivini.toml").write_text('[tls]\nca = "none.pem"\ncertificate = "none.crt"\n')
        environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": f"127.0.0.1:{free_port()}"}
        with command(tmp_path, "dev", "work.py", **environment) as dev:
            dev.wait_for("worker.started")
            Client(url).insert_job("note", "x")
            until((tmp_path / "note-x").exists)
            assert dev.stop(signal.SIGINT) == 0
