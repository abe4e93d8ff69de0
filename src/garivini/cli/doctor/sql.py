"""Checks of the settings of a database, which one statement has read. No I/O."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from garivini.cli.doctor.finding import Finding

#: The settings of a database by name.
Facts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A setting, a condition for its value, and the recommended change."""

    setting: str
    well: Callable[[str], bool]
    why: str
    #: Statements and commands are in backticks. The value of a setting replaces its name in braces.
    do: str
    #: Whether jobs can be lost, or do not run, if the condition is not met.
    serious: bool = True

    def grade(self, subject: str, facts: Facts) -> Iterator[Finding]:
        """Yield a finding if the setting exists and does not meet the condition."""
        value = facts.get(self.setting)
        if value is not None and not self.well(value):
            grade: Final = "fault" if self.serious else "advice"
            yield Finding(grade, subject, f"{self.setting} is {value}: {self.why}", self.do.format_map(facts))


def _is(*values: str) -> Callable[[str], bool]:
    return lambda value: value.lower() in values


def _least(number: int) -> Callable[[str], bool]:
    return lambda value: int(float(value)) >= number


def _newer(*least: int) -> Callable[[str], bool]:
    return lambda value: _version(value) >= least


def _version(text: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version: 10, 11, 6 of 10.11.6-MariaDB."""
    numbers = []
    for part in text.replace("-", ".").split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _set_global(name: str, value: object) -> str:
    return f"`SET GLOBAL {name} = {value}`, and write it into the server's [mysqld] section, so that it stays"


def _alter_system(change: str) -> str:
    return f"`ALTER SYSTEM {change}` and `SELECT pg_reload_conf()`"


_LOSES: Final = "a crash may undo a commit, and lose a job that was acknowledged"
_STANDBY: Final = f"start the standby, or do without it: {_alter_system('RESET synchronous_standby_names')}"
#: Seconds after which a transaction that holds a snapshot is reported.
_SNAPSHOT: Final = 600
#: Seconds for which the server should keep an idle connection: even idle roles use theirs more often.
_IDLE: Final = 60
#: Number of rows above which a table should have been analyzed.
_NOT_ANALYZED: Final = 10_000

_SQLITE: Final = (
    Rule("version", _newer(3, 35), "too old", "use a Python with SQLite 3.35 or newer"),
    Rule("journal_mode", _is("wal"), "readers and the writer block each other", "run `garivini db upgrade`"),
    Rule(
        "file_permissions",
        lambda value: not int(value, 8) & 0o007,
        "every user of this machine can read the jobs and their arguments",
        "`chmod o-rwx {file}*`",
        serious=False,
    ),
    Rule(
        "network_file_system",
        lambda _: False,
        "SQLite's locks do not work between machines there, so the file can be damaged and jobs lost",
        "stop all programs, and move the file and those beside it to a disk of the machine that uses it",
    ),
)
_MYSQL: Final = (
    Rule(
        "innodb_flush_log_at_trx_commit",
        _is("1"),
        _LOSES,
        _set_global("innodb_flush_log_at_trx_commit", 1),
    ),
    Rule(
        "innodb_doublewrite",
        _is("on", "1"),
        _LOSES,
        "write innodb_doublewrite = ON into the server's [mysqld] section, and restart it",
    ),
    Rule(
        "read_only",
        _is("off", "0"),
        "it accepts no jobs",
        "use the primary; if this is to be the primary: `SET GLOBAL read_only = OFF`",
    ),
    Rule(
        "job_engine",
        _is("innodb"),
        "it has no transactions, so jobs can be lost and can run twice",
        "stop all programs, then `ALTER TABLE job ENGINE = InnoDB`",
    ),
    Rule(
        "max_connections",
        _least(50),
        "each role and each process of a worker has up to four connections per database",
        _set_global("max_connections", 151),
        serious=False,
    ),
    Rule(
        "max_allowed_packet",
        _least(32 * 1024 * 1024),
        "a job of 16 MB does not fit",
        _set_global("max_allowed_packet", 64 * 1024 * 1024),
        serious=False,
    ),
    Rule(
        "innodb_buffer_pool_size",
        _least(512 * 1024 * 1024),
        "small for a table of a million jobs",
        _set_global("innodb_buffer_pool_size", 512 * 1024 * 1024) + "; more if the server has the memory",
        serious=False,
    ),
    Rule(
        "wsrep_cluster_size",
        lambda value: value != "2",
        "if one of two Galera nodes fails, the other one refuses every statement",
        "add a third node, or an arbitrator (garbd)",
        serious=False,
    ),
    Rule(
        "wait_timeout",
        _least(_IDLE),
        "seconds after which the server closes an idle connection, so that calls and roles connect again",
        _set_global("wait_timeout", 28800),
        serious=False,
    ),
    Rule(
        "stats_auto_recalc",
        _is("on"),
        "the statistics of the table job are not renewed, and searches of jobs are planned by old ones",
        "`ALTER TABLE job STATS_AUTO_RECALC = 1` and `ANALYZE TABLE job`",
        serious=False,
    ),
    Rule(
        "oldest_snapshot",
        lambda value: int(value) < _SNAPSHOT,
        "seconds for which a transaction has kept deleted rows in the table, so that each claim reads them",
        "end that transaction, or its session: `KILL {snapshot_holder}`",
        serious=False,
    ),
    Rule(
        "group_replication_single_primary_mode",
        _is("on"),
        "several members take writes, and locks are those of one member, so two could claim the same job",
        "`SELECT group_replication_switch_to_single_primary_mode()`",
    ),
    Rule(
        "group_replication_consistency",
        lambda value: value.upper() != "EVENTUAL",
        "a new primary answers before it has applied all that the former one has committed",
        _set_global("group_replication_consistency", "BEFORE_ON_PRIMARY_FAILOVER") + ", on all members",
        serious=False,
    ),
    Rule(
        "general_log",
        _is("off", "0"),
        "each statement is written to the log",
        _set_global("general_log", "OFF"),
        serious=False,
    ),
)
_POSTGRESQL: Final = (
    Rule("version", _newer(13), "too old", "use PostgreSQL 13 or newer"),
    Rule("fsync", _is("on"), _LOSES, _alter_system("SET fsync = on")),
    Rule(
        "full_page_writes", _is("on"), "a crash may damage pages", _alter_system("SET full_page_writes = on")
    ),
    Rule("in_recovery", _is("f", "false", "off"), "it is a standby and accepts no jobs", "use the primary"),
    Rule(
        "synchronous_standbys",
        lambda value: value != "0",
        'each commit waits for a standby, and none is connected: inserts end in "outcome unknown"',
        _STANDBY,
    ),
    Rule(
        "commits_without_standby",
        _is("0"),
        "sessions that have waited for a standby for over 5 s; each occupies a connection until one answers",
        _STANDBY,
    ),
    Rule(
        "autovacuum",
        _is("on"),
        "deleted rows stay in the table, and each claim reads them",
        _alter_system("SET autovacuum = on"),
    ),
    Rule(
        "job_autovacuum",
        _is("true", "on", "1"),
        "deleted rows stay in the table, and each claim reads them",
        "`ALTER TABLE job RESET (autovacuum_enabled)`",
    ),
    Rule(
        "rows_not_analyzed",
        lambda value: int(value) < _NOT_ANALYZED,
        "the table job has never been analyzed, and searches of jobs are planned as if it were small",
        "`ANALYZE job`, and check why autovacuum has not analyzed it",
        serious=False,
    ),
    Rule(
        "oldest_snapshot",
        lambda value: int(value) < _SNAPSHOT,
        "seconds for which a transaction has kept deleted rows in the table, so that each claim reads them",
        "end that transaction, or its session: `SELECT pg_terminate_backend({snapshot_holder})`",
        serious=False,
    ),
    Rule(
        "synchronous_commit",
        lambda value: value != "off",
        "a crash may undo a transaction of your own in which you insert a job; Garivini's own are safe",
        "where it is set: `ALTER ROLE {role} RESET synchronous_commit`, the database, or postgresql.conf",
        serious=False,
    ),
    Rule(
        "settings_of_others",
        _is("none"),
        "another program has left these in a session that the pooler gives to Garivini, too",
        "give Garivini a database user of its own: then the pooler gives it sessions of its own",
    ),
    Rule(
        "prepare_threshold",
        lambda _: False,
        "the pooler may run a statement in a session in which it was not prepared",
        "remove prepare_threshold from the URL, unless PgBouncer has max_prepared_statements above 0",
        serious=False,
    ),
)
_RULES: Final[Mapping[str, Sequence[Rule]]] = {
    "sqlite": _SQLITE,
    "mysql": _MYSQL,
    "postgresql": _POSTGRESQL,
}


def grade(dialect: str, subject: str, facts: Facts) -> list[Finding]:
    """Return the findings about the settings of a database."""
    rules = [*_RULES[dialect], *(_after(dialect, facts))]
    return [finding for rule in rules for finding in rule.grade(subject, facts)]


def takes_writes(facts: Facts) -> bool:
    """Return whether the database accepts jobs, as far as its settings go."""
    refusing = ("read_only", "transaction_read_only", "in_recovery")
    return all(_is("off", "0", "false")(facts.get(name, "off")) for name in refusing)


def unseen(subject: str, facts: Facts) -> Iterator[Finding]:
    """Yield a note on facts that the database user has no privilege to read."""
    if facts.get("snapshots") == "hidden":
        yield Finding(
            "ok",
            subject,
            "transactions that keep deleted rows were not checked: the user lacks the privilege PROCESS",
            "run doctor as an administrator, too",
        )


def grade_nodes(subject: str, nodes: Collection[str]) -> Iterator[Finding]:
    """Yield a fault if connections reach several nodes of a Galera cluster."""
    if len(nodes) > 1:
        yield Finding(
            "fault",
            subject,
            f"connections reach several nodes of a Galera cluster: {', '.join(sorted(nodes))}. Locks have "
            "effect on one node only, so two QueueRunners could claim the same job",
            "send all connections to one node, and to another only when it has failed: docs/how-to/galera.md",
        )


def _after(dialect: str, facts: Facts) -> Iterator[Rule]:
    """Yield the rules that depend on another setting."""
    if dialect == "postgresql" and facts.get("in_recovery") != "true":  # a standby is always read-only
        yield Rule(
            "transaction_read_only",
            _is("off"),
            "it accepts no jobs",
            "use the primary; if this is to be the primary, where it is set: "
            f"{_alter_system('RESET default_transaction_read_only')}, for the role, or for the database",
        )
    if dialect != "mysql":
        return
    if facts.get("log_bin", "").lower() in ("on", "1"):
        yield Rule("sync_binlog", _is("1"), _LOSES, _set_global("sync_binlog", 1))
    if "job_collation" in facts and not facts["job_collation"].endswith(("_bin", "binary")):
        yield Rule(
            "job_collation",
            lambda _: False,
            "function names and unique keys that differ only in case, or in trailing spaces, count as equal",
            "keep it while processes of the original use the table; later convert the columns",
            serious=False,
        )
    if facts.get("original_table", "0") != "0":
        yield Rule(
            "functions_with_rules",
            _is("0"),
            "the table has the index for QueueRunners of the original, which keep no limits and no pauses",
            "when none of them runs: `DROP INDEX {original_index} ON job`, which also makes inserts cheaper",
            serious=False,
        )
        yield Rule(
            "default_envelope",
            _is("json", "latin-1"),
            "workers of the original receive other bytes than were inserted if no envelope is set",
            "run `garivini functions set --default --envelope latin-1`; with json if no such worker is left",
        )
