"""``garivini functions``: the settings of functions."""

from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import click

from garivini.cli.function_schemas import schema
from garivini.cli.options import databases, output
from garivini.cli.output import Column, Form, print_json, print_table, say, visible
from garivini.cli.pauses import inexact, pause, pause_text, resume
from garivini.errors import UsageError
from garivini.model.function_settings import SETTINGS, FunctionSettings
from garivini.model.new_jobs import new_job
from garivini.model.policy import DEFAULT, ENVELOPES, NO_POLICY, Envelope, FunctionPolicy
from garivini.model.unique import ON_DUPLICATE, UNIQUE_SCOPES, OnDuplicate, UniqueScope
from garivini.store.original import check_exact
from garivini.store.shards import Shards


@click.group()
def functions() -> None:
    """List functions and change their settings."""


@functions.command("list")
@databases
@output
def list_(dbs: list[str], output: Form) -> None:
    """List functions that have jobs or settings, with their jobs by state.

    \b
    Examples:
      garivini functions list
      garivini functions list -o json
    """
    found: dict[str, dict[str, Any]] = {}
    with closing(Shards(dbs)) as shards:
        for database in shards:
            for funcname, policy in database.functions().items():
                found.setdefault(funcname, {"function": funcname}).update(asdict(policy))
            for count in database.counts():
                unset = {"function": count.funcname, **asdict(FunctionPolicy())}
                jobs = found.setdefault(count.funcname, unset).setdefault("jobs", {})
                name = count.state.name.lower()
                jobs[name] = jobs.get(name, 0) + count.jobs
    entries = [{"jobs": {}, **found[name]} for name in sorted(found)]
    if output != "table":
        print_json(entries, output)
        return
    rows = []
    for entry in entries:
        # The name of an unknown state is its number.
        jobs = ", ".join(
            f"{count} {state}" if state.isalpha() else f"{count} in state {state}"
            for state, count in entry["jobs"].items()
        )
        set_ = ", ".join(
            f"{name} {str(entry[name]).lower() if name in ('renews', 'fair') else entry[name]}"
            for name in SETTINGS
            if entry[name] is not None
        )
        if entry["paused_until"] is not None:
            set_ = ", ".join(filter(None, (pause_text(entry["paused_until"]), set_)))
        rows.append([entry["function"] or "(default)", jobs or "-", set_ or "-"])
    print_table((Column("function"), Column("jobs"), Column("settings", rank=1)), [rows], none="no function")


