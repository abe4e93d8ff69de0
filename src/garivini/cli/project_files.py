"""The Python files of the user's project, which are watched for changes."""

import os
from collections.abc import Iterator
from pathlib import Path


def project_folder(target: str) -> Path:
    """Return the folder of the module that a command was given: that of its file, or the working folder."""
    name, _, _ = target.partition(":")
    return Path(name).resolve().parent if name.endswith(".py") else Path.cwd()


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files of a project, without installed packages.

    Hidden directories, ``node_modules`` and virtual environments of any name are skipped: they have thousands
    of files that nobody edits.
    """
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [name for name in folders if not _is_installed(here / name)]
        yield from (here / name for name in files if name.endswith(".py"))


def _is_installed(folder: Path) -> bool:
    """Return whether a directory has files of a package manager or another tool."""
    return (
        folder.name.startswith(".")
        or folder.name in ("node_modules", "site-packages", "__pycache__")
        or (folder / "pyvenv.cfg").exists()  # every virtual environment has this file (PEP 405)
        or (folder / "conda-meta").exists()
    )
