"""``garivini jobs retry``, ``cancel``, ``reschedule`` and ``delete``."""

import ssl
from collections.abc import Callable, Iterable

import click

from garivini.cli.jobs.forms import parse_job
from garivini.cli.options import databases, job_servers, tls
from garivini.cli.output import Failed, number, say
from garivini.client import Client
from garivini.model.job import Handle


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@databases
@job_servers
@tls
def retry(
    jobs: tuple[str, ...], dbs: list[str], job_servers: tuple[str, ...], tls: ssl.SSLContext | None
) -> None:
    """Make waiting or dead jobs due now and reset their failures.

    \b
    Example:
      garivini jobs retry 42 2:43
    """
    with Client(dbs, job_servers, tls=tls) as client:
        _for_each(dbs, jobs, client.retry_job, "will run now", "not waiting or dead")


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@databases
@click.option("--reason", default="", help="Stored as the failure of the job.")
def cancel(jobs: tuple[str, ...], dbs: list[str], reason: str) -> None:
    """Make jobs dead, whatever their state. garivini jobs retry runs them again.

    A worker that is running one finds out within two seconds. If the job succeeds anyway, it is complete.

    \b
    Example:
      garivini jobs cancel 42 --reason "customer unchanged"
    """
    with Client(dbs) as client:
        _for_each(
            dbs,
            jobs,
            lambda handle: client.cancel_job(handle, reason),
            "cancelled",
            "no such job, or it is dead already",
        )


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--at", "when", required=True, metavar="WHEN", help="never, +SECONDS from now, or a unix time.")
@databases
@job_servers
@tls
def reschedule(
    jobs: tuple[str, ...],
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
    """
    with Client(dbs, job_servers, tls=tls) as client:
        try:
            _for_each(
                dbs,
                jobs,
                lambda handle: client.reschedule_job(handle, when),
                "rescheduled",
                "no such job",
            )
        finally:
            client.wake()


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@databases
def delete(jobs: tuple[str, ...], yes: bool, dbs: list[str]) -> None:
    """Delete jobs and their records, whatever their state. This cannot be undone.

    \b
    Example:
      garivini jobs delete 42 43 --yes
    """
    handles = [parse_job(job, dbs) for job in jobs]
    if not yes and not click.confirm(f"Delete {number(len(handles), 'job')} for good?"):
        raise Failed("nothing was deleted")
    with Client(dbs) as client:
        unchanged = [
            job for job, handle in zip(jobs, handles, strict=True) if not client.delete_jobs([handle])
        ]
    say(f"{len(jobs) - len(unchanged)} deleted")
    if unchanged:
        raise Failed(f"not changed (no such job): {', '.join(unchanged)}")


def _for_each(
    dbs: list[str], jobs: Iterable[str], call: Callable[[Handle], bool], done: str, otherwise: str
) -> None:
    """Call a function for each job and print the result.

    Raises:
        Failed: it had no effect on some of the jobs.

    """
    unchanged = []
    for job, handle in [(job, parse_job(job, dbs)) for job in jobs]:
        if call(handle):
            say(f"{handle.id} {done}")
        else:
            unchanged.append(job)
    if unchanged:
        raise Failed(f"not changed ({otherwise}): {', '.join(unchanged)}")
