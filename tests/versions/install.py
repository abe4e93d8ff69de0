"""Fetch servers of other versions from Debian's suites, beside the machine's packages and without root.

Each version gets a folder with all that it needs, its C library included, and its programs start with the
loader of that folder. Nothing outside of ``known.FOLDER`` changes. Where packages come from is what this
machine's apt is set up with.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from tests.versions.known import FOLDER, VERSIONS, Version

#: Debian's signing keys.
_KEYS: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_WRAPPER: Final = """\
#!/bin/sh
# Starts the program beside it with the libraries of its own suite.
LOCPATH={root}/usr/lib/locale
export LOCPATH
exec {loader} --inhibit-cache --library-path {libraries}{name} {program} "$@"
"""


def install(version: Version) -> None:
    """Install a version, unless it is there.

    Raises:
        RuntimeError: its package or number is not to be had.
    """
    if not version.suite:
        version.program(f"{version.kind}{version.number}")
        return
    if version.folder.exists() and (version.kind != "mysql" or version.template.exists()):
        return
    archives = _download(version)
    # A folder that has its final name is complete.
    partial = FOLDER / f"{version.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for archive in archives:
        _run("dpkg", "--extract", str(archive), str(partial))
    for program in version.programs:
        _wrap(version, partial, program)
    partial.rename(version.folder)
    if version.kind == "mysql":
        _initialise(version)
    for archive in archives:
        archive.unlink()


def _download(version: Version) -> list[Path]:
    """Download the packages with all that they depend on; return the files."""
    apt = FOLDER / "apt" / version.suite
    for folder in ("lists/partial", f"{version.name}/archives/partial"):
        apt.joinpath(folder).mkdir(parents=True, exist_ok=True)
    # No package counts as installed, so that none of the machine's is relied on.
    apt.joinpath("status").touch()
    apt.joinpath("sources").write_text(f"deb [signed-by={_KEYS}] {_mirror()} {version.suite} main\n")
    options = {
        "Dir::Etc::SourceList": apt / "sources",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::Status": apt / "status",
        "Dir::State::Extended_States": apt / "extended_states",
        "Dir::Cache": apt / version.name,
        "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", *words, "-qq", "update")
    found = re.search(
        r"^Version: (?:\d+:)?(\S+)", _run("apt-cache", *words, "show", version.packages[0]), re.M
    )
    if not found or not found[1].startswith(version.number):
        raise RuntimeError(f"{version.suite} has {found[1] if found else 'none'}, wanted {version.name}")
    _run(
        "apt-get",
        *words,
        "-qq",
        "--yes",
        "--no-install-recommends",
        "--download-only",
        "install",
        *version.packages,
    )
    return sorted(apt.joinpath(version.name, "archives").glob("*.deb"))


def _mirror() -> str:
    """Return where this machine's packages of Debian come from."""
    found = re.search(r"'(\S+/debian)/dists/", _run("apt-get", "update", "--print-uris"))
    if not found:
        raise RuntimeError("apt is set up with no mirror of Debian's")
    return found[1]


def _wrap(version: Version, root: Path, program: str) -> None:
    """Put a script in a program's place that starts it with its own loader and libraries."""
    path = root / program
    original = path.with_name(f".{path.name}.original")
    path.rename(original)
    # Debian 11 has the C library in /lib, later ones in /usr/lib.
    libraries = [*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")]
    (loader,) = (loader for folder in libraries for loader in folder.glob("ld-linux*.so.*"))
    text = _WRAPPER.format(
        root=version.folder,
        loader=version.folder / loader.relative_to(root),
        libraries=":".join(str(version.folder / folder.relative_to(root)) for folder in libraries),
        # Python is found again by its name. Loaders before glibc 2.33 know no such option.
        name=' --argv0 "$0"' if version.kind == "python" else "",
        program=version.folder / original.relative_to(root),
    )
    path.write_text(text)
    path.chmod(0o755)


def _initialise(version: Version) -> None:
    """Make the data folder that each server of MySQL's starts with a copy of."""
    partial = version.folder / "template.partial"
    shutil.rmtree(partial, ignore_errors=True)
    _run(
        version.program("mysqld"),
        "--no-defaults",
        "--initialize-insecure",  # the first start sets the password
        f"--basedir={version.folder / 'usr'}",
        f"--datadir={partial}",
        "--user=root",
        "--innodb-redo-log-capacity=32M",
        "--innodb-flush-log-at-trx-commit=0",
    )
    partial.joinpath("auto.cnf").unlink()  # each server has an id of its own
    _run("chmod", "-R", "a+rX", str(partial))
    partial.rename(version.template)


def _run(*words: str) -> str:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr}{done.stdout}")
    return done.stdout


def main(names: Sequence[str]) -> None:
    """Install the named versions, or all; say which could not be installed."""
    failed = []
    for name in names or VERSIONS:
        try:
            install(VERSIONS[name])
        except RuntimeError as error:
            failed.append(name)
            click.echo(f"{name}: {error}", err=True)
    if failed:
        sys.exit(f"not installed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
