import ast
import io
from pathlib import Path

import pytest
from rich.console import Console

import garivini
from garivini.cli import demo
from garivini.cli.demo import files
from garivini.errors import UsageError

TREE = Path(garivini.__file__).parent


def run(tmp_path: Path, most: int) -> tuple[bool, str]:
    """Run the demo on our own sources; return whether all was right, and what it said."""
    output = io.StringIO()
    console = Console(file=output, width=120)
    right = demo._Demo(console, tmp_path, processes=2).run(TREE, most)
    return right, output.getvalue()


@pytest.mark.slow
def test_the_demo_kills_twice_and_finds_nothing_lost(tmp_path: Path) -> None:
    right, said = run(tmp_path, 40)
    assert right, said
    assert said.count("SIGKILL") == 2
    assert "Nothing lost" in said
    for name in files.BROKEN:
        assert f"{name} " in said
    assert said.count("SyntaxError") == 3
    assert "runs again" in said


@pytest.mark.slow
def test_a_wrong_result_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain loop is made to disagree about one file; the workers are other processes and are not."""
    analyse = files.analyse

    def other(path: Path) -> files.Analysis:
        found = analyse(path)
        return files.Analysis(1, 1, "0" * 64, 0) if path.name == "job.py" else found

    monkeypatch.setattr(files, "analyse", other)
    right, said = run(tmp_path, 40)
    assert not right
    assert "job.py: another result" in said
    assert "Nothing lost" not in said


def test_files_are_analysed() -> None:
    found = files.analyse(TREE / "errors.py")
    assert found.bytes == (TREE / "errors.py").stat().st_size
    assert found.lines == len((TREE / "errors.py").read_text().splitlines())
    assert files.analyse(TREE / "store/sql/sqlite.sql").functions == 0
    assert files.analyse(TREE / "model/lease.py").functions == 2


@pytest.mark.slow
def test_functions_are_counted_as_a_walk_over_the_whole_tree_finds_them() -> None:
    for path in TREE.rglob("*.py"):
        tree = ast.parse(path.read_bytes())
        every = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert files.analyse(path).functions == len(every), path


def test_the_tree_is_listed_in_order_without_what_is_not_its_own(tmp_path: Path) -> None:
    for name in ("b.py", "a.txt", "picture.png", "site-packages/c.py", "__pycache__/d.py", "sub/e.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [str(path.relative_to(tmp_path)) for path in files.list_files(tmp_path, 10)]
    assert names == ["a.txt", "b.py", "sub/e.md"]
    assert len(files.list_files(tmp_path, 2)) == 2
    with pytest.raises(UsageError, match="not a folder"):
        files.list_files(tmp_path / "none", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no source"):
        files.list_files(tmp_path / "empty", 1)
