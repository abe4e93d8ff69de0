"""``garivini schedules``."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from garivini.databases import DatabaseSettings
from garivini.model.schedule import Schedule
from garivini.store.database import Database
from garivini.store.schedules import schedule_rows
from tests.commands import run
from tests.databases import sqlite_url
from tests.processes import command, until
from tests.servers import free_port


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database with its tables."""
    return sqlite_url(tmp_path)


def done(url: str, *arguments: str) -> str:
    ended = run("schedules", *arguments, GARIVINI_DB=url)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def entries(url: str, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done(url, *(arguments or ("list",)), "-o", "json"))
    return found


def test_set_creates_a_schedule_that_list_and_show_show(url: str) -> None:
    text = done(
        url, "set", "nightly", "report", "--cron", "0 3 * * *", "--zone", "Europe/Berlin", "--arg", "grün"
    )
    assert re.match(r"nightly is set in database 1 .*, next tick: \d{4}-\d\d-\d\d 03:00:00 \+0[12]00\n", text)
    assert "nightly\treport\t0 3 * * * Europe/Berlin\tactive\t" in done(url, "list")
    shown = done(url, "show", "nightly")
    for words in (
        "argument             grün",
        "At 03:00 every day",
        "missed ticks         last",
        "cron, funcname",
    ):
        assert words in shown
    (entry,) = entries(url)
    assert (entry["cron"], entry["arg"], entry["status"], entry["jobs"]) == ("0 3 * * *", "grün", "active", 0)
    assert entries(url, "show", "nightly") == [entry]


