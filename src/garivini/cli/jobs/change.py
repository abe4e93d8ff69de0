"""``garivini jobs retry``, ``cancel``, ``discard``, ``reschedule``, ``priority`` and ``delete``."""

import ssl
from functools import partial

import click

from garivini.cli.jobs.selection import Selection, selection
from garivini.cli.options import databases, job_servers, tls
from garivini.cli.output import Failed, number, say
from garivini.client import Client
from garivini.model.limits import PRIORITIES, Priority


@click.command()
@selection
@databases
@job_servers
@tls
def retry(which: Selection, dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None) -> None:
    """Make waiting or dead jobs due now and reset their failures.

    \b
    Examples:
      garivini jobs retry 42 2:43
      garivini jobs retry --function mail --error TimeoutError --dry-run
    """
    with Client(dbs, job_servers, tls=tls) as client:
        which.change(
            client,
            dbs,
            one=client.retry_job,
            every=client.retry_all,
            done="retried",
            one_done="will run now",
            otherwise="not waiting or dead",
        )


@click.command()
@selection
@databases
@click.option("--reason", default="", help="Stored as the failure of the job.")
def cancel(which: Selection, dbs: list[str], reason: str) -> None:
    """Make jobs dead. garivini jobs retry runs them again.

    A job that is named by its id is cancelled whatever its state. A Worker that is running the job learns of
    the cancellation within two seconds; if the job succeeds anyway, it is complete. Of the jobs that filters
    find, only those that wait are cancelled.

    \b
    Examples:
      garivini jobs cancel 42 --reason "customer unchanged"
      garivini jobs cancel --function report --created-before -86400 --yes
    """
    with Client(dbs) as client:
        which.change(
            client,
            dbs,
            one=lambda handle: client.cancel_job(handle, reason),
            every=partial(client.cancel_all, reason=reason),
            done="cancelled",
            otherwise="no such job, or it is dead already",
        )


@click.command()
@selection
@databases
@click.option("--reason", default="", help="Stored as the failure of the job.")
def discard(which: Selection, dbs: list[str], reason: str) -> None:
    """Make waiting jobs dead, like jobs that a retry policy discards. garivini jobs retry runs them again.

    \b
    Example:
      garivini jobs discard --function mail --arg-text example.org --reason "address is gone"
    """
    with Client(dbs) as client:
        which.change(
            client,
            dbs,
            one=lambda handle: client.discard_job(handle, reason),
            every=partial(client.discard_all, reason=reason),
            done="discarded",
            otherwise="not waiting",
        )


@click.command()
@selection
@click.option("--at", "when", required=True, metavar="WHEN", help="never, +SECONDS from now, or a unix time.")
@databases
@job_servers
@tls
def reschedule(
    which: Selection,
    when: str,
    dbs: list[str],
    job_servers: tuple[str, ...],
    tls: ssl.SSLContext | None,
) -> None:
    """Let jobs run again at another time.

    \b
    Examples:
      garivini jobs reschedule 42 --at +3600
      garivini jobs reschedule 42 2:43 --at never
      garivini jobs reschedule --function sync --state waiting --at +600
    """
    with Client(dbs, job_servers, tls=tls) as client:
        try:
            which.change(
                client,
                dbs,
                one=lambda handle: client.reschedule_job(handle, when),
                every=partial(client.reschedule_all, when=when),
                done="rescheduled",
                otherwise="no such job",
            )
        finally:
            client.wake()


@click.command()
@selection
@click.option("--to", "to", required=True, type=click.Choice(PRIORITIES), help="The new priority.")
@databases
@job_servers
@tls
def priority(
    which: Selection,
    to: Priority,
    dbs: list[str],
    job_servers: tuple[str, ...],
    tls: ssl.SSLContext | None,
) -> None:
    """Change the priority of waiting jobs.

    \b
    Examples:
      garivini jobs priority 42 --to high
      garivini jobs priority --function report --to low
    """
    with Client(dbs, job_servers, tls=tls) as client:
        which.change(
            client,
            dbs,
            one=lambda handle: client.prioritize_job(handle, to),
            every=partial(client.prioritize_all, priority=to),
            done=f"given priority {to}",
            otherwise="not waiting",
        )


@click.command()
@selection
@databases
def delete(which: Selection, dbs: list[str]) -> None:
    """Delete jobs and their records for good.

    A job that is named by its id is deleted whatever its state. Of the jobs that filters find, only those
    that wait or are dead are deleted.

    \b
    Examples:
      garivini jobs delete 42 43 --yes
      garivini jobs delete --state dead --created-before 2026-01-01
    """
    handles = which.handles(dbs)
    if handles and not which.yes and not click.confirm(f"Delete {number(len(handles), 'job')} for good?"):
        raise Failed("nothing was deleted")
    with Client(dbs) as client:
        if which.filters:
            which.change_all(client, client.delete_all, "deleted")
            return
        unchanged = [
            job for job, handle in zip(which.jobs, handles, strict=True) if not client.delete_jobs([handle])
        ]
    say(f"{len(handles) - len(unchanged)} deleted")
    if unchanged:
        raise Failed(f"not changed (no such job): {', '.join(unchanged)}")
