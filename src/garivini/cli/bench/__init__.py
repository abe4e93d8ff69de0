"""``garivini bench``: measures this machine, beside baselines, which are bare loops of the same steps."""

import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from garivini import __version__
from garivini.cli.bench import bare, floor, measures
from garivini.cli.bench.figures import Figure, Measure
from garivini.cli.bench.measures import BULK, CALLERS, PURE_RATE, RATE, SINGLE, Size
from garivini.cli.bench.setup import Setup
from garivini.cli.cores import usable_cores
from garivini.cli.options import private_url
from garivini.cli.output import Column, print_details, print_table, say
from garivini.cli.signals import exit_on_sigterm

#: What each measure compares: ours, then the baseline.
_COMPARED: Final = {
    "bulk-insert": (
        "Client.insert_jobs in batches of {batch:,}",
        "{bulk}",
    ),
    "single-insert": (
        "Client.insert_job, its own commit each, {single:g} s per round",
        "INSERT, its own commit each",
    ),
    "drain": (
        "a backlog until its last row is deleted: QueueRunner, and a worker whose def does nothing",
        "claim of {batch:,}, JSON, pipelined submit in one process; {grabs} grabs and deletes of {batch:,}",
    ),
    "steady": (
        "rows deleted in {seconds:g} s, beside a producer with direct dispatch and a backlog of {standing:,}",
        "the loops of drain, beside a bare producer",
    ),
    "pickup": (
        "{rate} inserts per second for {seconds:g} s, from scheduled time to start of the handler",
        "insert and submit in one process, grab in another",
    ),
    "pickup-bulk": (
        "{bulk_jobs:,} jobs by one Client.insert_jobs, from the call to the last start of a handler",
        "insert of {bulk_jobs:,} and pipelined submit in one process, grab in another",
    ),
    "wake": (
        "as pickup, with dispatch=False: the insert wakes a QueueRunner",
        "as pickup",
    ),
    "pure": (
        "{callers} calls of inject_jobs in flight; Injector, Controller, stock worker; until the last row",
        "the same with a bare injector and controller: one insert, one delete per read",
    ),
    "pure-pickup": (
        "{pure_rate} calls per second for {seconds:g} s, from scheduled time to start of the handler",
        "the same, with the bare chain",
    ),
}
_HEADINGS: Final = ("measure", "ours", "floor", "unit", "ratio", "of the rounds")
#: The processes whose CPU time is measured.
_PARTS: Final = ("dispatcher", "workers", "server")


@click.command()
@click.option(
    "--db",
    "url",
    metavar="URL",
    envvar="GARIVINI_BENCH_DB",
    callback=private_url("GARIVINI_BENCH_DB"),
    help="Your database, without jobs, for the bench only. Environment: GARIVINI_BENCH_DB. "
    "[default: a SQLite file]",
)
@click.option(
    "--job-server",
    metavar="HOST:PORT",
    help="Your gearmand, without other jobs. [default: the embedded server, in its own process]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 10_000_000),
    default=20_000,
    show_default=True,
    help="Jobs per round of bulk-insert and drain.",
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Seconds per round of steady and pickup.",
)
@click.option(
    "--payload",
    type=click.IntRange(0, 1_000_000),
    default=100,
    show_default=True,
    help="Bytes of an argument.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(measures.MEASURES)),
    help="Take this measure only; may be repeated. [default: all]",
)
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Worker processes of Garivini, and as many of the baseline.",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def bench(
    url: str | None,
    job_server: str | None,
    jobs: int,
    rounds: int,
    seconds: float,
    payload: int,
    only: tuple[str, ...],
    processes: int,
    output: str,
) -> None:
    """Measure this machine, beside a bare loop of the same steps.

    Each measure alternates between Garivini and a baseline: a plain blocking loop without features, with the
    same tables and durability. In the output the baseline is named floor. On a busy machine the figures say
    little, but the ratios remain useful. Each run checks that every job was delivered; if one was not, the
    exit status is 1.

    \b
    Examples:
      garivini bench
      garivini bench --only drain --only pickup --processes 2
      garivini bench --job-server 127.0.0.1:4730 -o json
      GARIVINI_BENCH_DB=mysql://user:secret@127.0.0.1/bench garivini bench --only drain
    """
    size = Size(jobs, seconds)
    with (
        exit_on_sigterm(),
        tempfile.TemporaryDirectory(prefix="garivini-bench-") as folder,
        Setup(Path(folder), job_server, payload, processes, url) as setup,
    ):
        method = _method(setup, size, rounds, processes)
        taken = []
        for name in measures.MEASURES:
            if name in only or not only:
                taken.append(
                    measures.take(name, setup, size, rounds, lambda line: click.echo(line, err=True))
                )
                if not taken[-1].right:
                    break
    right = all(measure.right for measure in taken)
    if output == "json":
        found = {"method": method, "measures": [measure.as_dict() for measure in taken], "right": right}
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    else:
        _print(method, taken)
    sys.exit(0 if right else 1)


