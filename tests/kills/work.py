"""The jobs of the load, for ``garivini worker tests.kills.work``: each writes down that it ran."""

import os
import time
from pathlib import Path

from garivini import Client, Job, Worker
from tests.kills.history import Ended, Recorder, Started

worker = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])
record = Recorder(Path(os.environ["KILLS_HISTORY"]))


@worker.function("compute")
def compute(job: Job) -> None:
    """Use the processor for so many milliseconds."""
    token, milliseconds = started(job)
    until = time.thread_time() + milliseconds / 1000
    while time.thread_time() < until:
        pass
    ended(job, token)


@worker.function("wait")
def wait(job: Job) -> None:
    """Wait for so many milliseconds, as for a network."""
    token, milliseconds = started(job)
    time.sleep(milliseconds / 1000)
    ended(job, token)


@worker.function("note")
def note(job: Job) -> None:
    """Do next to nothing."""
    token, _ = started(job)
    ended(job, token)


def started(job: Job) -> tuple[str, float]:
    """Write down that it has begun; return its token and how long it is to take."""
    token, milliseconds = job.arg.decode().split()
    record(Started(job=_id(job), attempt=job.attempt or 0, token=token, pid=os.getpid()))
    return token, float(milliseconds)


def ended(job: Job, token: str) -> None:
    """Write down that it returns."""
    record(Ended(job=_id(job), attempt=job.attempt or 0, token=token, pid=os.getpid()))


def _id(job: Job) -> tuple[int, int]:
    return job.jobid, job.dbid
