"""Which tests run on a version of a server or of Python."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tests.versions.known import Kind


@dataclass(frozen=True)
class Run:
    """One run of pytest."""

    #: Which tests are left out, as pytest's ``-m``; so are the long ones.
    marks: str
    #: The folders and files that run, and the column of the page that counts them: the longest match.
    columns: Mapping[str, str]
    #: Processes at the same time.
    processes: int = 2

    @property
    def words(self) -> tuple[str, ...]:
        """The command line for pytest."""
        parallel = ("-n", str(self.processes), "--dist", "worksteal") if self.processes > 1 else ()
        paths = [
            path for path in self.columns if not any(path.startswith(f"{other}/") for other in self.columns)
        ]
        return (*parallel, "-m", f"{self.marks} and not soak", *paths)

    def column(self, classname: str) -> str:
        """Return the column of a test, of which the dotted name of its module or class is given."""
        found = [
            path
            for path in self.columns
            if f"{classname}.".startswith(path.removesuffix(".py").replace("/", ".") + ".")
        ]
        return self.columns[max(found, key=len)]


@dataclass(frozen=True)
class Table:
    """A table of the page: a row per version, and a column per group of tests."""

    kinds: tuple[Kind, ...]
    runs: tuple[Run, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The groups of tests, in order."""
        return tuple(dict.fromkeys(column for run in self.runs for column in run.columns.values()))


def _with(column: str, *paths: str) -> dict[str, str]:
    return dict.fromkeys(paths, column)


_KILLS: Final = "kills under load"
_SHARED, _ALONE = "servers and not alone", "servers and alone"
DATABASES: Final = Table(
    ("mysql", "mariadb", "postgresql"),
    (
        Run(
            _SHARED,
            {
                "tests/store/conformance": "conformance",
                "tests/store": "store, plans, locks, errors",
                **_with(
                    "clients, workers, roles, bench",
                    *("tests/test_bench.py", "tests/test_controller.py", "tests/test_doctor.py"),
                    *("tests/test_failover.py", "tests/test_foreign_lock.py", "tests/test_frameworks.py"),
                    *("tests/test_keeper_faults.py", "tests/test_limits.py", "tests/test_recognition.py"),
                    *("tests/test_rolling_upgrade.py", "tests/test_scheduler.py"),
                    *("tests/test_split_inserts.py", "tests/test_wrong_input.py"),
                ),
            },
        ),
        Run(_ALONE, _with(_KILLS, "tests/kills/test_faults.py"), processes=1),
    ),
)
GEARMANDS: Final = Table(
    ("gearmand",),
    (
        Run(
            _SHARED,
            {
                "tests/gearman": "protocol",
                "tests/peers": "other languages",
                **_with(
                    "roles and lost connections",
                    *(
                        "tests/test_controller.py",
                        "tests/test_injector_faults.py",
                        "tests/test_lost_links.py",
                    ),
                ),
                "tests/kills/test_gearmand.py": _KILLS,
            },
        ),
        Run(_ALONE, _with(_KILLS, "tests/test_controller_load.py"), processes=1),
    ),
)
PYTHONS: Final = Table(
    ("python",),
    (
        Run("not servers and not slow and not alone", {"tests": "quick tests without servers"}),
        Run(
            "not servers and slow and not alone",
            _with(
                "commands and processes",
                *("tests/test_cli.py", "tests/test_cli_exits.py", "tests/test_cli_tls.py"),
                *("tests/test_cli_worker.py", "tests/test_demo.py", "tests/test_supervisor.py"),
                "tests/test_worker_process.py",
            ),
        ),
        Run(
            _SHARED,
            _with(
                "drivers of databases", "tests/store/conformance/test_insert.py", "tests/store/test_pools.py"
            ),
        ),
        Run("not servers and alone", _with(_KILLS, "tests/kills/test_kills.py"), processes=1),
    ),
)
TABLES: Final = (DATABASES, GEARMANDS, PYTHONS)

#: Which tests run on a kind, as pytest's ``-k``; the others do without it, and `make test` runs them.
SELECTED: Final[Mapping[Kind, str]] = {
    "mysql": "not sqlite and not postgresql",
    "mariadb": "not sqlite and not postgresql",
    "postgresql": "not sqlite and not mysql and not mariadb",
    "gearmand": "not embedded and not sqlite and not mysql and not mariadb",  # one database suffices
    "python": "",
}
