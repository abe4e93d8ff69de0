"""The tables ``[functions.NAME]`` of the settings file, which ``garivini run`` declares."""

from pathlib import Path

import pytest

from garivini.databases import DatabaseSettings
from garivini.model.policy import FunctionPolicy
from garivini.store.database import Database
from tests.commands import run
from tests.databases import sqlite_url
from tests.processes import command, until
from tests.servers import free_port


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_url(tmp_path)


@pytest.mark.slow
def test_run_declares_the_functions_of_the_settings_file(url: str, tmp_path: Path) -> None:
    (tmp_path / "garivini.toml").write_text(
        '[functions.resize]\nlease = 600\nrate = "100/m"\nburst = 10\nmax_failures = 3\n'
        '[functions."send mail"]\nenvelope = "latin-1"\nretry = \'{"backoff": [10, 60]}\'\n'
        "dead_retention = 30\n"
    )
    database = Database(DatabaseSettings(1, url))
    database.set_function("resize", FunctionPolicy(max_failures=7))
    with command(
        tmp_path, "run", "queue-runner", "--job-server", f"127.0.0.1:{free_port()}", GARIVINI_DB=url
    ) as roles:
        until(lambda: len(database.functions()) == 2)
        assert roles.stop() == 0
    stored = database.function_settings()
    database.close()
    assert stored["resize"].declared == {"lease": 600, "rate": "100/m", "burst": 10, "max_failures": 3}
    assert stored["resize"].policy == FunctionPolicy(lease=600, rate="100/m", burst=10, max_failures=7)
    assert stored["send mail"].policy == FunctionPolicy(
        envelope="latin-1", retry='{"backoff": [10, 60]}', dead_retention=30
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[functions.f]\nrate = "fast"\n', "[functions.f]: a rate is a number of jobs"),
        ("[functions.f]\nlease = 1\n", "[functions.f]: a lease"),
        ("[functions.f]\nretry = '{'\n", "[functions.f]: "),
        ("[functions.f]\nleese = 5\n", "key leese of [functions.f] is unknown; did you mean lease?"),
        ('[functions.f]\nlease = "5"\n', "[functions.f] lease is not a whole number"),
        ('[functions.""]\nlease = 5\n', "function"),
        ("functions = 5\n", "write [functions.NAME] and its keys below"),
    ],
)
def test_run_refuses_wrong_functions_in_the_settings_file(
    url: str, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "garivini.toml").write_text(text)
    ended = run("--config", str(tmp_path / "garivini.toml"), "run", "queue-runner", GARIVINI_DB=url)
    assert ended.returncode == 2
    assert words in ended.stderr
