"""The loader of SQL files, and what every such file must say."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import garivini.store
from garivini.store.dialects import DIALECTS
from garivini.store.sql_files import SqlTemplate, Statement, load, parse

SQL = Path(garivini.store.__file__).with_name("sql")
FILES = sorted(SQL.glob("*.sql"))
SQLITE = parse((SQL / "sqlite.sql").read_text(encoding="utf-8"), "?")


def one(text: str, placeholder: str = "?") -> SqlTemplate:
    (statement,) = parse(text, placeholder)
    (template,) = statement.templates
    return template


# ---- the loader


def test_values_become_the_drivers_placeholders_in_the_order_of_the_text() -> None:
    statement = one("-- name: find (b, a) -> rows\n-- Why.\nSELECT 1 WHERE a = :a AND b = :b OR a > :a\n")
    assert statement.bind({"a": 1, "b": 2}) == ("SELECT 1 WHERE a = ? AND b = ? OR a > ?\n", [1, 2, 1])


def test_another_driver_has_another_placeholder() -> None:
    text = "-- name: find (a) -> rows\n-- Why.\nSELECT :a\n"
    assert one(text, "%s").bind({"a": 1}) == ("SELECT %s\n", [1])


def test_a_cast_with_two_colons_is_no_value() -> None:
    text = "-- name: find (ids) -> rows\n-- Why.\nSELECT * FROM unnest(:ids::bigint[], '{}'::text[])\n"
    statement = one(text)
    assert statement.bind({"ids": 1})[0] == "SELECT * FROM unnest(?::bigint[], '{}'::text[])\n"


def test_a_list_expands_to_as_many_values_as_it_has() -> None:
    statement = one("-- name: find (a, ids) -> rows\n-- Why.\nSELECT :a WHERE id IN (:*ids) AND :a\n")
    assert statement.bind({"a": 0, "ids": [7, 8, 9]}) == (
        "SELECT ? WHERE id IN (?, ?, ?) AND ?\n",
        [0, 7, 8, 9, 0],
    )
    assert statement.bind({"a": 0, "ids": [7]}) == ("SELECT ? WHERE id IN (?) AND ?\n", [0, 7, 0])


EACH = """-- name: put (a, b, c) -> rows
-- Why.
INSERT INTO t (a, b)
VALUES
  (:a, :b + 1), -- each