@functions.command("set")
@click.argument("funcname", required=False)
@databases
@click.option(
    "--default", is_flag=True, help="Instead of FUNCNAME: set the envelope of functions that have none."
)
@click.option("--lease", type=int, metavar="SECONDS", help="Lease of a dispatched job.")
@click.option(
    "--deadline", type=int, metavar="SECONDS", help="Maximum time of a job on a worker that does not renew."
)
@click.option(
    "--renews/--no-renews",
    default=None,
    help="Whether all its workers renew. If it is not set, a Worker sets it to yes.",
)
@click.option(
    "--envelope",
    type=click.Choice(ENVELOPES),
    help="Payload. json; latin-1: the same in the form of the original, for its workers; raw: the argument.",
)
@click.option("--max-failures", type=int, metavar="N", help="Failures after which a job is dead.")
@click.option(
    "--retention", type=int, metavar="SECONDS", help="How long a job is kept after success with its result."
)
@click.option(
    "--max-running",
    type=int,
    metavar="N",
    help="How many jobs may be in flight at a time: dispatched and not ended yet.",
)
@click.option(
    "--retry", metavar="JSON", help='When a failed job runs again, such as {"backoff": [10, 60, 600]}.'
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Maximum time of a job on a Worker.")
@click.option(
    "--cancel-grace",
    type=int,
    metavar="SECONDS",
    help="End the process of a def that still runs this time after its job was cancelled.",
)
@click.option(
    "--dead-retention", type=int, metavar="DAYS", help="How long a dead job is kept; by default for ever."
)
@click.option(
    "--rate",
    metavar="N/s|m|h|d",
    help="How many jobs may start per second, minute, hour or day, such as 100/m.",
)
@click.option("--burst", type=int, metavar="N", help="How many jobs may start at once under the rate.")
@click.option(
    "--unique-scope",
    type=click.Choice(UNIQUE_SCOPES),
    help="How long a job holds its unique key: until it is complete or dead, or until its row is deleted.",
)
@click.option(
    "--unique-window",
    type=int,
    metavar="SECONDS",
    help="How long a unique key stays taken after an insert, also if the job is complete.",
)
@click.option(
    "--on-duplicate", type=click.Choice(ON_DUPLICATE), help="Effect of an insert whose unique key is taken."
)
@click.option(
    "--max-delay",
    type=int,
    metavar="SECONDS",
    help="How long debounce puts a job off, from its first insert.",
)
@click.option(
    "--expires",
    type=int,
    metavar="SECONDS",
    help="Discard a job that has not been handed out within this time after it was due.",
)
@click.option(
    "--partition-max-running",
    type=int,
    metavar="N",
    help="How many jobs of each partition may be in flight at a time.",
)
@click.option(
    "--partition-rate", metavar="N/s|m|h|d", help="How many jobs of each partition may start, as --rate."
)
@click.option(
    "--partition-burst", type=int, metavar="N", help="How many may start at once under the partition's rate."
)
@click.option("--fair/--no-fair", default=None, help="Whether the partitions take turns.")
@click.option("--coalesce-max", type=int, metavar="JOBS", help="Maximum jobs of a bundle.")
@click.option("--coalesce-wait", type=int, metavar="SECONDS", help="Maximum wait of a job for its bundle.")
@click.option("--reset", is_flag=True, help="First remove the settings that were set before.")
@inexact
def set_(
    funcname: str | None,
    dbs: list[str],
    default: bool,
    lease: int | None,
    deadline: int | None,
    renews: bool | None,
    envelope: Envelope | None,
    max_failures: int | None,
    retention: int | None,
    max_running: int | None,
    retry: str | None,
    timeout: float | None,
    cancel_grace: int | None,
    dead_retention: int | None,
    rate: str | None,
    burst: int | None,
    unique_scope: UniqueScope | None,
    unique_window: int | None,
    on_duplicate: OnDuplicate | None,
    max_delay: int | None,
    expires: int | None,
    partition_max_running: int | None,
    partition_rate: str | None,
    partition_burst: int | None,
    fair: bool | None,
    coalesce_max: int | None,
    coalesce_wait: int | None,
    reset: bool,
    inexact: bool,
) -> None:
    """Change the settings of the function FUNCNAME. Settings that are not given stay as they are.

    The given settings have precedence over those that a worker declares, until they are reset.

    \b
    Examples:
      garivini functions set report --lease 600 --max-failures 5
      garivini functions set call-the-api --retry '{"backoff": [10, 60, 600]}'
      garivini functions set call-the-api --max-running 5
      garivini functions set call-the-api --rate 100/m --burst 10
      garivini functions set reindex --on-duplicate debounce --max-delay 300
      garivini functions set import-feed --partition-max-running 2 --fair
      garivini functions set send-digest --coalesce-max 100 --coalesce-wait 60
      garivini functions set old-perl-worker --envelope latin-1 --deadline 7200
      garivini functions set call-the-api --dead-retention 30
      garivini functions set report --reset
      garivini functions set --default --envelope latin-1
    """
    if default == (funcname is not None):
        raise UsageError("give the name of a function, or --default")
    if funcname is not None:
        new_job(funcname, b"")
    policy = FunctionPolicy(
        lease=lease,
        deadline=deadline,
        renews=renews,
        envelope=envelope,
        max_failures=max_failures,
        retention=retention,
        max_running=max_running,
        retry=retry,
        timeout=timeout,
        cancel_grace=cancel_grace,
        dead_retention=dead_retention,
        rate=rate,
        burst=burst,
        unique_scope=unique_scope,
        unique_window=unique_window,
        on_duplicate=on_duplicate,
        max_delay=max_delay,
        expires=expires,
        partition_max_running=partition_max_running,
        partition_rate=partition_rate,
        partition_burst=partition_burst,
        fair=fair,
        coalesce_max=coalesce_max,
        coalesce_wait=coalesce_wait,
    )
    policy.key_rule.check_together()
    if default and (envelope == "raw" or replace(policy, envelope=None) != NO_POLICY):
        raise UsageError("--default allows only --envelope json or latin-1, and --reset")
    name = DEFAULT if funcname is None else funcname
    with closing(Shards(dbs)) as shards:
        if policy.has_rules and not inexact:
            check_exact(shards)
        for database in shards:
            (database.replace_function if reset else database.set_function)(name, policy)
            say(f"{visible(name) or 'the default'} is set in {visible(database.where)}")


functions.add_command(pause)
functions.add_command(resume)
functions.add_command(schema)


@functions.command()
@click.argument("funcname")
@databases
def reset(funcname: str, dbs: list[str]) -> None:
    """Remove an operator's settings of FUNCNAME, so that those of its workers or the defaults apply again."""
    with closing(Shards(dbs)) as shards:
        for database in shards:
            database.unset_function(funcname)
            say(f"{visible(funcname)} is reset in {visible(database.where)}")


@functions.command()
@click.argument("funcname")
@databases
@output
def show(funcname: str, dbs: list[str], output: Form) -> None:
    """Show the settings of FUNCNAME, and where each comes from.

    declared: its workers have declared the setting. override: an operator has set it by functions set. row: a
    program that knows only the columns of the table has written it. A pause by functions pause is shown as
    the setting paused_until.
    """
    entries = []
    with closing(Shards(dbs)) as shards:
        for database in shards:
            settings = database.function_settings().get(funcname, FunctionSettings())
            entries += [
                {
                    "dbid": database.dbid,
                    "setting": name,
                    "value": getattr(settings.policy, name),
                    "origin": settings.origin(name),
                    "declared": settings.declared.get(name),
                }
                for name in SETTINGS
            ]
            paused_until = database.functions().get(funcname, NO_POLICY).paused_until
            entries.append(
                {
                    "dbid": database.dbid,
                    "setting": "paused_until",
                    "value": paused_until,
                    "origin": None if paused_until is None else "pause",
                    "declared": None,
                }
            )
    if output != "table":
        print_json(entries, output)
        return
    rows = [
        [str(entry["dbid"]), entry["setting"], str(entry["value"]), entry["origin"], str(entry["declared"])]
        for entry in entries
        if entry["value"] is not None
    ]
    columns = (Column("database"), Column("setting"), Column("value"), Column("from"), Column("declared"))
    print_table(columns, [rows], none="no setting")
