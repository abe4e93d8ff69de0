"""Links, tables and lines of the pages."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, LINKING, PAGES, ROOT, SOURCE, names, without_blocks

#: The folders of the source.
ROOMS = frozenset(path.name for path in SOURCE.iterdir() if path.is_dir())


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", without_blocks(path)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", without_blocks(file), flags=re.M)
            assert anchor in map(slug, headings), f"{path}: {target}"


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target).resolve() for target in re.findall(r"\]\(([^)]+)\)", index.read_text())}
    assert linked == {path.resolve() for path in PAGES if path.is_relative_to(DOCS) and path != index}


def test_files_of_the_source_that_pages_name_are_there() -> None:
    for path in PAGES:
        for span in names(without_blocks(path)):
            if span.startswith("src/"):
                assert (ROOT / span).exists(), f"{path}: {span}"
            elif span.split("/")[0] in ROOMS and re.fullmatch(r"[a-z_/]+(\.py)?", span):
                assert (SOURCE / span).exists(), f"{path}: {span}"


@pytest.mark.parametrize("path", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_whole(path: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", without_blocks(path), flags=re.M):
        assert re.match(r"\|.*\n\|[-|: ]+\|\n", table), f"{path}: rows without a heading: {table}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_fit_a_page(path: Path) -> None:
    if path.is_relative_to(DOCS) and path.name != "decisions.md":
        assert [line for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 120] == []
