"""The source as trees, for tests of it: each file is parsed once per process."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src" / "garivini"
PATHS: Final = sorted(SOURCE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield every statement below a node, however deep, without a visit to expressions: most nodes."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        below = getattr(node, name, ())
        if isinstance(below, list):
            for child in below:
                if isinstance(child, ast.stmt):
                    yield child
                yield from statements(child)