def _method(setup: Setup, size: Size, rounds: int, processes: int) -> dict[str, Any]:
    """Return the conditions of the measures."""
    (version,) = setup.gearman.command(b"version", block=False)
    values = {
        "batch": bare.BATCH,
        "grabs": floor.GRABS,
        "standing": floor.STANDING,
        "bulk": setup.store.method,
        "single": SINGLE,
        "rate": RATE,
        "bulk_jobs": BULK,
        "callers": CALLERS,
        "pure_rate": PURE_RATE,
        "seconds": size.seconds,
    }
    return {
        "garivini": __version__,
        "python": platform.python_version(),
        **setup.store.describe(),
        "gearman_server": f"{'embedded' if setup.embedded else 'gearmand'} {_text(version)}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": usable_cores(),
        "load": round(os.getloadavg()[0], 1),
        "jobs": size.jobs,
        "payload_bytes": len(setup.arg),
        "rounds": rounds,
        "worker_processes": processes,
        "compared": {
            name: {"ours": ours.format_map(values), "floor": bare.format_map(values)}
            for name, (ours, bare) in _COMPARED.items()
        },
    }


def _text(version: bytes) -> str:
    return version.decode(errors="replace").removeprefix("OK ")


def _print(method: dict[str, Any], taken: list[Measure]) -> None:
    facts = {name.replace("_", " "): str(value) for name, value in method.items() if name != "compared"}
    print_details(facts)
    say()
    for measure in taken:
        for side, what in method["compared"][measure.name].items():
            say(f"{measure.name}, {side}: {what}")
    rows = [_row(measure, figure) for measure in taken for figure in measure.figures]
    say("\nMedians, the ratio of the medians, and the lowest and highest ratio of a round:")
    print_table([Column(name) for name in _HEADINGS], [rows], none="no measure was taken")
    rows = [
        [f"{measure.name}, {side}", *(f"{parts[part]:.3f}" if part in parts else "-" for part in _PARTS)]
        for measure in taken
        for side, parts in measure.cpu.items()
    ]
    if rows:
        say()
        print_table([Column(name) for name in ("CPU seconds per 1,000 jobs", *_PARTS)], [rows], none="")
    say()
    for measure in taken:
        for side, found in measure.deliveries.items():
            counts = ", ".join(
                f"{name} {value:,}" for name, value in found.as_dict().items() if name != "right"
            )
            verdict = "delivered" if found.right else "NOT DELIVERED"
            say(f"{measure.name}, {side}: {verdict}: {counts}", style=None if found.right else "red")


def _row(measure: Measure, figure: Figure) -> list[str]:
    found = figure.as_dict()
    digits = 1 if figure.unit == "ms" else 0
    name = measure.name if len(measure.figures) == 1 else f"{measure.name} {figure.name}"
    least, most = figure.ratios
    return [
        name,
        f"{found['ours']['median']:,.{digits}f}",
        f"{found['floor']['median']:,.{digits}f}",
        figure.unit,
        f"{figure.ratio:.2f}",
        f"{least:.2f} - {most:.2f}",
    ]
