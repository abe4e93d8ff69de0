"""The versions that are tested, and the folders they are installed in."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["mysql", "mariadb", "postgresql", "gearmand", "python"]

#: Where versions are installed. Root's servers run as another user, who may not look into root's home.
FOLDER: Final = Path(
    os.environ.get("GARIVINI_TESTS_VERSIONS")
    or (
        "/var/cache/garivini-tests"
        if os.getuid() == 0
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "garivini-tests"
    )
)


@dataclass(frozen=True)
class Version:
    """A version of a server (or of Python) as a suite of Debian has it."""

    kind: Kind
    number: str
    #: The suite of Debian; empty if none has it, and only the machine itself may.
    suite: str
    #: Debian's packages with their dependencies; the first one is the server.
    packages: tuple[str, ...]
    #: Programs to be run, below the folder.
    programs: tuple[str, ...]

    @property
    def name(self) -> str:
        """Kind and version number, as in ``mysql-9.7``."""
        return f"{self.kind}-{self.number}"

    @property
    def folder(self) -> Path:
        """The root of its file system."""
        return FOLDER / self.name

    @property
    def template(self) -> Path:
        """The folder of MySQL's data as it is before the first start."""
        return self.folder / "template"

    def program(self, name: str) -> str:
        """Return the path of a program.

        Raises:
            RuntimeError: the version is not installed.
        """
        for folder in ("usr/sbin", "usr/bin", f"usr/lib/postgresql/{self.number}/bin"):
            path = self.folder / folder / name
            if path.exists():
                return str(path)
        if not self.suite and (found := _installed(name, self.number)):
            return found
        raise RuntimeError(f"{self.name} is not installed, or has no {name}: `make versions`")


def _installed(name: str, number: str) -> str | None:
    """Return the path of the machine's own program, also if pyenv has it."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    found = sorted(pyenv.glob(f"versions/{number}.*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


def _postgresql(number: str, suite: str) -> Version:
    programs = tuple(f"usr/lib/postgresql/{number}/bin/{name}" for name in ("initdb", "postgres"))
    return Version("postgresql", number, suite, (f"postgresql-{number}",), programs)


def _python(number: str, suite: str) -> Version:
    packages = (f"python{number}", f"python{number}-venv", "libstdc++6", "libgcc-s1")
    return Version("python", number, suite, packages, (f"usr/bin/python{number}",))


_VERSIONS: Final = (
    Version("mysql", "9.7", "sid", ("mysql-server-core",), ("usr/sbin/mysqld",)),
    Version(
        "mariadb",
        "11.8",
        "trixie",
        ("mariadb-server-core", "mariadb-client-core"),
        ("usr/sbin/mariadbd", "usr/bin/my_print_defaults", "usr/bin/resolveip"),
    ),
    _postgresql("13", "bullseye"),
    _postgresql("17", "trixie"),
    _postgresql("18", "sid"),
    Version("gearmand", "1.1.21", "trixie", ("gearman-job-server",), ("usr/sbin/gearmand",)),
    Version("python", "3.12", "", (), ()),
    _python("3.13", "trixie"),
    _python("3.14", "sid"),
)
#: By name.
VERSIONS: Final[Mapping[str, Version]] = {version.name: version for version in _VERSIONS}


def chosen(kind: Kind) -> Version | None:
    """Return the version of a kind of server that this run of the tests uses; None for the machine's."""
    found = [VERSIONS[name] for name in os.environ.get("GARIVINI_TESTS_SERVERS", "").split()]
    return next((version for version in found if version.kind == kind), None)
