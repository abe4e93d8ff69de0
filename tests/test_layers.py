"""One way down: who may import whom, and what no module may do. Read from the source, nothing is imported."""

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

from tests.source import SOURCE, statements, tree_of

#: The rooms of the package from the bottom up, and the lower ones that each may import.
MAY_IMPORT: Final[Mapping[str, frozenset[str]]] = {
    room: frozenset(lower.split())
    for room, lower in {
        "errors": "",
        "backoff": "",
        "clock": "",
        "events": "",
        "model": "errors",
        "databases": "errors",
        "settings": "errors databases",
        "gearman": "errors backoff events",
        "store": "errors events model databases",
        "submission": "model gearman",
        "outcome_events": "events model submission",
        "client": "errors backoff events model databases settings gearman store submission outcome_events",
        "keeper": "errors backoff clock events model gearman store outcome_events",
        "worker": "errors backoff clock events model settings gearman client keeper",
        "roles": "errors backoff clock events model gearman store submission outcome_events keeper",
        "app": "errors model databases settings client store worker",
        "testing": "errors model databases client store keeper worker app",
        "cli": "errors events model databases settings gearman store submission client keeper worker roles "
        "app",
        "contrib": "errors model client settings store keeper worker app cli",
        "__main__": "cli",
        "job": "model",
        "aio": "client",
        # The face of the package: looks names up when they are used.
        "": "",
    }.items()
}
#: Rooms and modules that do no I/O and read no clock.
PURE: Final = ("errors", "backoff", "events", "model", "databases")
IMPURE_THERE: Final = frozenset({"garivini.events.throttle"})
#: Parts of ``gearman`` that do no I/O and know no time.
SANS_IO: Final = tuple(
    f"garivini.gearman.{name}."
    for name in ("packets", "protocol", "requests", "admin", "servers", "broker", "jobs", "queues", "console")
)
#: Rooms whose time and randomness come from a ``Clock``, so that the simulation can give them its own. The
#: parent of a worker's processes, the lines of the log and the times of files are not simulated.
CLOCKED: Final = ("keeper", "worker", "roles")
UNCLOCKED_THERE: Final = frozenset(
    {"garivini.worker.supervisor", "garivini.worker.joblog", "garivini.worker.file_changes"}
)
CLOCKS: Final = frozenset({"time", "random", "secrets", "uuid", "queue"})
FORBIDDEN_THERE: Final = frozenset({"asyncio", "socket", "time", "ssl", "selectors", "threading", "select"})
EXECUTES: Final = frozenset({"execute", "executemany", "executescript", "exec_driver_sql", "text"})
UNSAFE_MODULES: Final = frozenset({"pickle", "marshal", "shelve", "dill", "cloudpickle"})
UNSAFE_CALLS: Final = frozenset({"eval", "exec", "compile", "__import__"})
#: Maximum lines of a module, and of a function without its signature and docstring.
MODULE_LINES: Final = 400
FUNCTION_LINES: Final = 40


