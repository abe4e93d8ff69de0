"""The input of the demo, source and text files, and their analysis."""

import ast
import hashlib
import os
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from garivini.errors import UsageError

_SUFFIXES: Final = frozenset(
    (
        ".bat .c .cfg .cpp .css .csv .go .h .html .in .ini .java .js .json .md .pem .php .pl .pm .ps1 .py "
        ".pyi .rb .rs .rst .sh .sql .toml .ts .txt .xml .yaml .yml"
    ).split()
)
_LEFT_OUT: Final = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "node_modules", ".git", ".venv"}
)

#: Files that cannot be analysed, each for another reason.
BROKEN: Final = {
    "broken_syntax.py": b"def half(:\n    return 1\n",
    "broken_encoding.py": b"# -*- coding: no-such-encoding -*-\nname = 'x'\n",
    "broken_bytes.py": b"name = 'M\xfcller'  # Latin-1, and does not say so\n",
}


@dataclass(frozen=True, slots=True)
class Analysis:
    """The result of a job: facts about a file."""

    bytes: int
    lines: int
    sha256: str
    #: Functions and methods in Python source; 0 in other files.
    functions: int

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return asdict(self)


def analyse(path: Path) -> Analysis:
    """Read a file and analyse it; Python source is parsed.

    Raises:
        SyntaxError, ValueError: the file is Python source that cannot be parsed.
        OSError: the file cannot be read.

    """
    data = path.read_bytes()
    functions = 0
    if path.suffix == ".py":
        functions = _functions(ast.parse(data, filename=str(path)).body)
    lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    return Analysis(len(data), lines, hashlib.sha256(data).hexdigest(), functions)


def _functions(body: list[Any]) -> int:
    """Return the number of functions in statements and their nested statements. Expressions have none."""
    count = 0
    for node in body:
        count += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            count += _functions(getattr(node, name, []))
    return count


def default_tree() -> Path:
    """Return the directory of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def list_files(tree: Path, most: int) -> list[Path]:
    """Return at most ``most`` source and text files below ``tree``, sorted.

    Raises:
        UsageError: ``tree`` is not a directory, or has no such files.

    """
    if not tree.is_dir():
        raise UsageError(f"{tree} is not a folder")
    found: list[Path] = []
    for folder, folders, names in os.walk(tree):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix in _SUFFIXES and path.is_file() and _utf8(path):
                found.append(path)
                if len(found) == most:
                    return found
    if not found:
        raise UsageError(f"{tree} has no source or text files")
    return found


def _utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def write_broken(folder: Path) -> list[Path]:
    """Write the broken files into a directory and return their paths."""
    paths = []
    for name, content in BROKEN.items():
        path = folder / name
        path.write_bytes(content)
        paths.append(path)
    return paths
