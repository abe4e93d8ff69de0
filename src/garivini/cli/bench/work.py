"""The bench's worker module: one function, which does nothing but note that it ran.

``garivini worker garivini.cli.bench.work`` runs it, as it would any application's.
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
    """Note the run."""
    _recorder.note(job.jobid)
