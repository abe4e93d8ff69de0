"""``garivini batches``: jobs that are counted together."""

from typing import Any

import click

from garivini.cli.jobs.forms import time_text
from garivini.cli.options import databases, output
from garivini.cli.output import Column, Form, print_details, print_json, print_table, say, visible
from garivini.client import Client
from garivini.errors import UsageError
from garivini.model.batch import BatchStatus


@click.group()
def batches() -> None:
    """List batches, show how far one is, and cancel one.

    \b
    Example:
      garivini batches list
    """


@batches.command("list")
@databases
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Maximum batches."
)
@output
def list_(dbs: list[str], limit: int, output: Form) -> None:
    """List batches in the order in which they were created. Those that ended a week ago are deleted.

    \b
    Examples:
      garivini batches list
      garivini batches list -o json
    """
    with Client(dbs) as client:
        found = client.list_batches(limit=limit)
    if output != "table":
        print_json(map(_as_json, found), output)
        return
    rows = [
        [it.id, visible(it.name) or "-", str(it.members), str(it.pending), str(it.failed), _state(it)]
        for it in found
    ]
    columns = (
        Column("batch"),
        Column("name", rank=1),
        Column("members"),
        Column("pending"),
        Column("failed"),
        Column("state"),
    )
    print_table(columns, [rows], none="no batch")


@batches.command()
@click.argument("batch")
@databases
@output
def show(batch: str, dbs: list[str], output: Form) -> None:
    """Show the batch BATCH.

    \b
    Example:
      garivini batches show 1:6a0c1f2e9b3d4c5a
    """
    with Client(dbs) as client:
        found = client.get_batch(batch)
    if found is None:
        raise UsageError(f"there is no batch {batch}: it never existed, or ended more than a week ago")
    if output != "table":
        print_json([_as_json(found)], output)
        return
    print_details(
        {
            "batch": found.id,
            "name": visible(found.name) or "-",
            "state": _state(found),
            "members": str(found.members),
            "pending": str(found.pending),
            "succeeded": str(found.succeeded),
            "failed": str(found.failed),
            "created": time_text(found.created),
            "ended": time_text(found.completed_at) if found.completed_at else "-",
        }
    )


@batches.command()
@click.argument("batch")
@click.option("--reason", default="", help="Stored as the failure of each job.")
@databases
def cancel(batch: str, reason: str, dbs: list[str]) -> None:
    """Cancel the jobs of all members of BATCH that have not ended.

    \b
    Example:
      garivini batches cancel 1:6a0c1f2e9b3d4c5a --reason "wrong month"
    """
    with Client(dbs) as client:
        if client.get_batch(batch) is None:
            raise UsageError(f"there is no batch {batch}: it never existed, or ended more than a week ago")
        say(f"{client.cancel_batch(batch, reason)} cancelled")


def _state(batch: BatchStatus) -> str:
    if batch.completed_at:
        return "ended"
    return "sealed" if batch.sealed else "open"


def _as_json(batch: BatchStatus) -> dict[str, Any]:
    return {**batch._asdict(), "succeeded": batch.succeeded}
