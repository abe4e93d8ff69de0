"""The client of the load: inserts small batches, and now and then a large one, until SIGTERM."""

import os
import random
import signal
import sys
import threading
from pathlib import Path

from garivini import Client, GariviniError, OutcomeUnknownError
from tests.kills.history import Acknowledged, Attempted, Recorder, Refused, Unanswered

#: Function, shortest and longest duration in milliseconds, and how many of ten jobs are such.
MIX = (("note", 0.0, 0.0, 3), ("compute", 1.0, 4.0, 2), ("wait", 2.0, 20.0, 3), ("wait", 20.0, 60.0, 2))


def main(seed: str) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    parent = os.getppid()
    rng = random.Random(seed)
    record = Recorder(Path(os.environ["KILLS_HISTORY"]))
    count = 0
    with Client(os.environ["GARIVINI_DB"], os.environ["GARIVINI_JOB_SERVERS"]) as client:
        while not stop.wait(rng.uniform(0.01, 0.1)) and os.getppid() == parent:
            size = 60 if rng.random() < 0.03 else rng.randint(1, 8)
            tokens = [f"{os.getpid()}-{number}" for number in range(count, count + size)]
            count += size
            insert(client, record, rng, tokens)


def insert(client: Client, record: Recorder, rng: random.Random, tokens: list[str]) -> None:
    jobs = []
    for token in tokens:
        ((funcname, shortest, longest, _),) = rng.choices(MIX, [weight for *_, weight in MIX])
        jobs.append([funcname, None, None, f"{token} {rng.uniform(shortest, longest):.1f}"])
    record(Attempted(tokens=tokens))
    try:
        answers = client.insert_jobs(jobs)
    except OutcomeUnknownError:
        record(Unanswered(tokens=tokens))
    except GariviniError as error:
        record(Refused(tokens=tokens, error=str(error)))
    else:
        record(Acknowledged(tokens=tokens, jobs=[(answer.jobid, answer.dbid) for answer in answers]))


if __name__ == "__main__":
    main(sys.argv[1])
