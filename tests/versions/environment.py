"""The virtual environment of a version of Python, with what ``requirements/dev.txt`` pins."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.versions.known import Version

_ROOT: Final = Path(__file__).parents[2]


def environment(version: Version) -> str:
    """Make or update the environment of a version; return its interpreter.

    Raises:
        RuntimeError: the version is not installed, or a package cannot be.
    """
    folder = _ROOT / f".venv/versions/{version.name}"
    python = folder / "bin/python"
    if not python.exists():
        _run(version.program(f"python{version.number}"), "-m", "venv", "--without-pip", str(folder))
    # This interpreter's pip: a new version's own may not run without its whole suite.
    pip = (sys.executable, "-m", "pip") if _has_pip(sys.executable) else ("python3", "-m", "pip")
    for words in (
        ("--require-hashes", "-r", "requirements/dev.txt"),
        ("--no-deps", "--no-build-isolation", "-e", "."),
    ):
        _run(*pip, "--python", str(python), "--quiet", "--disable-pip-version-check", "install", *words)
    return str(python)


def _has_pip(python: str) -> bool:
    return (
        subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )


def _run(*words: str) -> None:
    done = subprocess.run(
        words, cwd=_ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr}{done.stdout}")
