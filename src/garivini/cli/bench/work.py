"""The worker module of the bench: one function, which only records its start.

``garivini worker garivini.cli.bench.work`` runs it like the module of an application.
"""

import os
from pathlib import Path
from typing import Final

from garivini.cli.bench.runs import OURS, Recorder
from garivini.client import Client
from garivini.model.job import Job
from garivini.worker import Worker

worker: Final = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])
_recorder = Recorder(Path(os.environ["GARIVINI_BENCH_RUNS"]))


@worker.function(OURS)
def nothing(job: Job) -> None:
    """Record the start."""
    _recorder.note(job.jobid)