def test_set_changes_what_is_given(url: str) -> None:
    done(url, "set", "s", "f", "--every", "60", "--priority", "high", "--flag", "controller")
    done(url, "set", "s", "--missed", "all", "--missed-window", "600", "--overlap", "queue")
    (entry,) = entries(url)
    assert (
        entry.items()
        >= {
            "funcname": "f",
            "every": 60,
            "priority": "high",
            "flag": "controller",
            "missed": "all",
            "missed_window": 600,
            "overlap": "queue",
        }.items()
    )
    assert "all, 600 s" in done(url, "show", "s")
    done(url, "set", "s", "--cron", "5 * * * * *")
    assert (entries(url)[0]["every"], entries(url)[0]["cron"]) == (None, "5 * * * * *")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("set", "s", "--every", "5"), "name its function"),
        (("set", "s", "f"), "either a cron expression or an interval"),
        (("set", "s", "f", "--every", "5", "--cron", "* * * * *"), "either --cron or --every"),
        (("set", "s", "f", "--cron", "* * *"), "is not a cron expression"),
        (("set", "s", "f", "--cron", "0 3 * * *", "--zone", "Berlin"), "time zone 'Berlin' is unknown"),
        (("set", "s"), "at least one value"),
        (("set", "a\nb", "f", "--every", "5"), "cannot name a schedule"),
        (("show", "s"), "there is no schedule 's'"),
        (("pause", "s"), "there is no schedule 's'"),
        (("resume", "s"), "there is no schedule 's'"),
        (("run", "s"), "there is no schedule 's'"),
        (("remove", "s"), "there is no schedule 's'"),
        (("reset", "s"), "there is no schedule 's'"),
        (("next", "s"), "there is no schedule 's'"),
        (("next",), "name of a schedule, or --cron"),
        (("next", "--cron", "x"), "is not a cron expression"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(url: str, arguments: tuple[str, ...], words: str) -> None:
    ended = run("schedules", *arguments, GARIVINI_DB=url)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_pause_resume_run_and_remove(url: str) -> None:
    done(url, "set", "s", "f", "--every", "86400")
    done(url, "pause", "s")
    assert "\tpaused\t-\t" in done(url, "list")
    assert done(url, "run", "s") == "1:1\n"
    again = run("schedules", "run", "s", GARIVINI_DB=url)
    assert again.returncode == 75
    assert "job 1:1 of schedule 's' has not ended" in again.stderr
    assert "is resumed, next tick: " in done(url, "resume", "s")
    assert "last job             1:1" in done(url, "show", "s")
    done(url, "remove", "s")
    assert done(url, "list") == "no schedule\n"


def test_next_prints_the_next_ten_times(url: str) -> None:
    done(url, "set", "s", "f", "--cron", "0 9 * * mon", "--zone", "America/New_York")
    lines = done(url, "next", "s").splitlines()
    assert len(lines) == 10
    assert all(re.fullmatch(r"Mon \d{4}-\d\d-\d\d 09:00:00 -0[45]00", line) for line in lines)
    tries = entries(url, "next", "--cron", "0 9 * * mon", "--zone", "America/New_York", "--count", "3")
    assert len(tries) == 3
    assert tries[0].keys() == {"tick", "time"}


def test_list_shows_a_schedule_that_another_program_has_made_wrong(url: str) -> None:
    done(url, "set", "s", "f", "--every", "60")
    database = Database(DatabaseSettings(1, url))
    with database.transaction() as statements:
        values = schedule_rows(statements)[0] | {"name": "w\x1b[31m", "cron": "x", "every": None, "zone": "?"}
        values |= {"priority": 7, "missed": "x", "overlap": "x", "override": "no JSON", "next_tick": 10**17}
        statements("copy_schedule", **values)
    database.close()
    text = done(url, "list")
    assert "w\\x1b[31m\tf\tx ?\twrong: " in text
    assert f"next tick            {10**17}" in done(url, "show", "w\x1b[31m")
    assert "in words             -" in done(url, "show", "w\x1b[31m")


def test_a_new_schedule_goes_to_its_home_and_stays_where_it_is(tmp_path: Path) -> None:
    first, second = (sqlite_url(tmp_path, name) for name in ("one.db", "two.db"))
    done(first, "set", "s", "f", "--every", "60")
    both = f"{first} {second}"
    for name in ("s", "a", "b", "c", "d"):
        done(both, "set", name, "f", "--every", "60")
    homes = {entry["schedule"]: entry["dbid"] for entry in entries(both)}
    assert homes["s"] == 1
    assert set(homes.values()) == {1, 2}
    assert len(entries(both)) == 5


def test_drain_moves_the_schedules(tmp_path: Path) -> None:
    first, second = (sqlite_url(tmp_path, name) for name in ("one.db", "two.db"))
    both = f"{first} {second}"
    done(first, "set", "s", "f", "--every", "86400", "--arg", "x")
    done(first, "run", "s")
    done(first, "pause", "s")
    (before,) = entries(first)
    ended = run("db", "drain", "1", GARIVINI_DB=both)
    assert ended.returncode == 0, ended.stderr
    (after,) = entries(both)
    assert after == {**before, "dbid": 2, "last_jobid": None}
    done(both, "resume", "s")


def test_reset_goes_back_to_what_code_declares(url: str) -> None:
    database = Database(DatabaseSettings(1, url))
    database.declare_schedule("s", Schedule(funcname="f", every=60))
    done(url, "set", "s", "--every", "5")
    done(url, "reset", "s")
    assert [(entry["every"], entry["override"], entry["declared"]) for entry in entries(url)] == [
        (60, [], True)
    ]
    database.close()


# ---- the settings file


@pytest.mark.slow
def test_run_declares_the_schedules_of_the_settings_file(url: str, tmp_path: Path) -> None:
    (tmp_path / "garivini.toml").write_text(
        '[schedules.nightly-report]\nfuncname = "report"\ncron = "0 3 * * *"\nzone = "Europe/Berlin"\n'
        'arg = "grün"\n[schedules."each minute"]\nfuncname = "f"\nevery = 60\noverlap = "allow"\n'
    )
    server = f"127.0.0.1:{free_port()}"
    with command(tmp_path, "run", "queue-runner", "--job-server", server, GARIVINI_DB=url) as roles:
        until(lambda: len(entries(url)) == 2 and not any(entry["retired"] for entry in entries(url)))
        assert roles.stop() == 0
    each_minute, nightly = entries(url)
    assert (each_minute["every"], each_minute["overlap"], each_minute["declared"]) == (60, "allow", True)
    assert (nightly["funcname"], nightly["arg"], nightly["zone"]) == ("report", "grün", "Europe/Berlin")
    assert nightly["override"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[schedules.s]\nfuncname = "f"\n', "[schedules.s]: a schedule has either a cron"),
        ('[schedules.s]\nfuncname = "f"\nevery = 5\nmissed = "x"\n', "[schedules.s]: missed 'x' is unknown"),
        ("[schedules.s]\nevery = 5\n", "[schedules.s]: there is no such schedule yet: name its function"),
        ("[schedules.s]\nevry = 5\n", "key evry of [schedules.s] is unknown; did you mean every?"),
        ('[schedules.s]\nevery = "5"\n', "[schedules.s] every is not a whole number"),
        ("[schedules]\nevery = 5\n", "write [schedules.NAME] and its keys below"),
        ("schedules = 5\n", "write [schedules.NAME] and its keys below"),
        ('[schedules."mysql://u:pw@h"]\nevry = 5\n', "of [schedules.…] is unknown"),
    ],
)
def test_run_refuses_wrong_schedules_in_the_settings_file(
    url: str, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "garivini.toml").write_text(text)
    ended = run("--config", str(tmp_path / "garivini.toml"), "run", "queue-runner", GARIVINI_DB=url)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "pw" not in ended.stderr