class Package:
    """The source of a package, as far as its imports and calls go."""

    def __init__(self, source: Path, name: str) -> None:
        self.name = name
        self._imports: dict[str, list[str]] = {}
        self._nodes: dict[str, list[ast.AST]] = {}
        self.trees = {
            self._module(source, path): tree_of(path) for path in sorted((source / name).rglob("*.py"))
        }

    @staticmethod
    def _module(source: Path, path: Path) -> str:
        parts = path.relative_to(source).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def part(self, module: str) -> str:
        """Name the part of the package that a module belongs to; the root's is empty."""
        return module.split(".")[1] if "." in module else ""

    def imports(self, module: str) -> list[str]:
        """Return what a module imports, wherever in it: also within functions, not for types alone."""
        if module not in self._imports:
            self._imports[module] = list(self._read_imports(module))
        return self._imports[module]

    def nodes(self, module: str) -> list[ast.AST]:
        """Return all nodes of a module."""
        if module not in self._nodes:
            self._nodes[module] = list(ast.walk(self.trees[module]))
        return self._nodes[module]

    def _calls(self, module: str) -> Iterator[ast.Call]:
        return (node for node in self.nodes(module) if isinstance(node, ast.Call))

    def _read_imports(self, module: str) -> Iterator[str]:
        for node in _running(self.trees[module]):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in self.trees else str(node.module)

    def own_imports(self, module: str) -> set[str]:
        """Return the modules of the package that a module imports."""
        return {name for name in self.imports(module) if name in self.trees}

    def wrong_imports(self) -> list[str]:
        """Return the imports that do not lead down."""
        return [
            f"{module} imports {name}"
            for module in self.trees
            for name in sorted(self.own_imports(module))
            if self.part(name)
            and self.part(name) != self.part(module)
            and self.part(name) not in MAY_IMPORT[self.part(module)]
        ]

    def uses_of_root(self) -> set[str]:
        """Return what modules take from the root of the package, other than its modules."""
        uses = set()
        for module in self.trees:
            for node in self.nodes(module):
                if isinstance(node, ast.ImportFrom) and node.module == self.name:
                    names = {alias.name for alias in node.names}
                    uses |= {name for name in names if f"{self.name}.{name}" not in self.trees}
                elif isinstance(node, ast.Attribute) and _is_name(node.value, self.name):
                    uses.add(node.attr)
        return uses

    def cycle(self) -> list[str]:
        """Return modules that import each other in a ring, or nothing."""
        try:
            TopologicalSorter({module: self.own_imports(module) for module in self.trees}).prepare()
        except CycleError as error:
            return list(error.args[1])
        return []

    def forbidden_in(self, modules: list[str], forbidden: frozenset[str]) -> list[str]:
        """Return the imports of ``forbidden`` outside modules, here or in what is imported from here."""
        return [
            f"{module} imports {name}"
            for module in modules
            for name in self.imports(module)
            if name.split(".")[0] in forbidden
        ]

    def built_sql(self, part: str) -> list[str]:
        """Return the places of a part where a text that is put together is given to be executed."""
        return [
            f"{module}:{call.lineno}"
            for module in self.trees
            if self.part(module) == part
            for call in self._calls(module)
            if _called(call) in EXECUTES
            and any(_put_together(argument) for argument in [*call.args, *(k.value for k in call.keywords)])
        ]

    def unsafe(self) -> list[str]:
        """Return the places where data could become code."""
        found = [
            f"{module} imports {name}"
            for module in self.trees
            for name in self.imports(module)
            if name.split(".")[0] in UNSAFE_MODULES
        ]
        return found + [
            f"{module}:{call.lineno}"
            for module in self.trees
            for call in self._calls(module)
            if isinstance(call.func, ast.Name) and call.func.id in UNSAFE_CALLS
        ]

    def long(self) -> list[str]:
        """Return the modules and functions that are longer than a reader can hold in mind."""
        found = []
        for module, tree in self.trees.items():
            if tree.body and (tree.body[-1].end_lineno or 0) > MODULE_LINES:
                found.append(module)
            for node in statements(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    code = node.body[1:] if ast.get_docstring(node) is not None else node.body
                    if code and (code[-1].end_lineno or 0) - code[0].lineno >= FUNCTION_LINES:
                        found.append(f"{module}.{node.name}")
        return found


def _running(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield every statement but those under ``if TYPE_CHECKING``."""
    rest = [tree]
    while rest:
        for child in ast.iter_child_nodes(rest.pop()):
            if isinstance(child, ast.expr):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            rest.append(child)
            if isinstance(child, ast.stmt):
                yield child


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _put_together(argument: ast.expr) -> bool:
    match argument:
        case ast.JoinedStr() | ast.BinOp():
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
            return True
    return False


@pytest.fixture(scope="module")
def garivini() -> Package:
    return Package(SOURCE.parent, "garivini")


# ---- the package


def test_every_part_is_known_here(garivini: Package) -> None:
    assert {garivini.part(module) for module in garivini.trees} <= MAY_IMPORT.keys()


def test_imports_lead_down(garivini: Package) -> None:
    assert garivini.wrong_imports() == []


def test_there_is_no_ring_of_imports_not_even_of_those_within_functions(garivini: Package) -> None:
    assert garivini.cycle() == []


def test_the_root_gives_its_own_modules_nothing_but_the_version(garivini: Package) -> None:
    assert garivini.uses_of_root() <= {"__version__"}


def test_the_protocol_knows_neither_sockets_nor_time(garivini: Package) -> None:
    modules = [module for module in garivini.trees if f"{module}.".startswith(SANS_IO)]
    assert garivini.forbidden_in(modules, FORBIDDEN_THERE) == []
    reached = {name for module in modules for name in garivini.own_imports(module)}
    assert reached <= {*modules, "garivini.errors"}


def test_the_pure_modules_do_no_io(garivini: Package) -> None:
    modules = [name for name in garivini.trees if garivini.part(name) in PURE and name not in IMPURE_THERE]
    assert garivini.forbidden_in(modules, FORBIDDEN_THERE | {"sqlalchemy", "sqlite3", "os"}) == []


def test_keepers_workers_and_roles_read_no_clock_but_the_one_that_they_are_given(garivini: Package) -> None:
    clocked = [name for name in garivini.trees if garivini.part(name) in CLOCKED]
    assert garivini.forbidden_in([name for name in clocked if name not in UNCLOCKED_THERE], CLOCKS) == []


def test_the_simulation_replaces_nothing_in_modules() -> None:
    simulation = Package(Path(__file__).parent, "simulation")
    modules = [name for name in simulation.trees if not name.startswith("simulation.test_")]
    assert simulation.forbidden_in(modules, frozenset({"unittest", "pytest"})) == []


def test_no_statement_is_put_together_from_values(garivini: Package) -> None:
    assert garivini.built_sql("store") == []


def test_no_data_becomes_code(garivini: Package) -> None:
    assert garivini.unsafe() == []


@pytest.mark.parametrize("part", ["model", "gearman", "store", "client", "keeper", "worker", "roles"])
def test_the_docstring_of_a_part_names_its_modules(garivini: Package, part: str) -> None:
    docstring = ast.get_docstring(garivini.trees[f"garivini.{part}"]) or ""
    modules = {name.split(".")[2] for name in garivini.trees if name.startswith(f"garivini.{part}.")}
    named = set(re.findall(r"``(\w+)``", docstring))
    assert modules - named == set()


def test_no_module_and_no_function_is_long(garivini: Package) -> None:
    assert garivini.long() == []


# ---- the checker itself


def made_up(directory: Path, **files: str) -> Package:
    """Make a package of files, in which ``__`` in a name stands for a folder."""
    for name, text in files.items():
        path = directory / "garivini" / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "garivini" / "__init__.py").write_text("")
    return Package(directory, "garivini")


@pytest.mark.parametrize(
    ("module", "text", "imported"),
    [
        ("store__database", "from garivini.gearman.packets import encode", "garivini.gearman.packets"),
        ("store__database", "from garivini.gearman import packets", "garivini.gearman.packets"),
        ("store__database", "import garivini.gearman.packets", "garivini.gearman.packets"),
        ("store__database", "from garivini import client", "garivini.client"),
        ("client", "def call():\n    from garivini.cli import run", "garivini.cli.run"),
        ("client", "try:\n    import garivini.worker\nexcept ImportError:\n    pass", "garivini.worker"),
        ("errors", "from garivini.model.job import Job", "garivini.model.job"),
        ("worker", "from garivini.cli import run", "garivini.cli.run"),
    ],
)
def test_an_import_that_leads_up_or_aside_is_found(
    tmp_path: Path, module: str, text: str, imported: str
) -> None:
    files = dict.fromkeys(
        ["errors", "model__job", "gearman__packets", "store__database", "client", "worker", "cli__run"], ""
    )
    package = made_up(tmp_path, **files | {module: text})
    assert package.wrong_imports() == [f"garivini.{module.replace('__', '.')} imports {imported}"]


def test_an_import_that_leads_down_is_not_found_fault_with(tmp_path: Path) -> None:
    package = made_up(
        tmp_path,
        errors="",
        model__job="from garivini.errors import UsageError",
        client="from garivini.model import job",
    )
    assert package.wrong_imports() == []
    assert package.own_imports("garivini.client") == {"garivini.model.job"}


def test_an_import_for_types_alone_does_not_count(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from garivini.model.job import Job"
    assert made_up(tmp_path, errors=text, model__job="").wrong_imports() == []


def test_a_ring_is_found_also_within_functions_and_one_layer(tmp_path: Path) -> None:
    package = made_up(
        tmp_path,
        store__database="from garivini.store.shards import Shards",
        store__shards="def call():\n    from garivini.store import database",
    )
    assert package.wrong_imports() == []
    assert {"garivini.store.database", "garivini.store.shards"} <= set(package.cycle())


def test_a_name_taken_from_the_root_is_found(tmp_path: Path) -> None:
    package = made_up(
        tmp_path, job="", client="from garivini import Worker, job", worker="import garivini\ngarivini.Job"
    )
    assert package.uses_of_root() == {"Worker", "Job"}


def test_an_import_of_a_socket_is_found_within_a_function_too(tmp_path: Path) -> None:
    package = made_up(
        tmp_path, gearman__packets="def call():\n    from asyncio.streams import open_connection"
    )
    assert package.forbidden_in(["garivini.gearman.packets"], FORBIDDEN_THERE) == [
        "garivini.gearman.packets imports asyncio.streams"
    ]


@pytest.mark.parametrize(
    "call",
    [
        'cursor.execute(f"SELECT {x}")',
        'cursor.executemany("SELECT " + x)',
        'connection.exec_driver_sql("SELECT %s" % x)',
        'execute("SELECT {}".format(x))',
        'text(text=f"SELECT {x}")',
        'cursor.execute(", ".join(x))',
    ],
)
def test_a_statement_put_together_is_found(tmp_path: Path, call: str) -> None:
    package = made_up(tmp_path, store__database=f"x = 1\n{call}", client=call)
    assert package.built_sql("store") == ["garivini.store.database:2"]


def test_a_fixed_statement_with_values_is_not_found_fault_with(tmp_path: Path) -> None:
    text = 'cursor.execute("SELECT ?", [x])\ncursor.execute(statement)\ncursor.execute(*bind(x))\nf"{x}"'
    assert made_up(tmp_path, store__database=text).built_sql("store") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import pickle", "garivini.job imports pickle"),
        ("def f():\n    from marshal import loads", "garivini.job imports marshal"),
        ("eval('1')", "garivini.job:1"),
        ("exec(code)", "garivini.job:1"),
    ],
)
def test_what_makes_code_of_data_is_found(tmp_path: Path, text: str, found: str) -> None:
    assert made_up(tmp_path, job=text).unsafe() == [found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f():\n" + "    x = 1\n" * FUNCTION_LINES, []),
        ("def f():\n" + "    x = 1\n" * (FUNCTION_LINES + 1), ["garivini.job.f"]),
        ('async def f():\n    """Do it."""\n' + "    x = 1\n" * (FUNCTION_LINES + 1), ["garivini.job.f"]),
        ("x = 1\n" * (MODULE_LINES + 1), ["garivini.job"]),
    ],
)
def test_what_is_long_is_found(tmp_path: Path, text: str, found: list[str]) -> None:
    assert made_up(tmp_path, job=text).long() == found