RETURNING :c
"""


def test_a_line_for_each_row_is_repeated_between_what_is_before_and_after_it() -> None:
    rows = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    text, values = one(EACH).bind({"c": 9}, rows)
    assert text == "INSERT INTO t (a, b)\nVALUES\n  (?, ? + 1),\n  (?, ? + 1)\nRETURNING ?"
    assert values == [1, 2, 3, 4, 9]


def test_rows_may_be_statements_that_are_joined() -> None:
    statement = one("-- name: find (a) -> rows\n-- Why.\n(SELECT :a) UNION ALL -- each\n")
    assert statement.bind({}, [{"a": 1}, {"a": 2}]) == ("(SELECT ?) UNION ALL\n(SELECT ?)\n", [1, 2])


def test_one_row_needs_no_comma() -> None:
    assert "VALUES\n  (?, ? + 1)\nRETURNING" in one(EACH).bind({"c": 9}, [{"a": 1, "b": 2}])[0]


def test_comments_do_not_reach_the_driver() -> None:
    statement = one("-- name: find () -> one\n-- Why: not :this.\nSELECT 1\n-- And :that.\n")
    assert statement.bind({}) == ("SELECT 1\n", [])


def test_a_text_is_made_once_for_each_size() -> None:
    statement = one("-- name: find (ids) -> rows\n-- Why.\nSELECT :*ids\n")
    first = statement.bind({"ids": [1, 2]})[0]
    assert statement.bind({"ids": [3, 4]})[0] is first
    assert statement.bind({"ids": [3, 4, 5]})[0] is not first
    repeated = one(EACH)
    first = repeated.bind({"c": 1}, [{"a": 1, "b": 2}])[0]
    assert repeated.bind({"c": 2}, [{"a": 3, "b": 4}])[0] is first


def test_two_lists_of_other_sizes_make_other_texts() -> None:
    statement = one("-- name: find (a, b) -> rows\n-- Why.\nSELECT :*a FROM t WHERE x IN (:*b)\n")
    assert statement.bind({"a": [1], "b": [2, 3]})[0] == "SELECT ? FROM t WHERE x IN (?, ?)\n"
    assert statement.bind({"a": [1, 2], "b": [3]})[0] == "SELECT ?, ? FROM t WHERE x IN (?)\n"


def test_the_texts_that_are_kept_are_bounded_and_stay_right() -> None:
    statement = one("-- name: find (ids) -> rows\n-- Why.\nSELECT :*ids\n")
    for size in [*range(1, 600), *range(1, 600)]:
        text, values = statement.bind({"ids": range(size)})
        assert text.count("?") == len(values) == size
    assert len(statement._texts) < 600


def test_a_list_of_one_value_of_all_rows_is_one_placeholder() -> None:
    statement = one(
        "-- name: put (a, b) -> rows\n-- Why.\nSELECT * FROM unnest(:@a::text[], :@b::int[])\n", "%s"
    )
    rows = [{"a": "x", "b": 1}, {"a": "y", "b": 2}]
    assert statement.bind({}, rows) == (
        "SELECT * FROM unnest(%s::text[], %s::int[])\n",
        [["x", "y"], [1, 2]],
    )


def test_statements_under_one_name_are_cut_at_their_semicolons() -> None:
    (statement,) = parse(
        "-- name: take (a, b) -> rows\n-- Why.\n"
        "UPDATE t SET a = :a;\n-- Then.\nSELECT ';'\n FROM t WHERE b = :b\n",
        "?",
    )
    assert statement.parameters == {"a", "b"}
    values = {"a": 1, "b": 2}
    assert [template.bind(values) for template in statement.templates] == [
        ("UPDATE t SET a = ?\n", [1]),
        ("SELECT ';'\n FROM t WHERE b = ?\n", [2]),
    ]


@pytest.mark.parametrize(
    ("head", "body"), [("a", "SELECT 1"), ("", "SELECT :a"), ("a, b", "SELECT :a"), ("a", "SELECT :a, :*b")]
)
def test_a_head_that_names_other_parameters_than_the_text_is_refused(head: str, body: str) -> None:
    with pytest.raises(ValueError, match="statement find names"):
        parse(f"-- name: find ({head}) -> rows\n-- Why.\n{body}\n", "?")


@pytest.mark.parametrize(
    "head", ["find", "find (a)", "find (a) -> many", "find a -> rows", "find (a) -> rows or none"]
)
def test_a_head_that_is_none_is_refused(head: str) -> None:
    with pytest.raises(ValueError, match="not the head of a statement"):
        parse(f"-- name: {head}\n-- Why.\nSELECT :a\n", "?")


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="a"):
        one("-- name: find (a) -> rows\n-- Why.\nSELECT :a\n").bind({"b": 1})


# ---- the files


#: Names whose parameters are a dialect's own, for it runs them itself.
OWN = {
    "mysql": {"lanes", "insert", "insert_keyed", "insert_wide", "insert_keyed_wide"},
}
#: Names that a dialect alone has.
MORE = {
    "mysql": {
        *("insert_returning", "insert_keyed_returning", "insert_at", "insert_keyed_at"),
        *("cluster", "group_replication", "snapshots"),
    },
    "sqlite": {"times", "insert_many"},
}


def interface(path: Path) -> dict[str, tuple[frozenset[str], str]]:
    found = parse(path.read_text(encoding="utf-8"), "?")
    return {statement.name: (statement.parameters, statement.result) for statement in found}


def test_every_dialect_has_a_file_and_every_file_a_dialect() -> None:
    assert {path.stem for path in FILES} == {*DIALECTS, "mysql_folding"}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_file_defines_the_same_names_parameters_and_results(dialect: str) -> None:
    own = OWN.get(dialect, set())
    expected, found = interface(SQL / "postgresql.sql"), interface(SQL / f"{dialect}.sql")
    assert found.keys() - MORE.get(dialect, set()) == expected.keys()
    for name in expected.keys() - own:
        assert found[name] == expected[name], name


def test_a_file_for_folding_tables_has_only_statements_of_its_dialect() -> None:
    plain = interface(SQL / "mysql.sql")
    for name, values in interface(SQL / "mysql_folding.sql").items():
        assert values == plain[name], name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_defines_a_name_twice(path: Path) -> None:
    names = [statement.name for statement in parse(path.read_text(encoding="utf-8"), "?")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_below_the_head_of_every_statement_is_a_line_of_why(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    unexplained = [
        head
        for head, below in pairwise(lines)
        if head.startswith("-- name:") and not re.match(r"-- \w+\W+\w+", below)
    ]
    assert unexplained == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_statement_hides_an_error(path: Path) -> None:
    code = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
    assert not re.search(
        r"(?<!CREATE )\bOR\s+(IGNORE|REPLACE)\b|\bINSERT\s+IGNORE\b|\bREPLACE\s+INTO\b", code, re.IGNORECASE
    )
    # A key that must not be passed over is that of jobs alone, whose inserts have no such clause.
    for clause in re.findall(r"INTO\s+job\b[^;]*?(?:\n\n|\Z)", code):
        assert "ON DUPLICATE KEY" not in clause
    for conflict in re.findall(r"ON CONFLICT.*", code, re.IGNORECASE):
        assert re.search(r"ON CONFLICT \(\w+", conflict), f"passes over any conflict: {conflict}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_statements_name_the_rule_of_the_effective_state_and_do_not_repeat_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"lease_end\s+(NOT\s+)?IN\b|lease_end\s*[<>!]|run_after\s*(<|>|>=)\s*since", text)
    # Behind the fence the state alone does not suffice: the job may have been put off.
    for statement in re.split(r"^(?=-- name: )", text, flags=re.MULTILINE)[1:]:
        if "attempt = :attempt" in statement and re.search(r"state( \+ 0)? IN \(1, 2, 3\)", statement):
            assert "{held}" in statement, statement.splitlines()[0]


def test_parse_refuses_a_condition_that_does_not_exist() -> None:
    with pytest.raises(KeyError, match="helt"):
        parse("-- name: find () -> rows\n-- Why.\nSELECT {helt}\n", "?")


def test_load_for_a_folding_table_replaces_some_statements() -> None:
    plain, folding = load("mysql", "%s"), load("mysql", "%s", folding=True)
    assert plain.keys() == folding.keys()
    replaced = {name for name in plain if plain[name].templates[0].parts != folding[name].templates[0].parts}
    assert replaced == interface(SQL / "mysql_folding.sql").keys()


def test_load_takes_how_arrays_are_written() -> None:
    template = load("postgresql", "%s", str)["complete"].templates[0]
    assert template.bind({"jobids": [1, 2]})[1] == ["[1, 2]"]


def test_a_dialect_is_loaded_with_its_own_placeholder() -> None:
    found = load("sqlite", "?")
    assert found.keys() == {statement.name for statement in SQLITE}
    assert found["complete"].templates[0].bind({"jobids": [1, 2]})[0].count("?") == 2


@pytest.mark.parametrize("statement", SQLITE, ids=lambda statement: statement.name)
def test_every_statement_has_a_placeholder_for_each_value(statement: Statement) -> None:
    values: dict[str, Any] = {name: [1, 2] for name in statement.parameters}
    for template in statement.templates:
        text, bound = template.bind(values, [values, values])
        assert text.count("?") == len(bound)
        assert ":" not in text
