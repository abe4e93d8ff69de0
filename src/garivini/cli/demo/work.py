"""The worker module of the demo: one function, which analyses a file and records the result.

``garivini worker garivini.cli.demo.work`` runs it like the module of an application.
"""

import json
import os
import time
import warnings
from pathlib import Path
from typing import Final

from garivini.cli.demo.files import analyse
from garivini.client import Client
from garivini.model.job import Job
from garivini.worker import Worker

FUNCTION = "demo.analyse"

worker: Final = Worker(Client(os.environ["GARIVINI_DB"]), os.environ["GARIVINI_JOB_SERVERS"])
_results = Path(os.environ["GARIVINI_DEMO_RESULTS"])
warnings.simplefilter("ignore")  # Python warns about invalid escapes in the parsed files


def note(**fields: object) -> None:
    """Append a line to the results of this process, in one write, so that a kill leaves no partial line."""
    line = json.dumps({"pid": os.getpid(), **fields}) + "\n"
    with (_results / f"{os.getpid()}.jsonl").open("ab", buffering=0) as file:
        file.write(line.encode())


@worker.function(FUNCTION)
def analyse_file(job: Job) -> None:
    """Analyse the file that the argument names. An exception fails the job."""
    path = job.json["path"]
    note(event="started", path=path, jobid=job.jobid, waited=time.time() - job.json["inserted"])
    found = analyse(Path(path))
    note(event="finished", path=path, jobid=job.jobid, found=found.as_dict())
