"""``garivini demo``: durable jobs from insert to end on SQLite and the embedded server, with kills."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from garivini.cli.demo import files
from garivini.cli.output import number, visible
from garivini.cli.ports import free_address
from garivini.cli.signals import exit_on_sigterm, sigterm_deferred
from garivini.client import Client
from garivini.errors import GariviniError
from garivini.gearman.blocking import Client as GearmanClient
from garivini.model.job import Job
from garivini.model.records import FailedAttempt

#: Seconds of a lease: short, so that its effect can be seen without waiting for a minute.
LEASE: Final = 5
#: Maximum jobs that wait in the Gearman server, so that most of the backlog stays in the database.
WATERMARK: Final = 200
#: Seconds without progress after which the demo ends.
PATIENCE: Final = 45.0


@click.command()
@click.argument("tree", required=False, type=click.Path(path_type=Path))
@click.option(
    "--files", "most", type=click.IntRange(1, 100_000), default=3000, show_default=True, help="Maximum files."
)
@click.option(
    "-p", "--processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Worker processes."
)
def demo(tree: Path | None, most: int, processes: int) -> None:
    """Run durable jobs on SQLite and the embedded Gearman server, with kills, and check that none is lost.

    There is one job per source or text file of TREE, by default the library of this Python. A job determines
    the bytes, lines and SHA-256 of its file and, for Python, the number of functions. Three broken files must
    fail. While the jobs run, a worker process and the QueueRunner are killed. All results are compared with
    those of a plain loop over the same files. If a job is missing or its result is wrong, the exit status is
    1.

    \b
    Examples:
      garivini demo
      garivini demo ~/src --files 500
    """
    console = Console(highlight=False)
    with exit_on_sigterm(), tempfile.TemporaryDirectory(prefix="garivini-demo-") as folder:
        right = _Demo(console, Path(folder), processes).run(tree or files.default_tree(), most)
    sys.exit(0 if right else 1)


@dataclass(slots=True)
class _Run:
    """The records of the worker processes."""

    started: Counter[str] = field(default_factory=Counter)
    finished: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)
    #: By file: the number of bytes that were read so far.
    offsets: dict[Path, int] = field(default_factory=dict)
    last_pid: int = 0

    def read(self, folder: Path) -> None:
        """Read the new records."""
        for path in folder.iterdir():
            with path.open("rb") as file:
                file.seek(self.offsets.get(path, 0))
                lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            self.offsets[path] = self.offsets.get(path, 0) + len(whole)
            for line in whole.splitlines():
                self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        self.last_pid = entry["pid"]
        if entry["event"] == "started":
            self.started[entry["path"]] += 1
            if self.started[entry["path"]] == 1:
                self.waited.append(entry["waited"])
        else:
            self.finished.setdefault(entry["path"], []).append(entry["found"])


class _Demo:
    def __init__(self, console: Console, folder: Path, processes: int) -> None:
        self._console = console
        self._folder = folder
        self._processes = processes
        self._results = folder / "results"
        self._results.mkdir()
        self._url = f"sqlite:///{folder / 'jobs.db'}"
        self._server = free_address()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._run = _Run()
        self._duration = 0.0

    def run(self, tree: Path, most: int) -> bool:
        """Run the demo; return whether every job had the right result."""
        paths = files.list_files(tree, most)
        broken = files.write_broken(self._folder)
        self._say("Input", f"{number(len(paths), 'file')} of {tree}, and {len(broken)} broken ones")
        began = time.monotonic()
        expected = {str(path): _expect(path) for path in (*paths, *broken)}
        plain = time.monotonic() - began
        self._say("Plain loop", f"the same work in one process, nothing durable: {plain:.1f} s")
        self._say(
            "Set-up",
            f"SQLite and the embedded Gearman server, {self._processes} worker processes; "
            f"leases of {LEASE} s (default 60), at most {WATERMARK} jobs in Gearman",
        )
        with Client(self._url, [self._server]) as client, self._processes_running(client):
            self._drive(client, list(expected))
            failed = {job.json["path"]: job for job in client.failed_jobs(limit=100_000)}
            records = {path: client.failures(job)[-1] for path, job in failed.items()}
            left = len(client.list_jobs(limit=100_000))
        wrong = self._check(expected, failed, records, left)
        self._report(expected, failed, records, plain)
        for line in wrong[:20]:
            self._say("wrong", line, "red")
        if not wrong:
            self._say(
                "Nothing lost", f"all {number(len(expected), 'job')} had the right result", "bold green"
            )
        return not wrong

    def _say(self, what: str, text: str, style: str = "bold") -> None:
        """Print one line without wrapping or markup."""
        line = Text(what, style).append(f"  {visible(text)}", "not bold default")
        self._console.print(line, soft_wrap=True)

    # ---- the processes

    @contextmanager
    def _processes_running(self, client: Client) -> Iterator[None]:
        for database in client.shards:
            database.upgrade()
        try:
            self._start("gearman", "run", "gearman")
            self._wait_for_server()
            self._start_queue_runner()
            self._start("worker", "worker", "garivini.cli.demo.work", "-p", str(self._processes))
            yield
        finally:
            for child in self._children.values():
                child.terminate()
            for child in self._children.values():
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()

    def _start(self, name: str, *arguments: str) -> None:
        environment = {
            **os.environ,
            "GARIVINI_DB": self._url,
            "GARIVINI_JOB_SERVERS": self._server,
            "GARIVINI_DEMO_RESULTS": str(self._results),
        }
        with (self._folder / f"{name}.log").open("ab") as log, sigterm_deferred():
            self._children[name] = subprocess.Popen(  # noqa: S603  # our own command
                [sys.executable, "-m", "garivini", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _start_queue_runner(self) -> None:
        self._start(
            "queue-runner", "run", "queue-runner", "--lease", str(LEASE), "--watermark", str(WATERMARK)
        )

    def _wait_for_server(self) -> None:
        deadline = time.monotonic() + 15
        while True:
            with GearmanClient(self._server, timeout=1) as server, suppress(GariviniError):
                server.echo()
                return
            if time.monotonic() > deadline or self._children["gearman"].poll() is not None:
                log = (self._folder / "gearman.log").read_text(errors="replace")
                raise click.ClickException(f"the embedded Gearman server did not start:\n{log}")
            time.sleep(0.05)

    # ---- the run

    def _drive(self, client: Client, paths: Sequence[str]) -> None:
        """Insert the jobs, kill two processes, and wait until every job has completed or failed."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        began = moved = time.monotonic()
        kills = {len(paths) // 3: self._kill_worker_child, len(paths) * 2 // 3: self._kill_queue_runner}
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            inserted = progress.add_task("inserted", total=len(paths))
            ended = progress.add_task("ended", total=len(paths))
            seen = 0
            waiting = list(paths)
            while True:
                if waiting:
                    part, waiting = waiting[:250], waiting[250:]
                    now = time.time()
                    client.insert_jobs(
                        {"funcname": "demo.analyse", "arg": json.dumps({"path": path, "inserted": now})}
                        for path in part
                    )
                    progress.advance(inserted, len(part))
                count = self._ended(client, len(paths) - len(waiting))
                self._run.read(self._results)  # after the count: each job that has ended has records
                progress.update(ended, completed=count)
                for threshold in [threshold for threshold in kills if count >= threshold]:
                    kills.pop(threshold)()
                if count == len(paths):
                    self._duration = time.monotonic() - began
                    return
                if count != seen:
                    seen, moved = count, time.monotonic()
                elif time.monotonic() - moved > PATIENCE:
                    self._say("Stopped", f"no progress for {PATIENCE:.0f} s", "red")
                    return
                time.sleep(0.05)

    def _ended(self, client: Client, inserted: int) -> int:
        """Return the number of jobs that have completed (no row) or failed (waiting for their retry)."""
        rows = len(client.list_jobs(limit=100_000))
        return inserted - rows + len(client.failed_jobs(limit=100_000))

    def _kill_worker_child(self) -> None:
        pid = self._run.last_pid
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._say("SIGKILL", f"worker process {pid}, in the middle of its jobs", "yellow")

    def _kill_queue_runner(self) -> None:
        child = self._children["queue-runner"]
        child.kill()
        child.wait()
        self._say("SIGKILL", f"QueueRunner, process {child.pid}; starting another", "yellow")
        self._start_queue_runner()

    # ---- the end

    def _check(
        self,
        expected: dict[str, files.Analysis | str],
        failed: dict[str, Job],
        records: dict[str, FailedAttempt],
        left: int,
    ) -> list[str]:
        """Return the differences from the results of the plain loop."""
        wrong = []
        for path, outcome in expected.items():
            found = self._run.finished.get(path, [])
            if isinstance(outcome, str):
                if path not in records or records[path].error != outcome:
                    wrong.append(f"{path}: {records.get(path, 'no failure')} instead of {outcome}")
                elif failed[path].run_after <= time.time():
                    wrong.append(f"{path}: failed without a time for its retry")
            elif not found:
                wrong.append(f"{path}: no result")
            elif any(one != outcome.as_dict() for one in found):
                wrong.append(f"{path}: another result than the plain loop's")
        if left != len(failed):
            wrong.append(f"{number(left - len(failed), 'job')} neither completed nor failed")
        return wrong

    def _report(
        self,
        expected: dict[str, files.Analysis | str],
        failed: dict[str, Job],
        records: dict[str, FailedAttempt],
        plain: float,
    ) -> None:
        waited = sorted(self._run.waited) or [0.0]
        again = {path: runs for path, runs in self._run.started.items() if runs > 1}
        twice = sum(len(found) > 1 for found in self._run.finished.values())
        rate = len(expected) / self._duration if self._duration else 0.0
        self._rows(
            "Result",
            [
                ("jobs", str(len(expected))),
                ("completed", str(len(self._run.finished))),
                ("failed, waiting for their retry", str(len(failed))),
                ("runs", f"{self._run.started.total()}, {number(len(again), 'job')} ran again after a kill"),
                ("duplicates", f"{number(twice, 'job')} finished twice"),
                ("jobs/s", f"{rate:.0f}  (plain loop {len(expected) / plain:.0f}/s in one process)"),
                ("insert to start", f"p50 {_at(waited, 0.5):.2f} s, p99 {_at(waited, 0.99):.2f} s"),
            ],
        )
        rows = []
        for path in sorted(path for path in failed if Path(path).parent == self._folder):
            retry = max(0, failed[path].run_after - int(time.time()))
            why = f"{records[path].error}: {records[path].message}"
            rows.append((Path(path).name, f"runs again in {retry} s, after {why}"))
        self._rows("The broken files", rows)
        if len(failed) > len(files.BROKEN):
            others = number(len(failed) - len(files.BROKEN), "file")
            self._say("Others", f"{others} of the tree cannot be parsed either, as the plain loop found too")

    def _rows(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        width = max((len(name) for name, _ in rows), default=0)
        self._console.print(Text(title, "bold"))
        for name, value in rows:
            self._console.print(Text(f"  {name:<{width}}  {visible(value)}"), soft_wrap=True)


def _expect(path: Path) -> files.Analysis | str:
    """Return the expected result of a job, or the name of the error with which it must fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return files.analyse(path)
        except Exception as error:
            return type(error).__qualname__


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
