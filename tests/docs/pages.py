"""The documentation, held to the code: its blocks run, its commands exist, its tables name what there is.

A comment before a block of a page tells how to treat it:

* ``<!-- file: NAME -->``: it is a file of this name. A Python one is executed in the page's namespace too.
* ``<!-- change: NAME -->``: its line takes the place of the last line of that file.
* ``<!-- env: NAME=VALUE -->``: set for this block and those after it.
* ``<!-- parse only -->``: its commands are read, not run. ``<!-- commands: parse only -->``: all of a page.
* ``<!-- not run: REASON -->``: it is compiled and not executed.
* ``<!-- run: slow -->``, ``<!-- synopsis -->``, ``<!-- defaults -->``: a test has it.

``<!-- then: work -->`` lets the page's ``worker``, or that of its ``app``, run what is due. Blocks of a page
share a namespace, a working directory with a new ``garivini.db``, and an embedded server whose address stands
in for 127.0.0.1:4730.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.processes import replace_file

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
SOURCE: Final = ROOT / "src" / "garivini"
PAGES: Final = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINKING: Final = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]


@dataclass
class Block:
    """A fenced block, or (of language ``then``) a comment that stands for something to do."""

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


MARKS: Final = frozenset(
    {"file", "change", "env", "parse only", "not run", "run", "synopsis", "defaults", "commands", "roles"}
)


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    marks: dict[str, str] = {}
    fence: Block | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence is not None:
            if line == "```":
                found.append(fence)
                fence = None
            else:
                fence.text += f"{line}\n"
        elif line.startswith("```"):
            fence = Block(page, number, line[3:], "", marks)
            marks = {}
        elif comment := re.fullmatch(r"<!-- ([a-z ]+)(?:: (.*))? -->", line):
            if comment[1] == "then":
                found.append(Block(page, number, "then", comment[2]))
            else:
                assert comment[1] in MARKS, f"{page}:{number}: {comment[1]} means nothing here"
                marks[comment[1]] = comment[2] or ""
        elif line:
            assert not marks or set(marks) == {"commands"}, (
                f"{page}:{number}: a comment stands before no block"
            )
            if marks:
                found.append(Block(page, number, "page", "", marks))
                marks = {}
    assert fence is None, f"{page}: a block has no end"
    return found


def of_language(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language in languages]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def block_of(name: str, mark: str, value: str = "") -> Block:
    (found,) = [block for block in blocks(DOCS / name) if block.marks.get(mark) == value]
    return found


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table rows below a heading, up to the next heading."""
    _, _, rest = text.partition(f"\n{heading}\n")
    assert rest, f"there is no heading {heading!r}"
    body = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    table = [line for line in body.splitlines() if line.startswith("|") and not line.startswith("|--")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def names(text: str) -> list[str]:
    """Return what stands in backticks, fenced blocks left out."""
    return re.findall(r"`([^`]+)`", prose(text))


def prose(text: str) -> str:
    """Return text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def changed(file: Path, block: Block) -> None:
    """Put the line of a block in the place of a file's last line."""
    replace_file(file, "".join([*file.read_text().splitlines(keepends=True)[:-1], block.text]))


def section(text: str, name: str) -> str:
    return re.split(rf"^## {name}$", text, flags=re.M)[1].partition("\n## ")[0]


def without_blocks(path: Path) -> str:
    return prose(path.read_text(encoding="utf-8"))
