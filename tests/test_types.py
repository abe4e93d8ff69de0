"""Types are complete: no type checker has to infer the type of a public attribute."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source import PATHS, SOURCE, statements, tree_of


def without_type(tree: ast.Module) -> list[str]:
    """Return the public attributes of public classes that are assigned and nowhere annotated."""
    return [
        f"{kind.name}.{name}"
        for kind in statements(tree)
        if isinstance(kind, ast.ClassDef) and not kind.name.startswith("_")
        for name in sorted(set(_assigned(kind)) - set(_declared(kind)))
        if not name.startswith("_")
    ]


def _own_attribute(target: ast.expr) -> str | None:
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
        return target.attr
    return None


def _assigned(kind: ast.ClassDef) -> Iterator[str]:
    for node in statements(kind):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                    if name := _own_attribute(part):
                        yield name


def _declared(kind: ast.ClassDef) -> Iterator[str]:
    for node in statements(kind):
        if isinstance(node, ast.AnnAssign):
            if isinstance(node.target, ast.Name):
                yield node.target.id
            elif name := _own_attribute(node.target):
                yield name
        elif isinstance(node, ast.FunctionDef):  # a property
            yield node.name


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_public_attributes_have_types(path: Path) -> None:
    assert without_type(tree_of(path)) == []


def test_without_type_finds_an_attribute_without_annotation() -> None:
    text = "class A:\n    b: int\n    def __init__(self):\n        self.b = self._c = 1\n        "
    assert without_type(ast.parse(text + "self.d = 1")) == ["A.d"]
    assert without_type(ast.parse(text + "self.d: int = 1")) == []
    assert without_type(ast.parse(text + "self.b, self.d = 1, 2")) == ["A.d"]
