"""The client of a pure load: has some calls of ``inject_jobs`` under way at a time, until SIGTERM.

A call whose answer does not come is not tried again: it may have been stored, so its outcome is unknown.
"""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Final

from garivini.errors import OutcomeUnknownError, RefusedError, UnreachableError
from garivini.gearman.aio import Client
from garivini.gearman.protocol import Submission
from tests.kills.history import Acknowledged, Attempted, Recorder, Refused, Unanswered

#: Calls under way at a time.
_CALLS: Final = 16
#: Longest duration of a job in milliseconds; as many are next to nothing as take their time.
_LONGEST: Final = (0.0, 20.0, 60.0, 150.0)


async def main(seed: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    record = Recorder(Path(os.environ["KILLS_HISTORY"]))
    client = Client(os.environ["GARIVINI_JOB_SERVERS"])
    await asyncio.gather(
        *(inject(client, record, random.Random(f"{seed} {call}"), str(call), stop) for call in range(_CALLS))
    )
    await client.close()


async def inject(
    client: Client, record: Recorder, rng: random.Random, name: str, stop: asyncio.Event
) -> None:
    """Make one call after the other, with a pause between two."""
    parent = os.getppid()
    count = 0
    while not stop.is_set() and os.getppid() == parent:
        size = 30 if rng.random() < 0.02 else rng.randint(1, 3)
        tokens = [f"{os.getpid()}-{name}-{number}" for number in range(count, count + size)]
        count += size
        jobs = [
            {"funcname": "stock", "arg": f"{token} {rng.uniform(0.0, rng.choice(_LONGEST)):.1f}"}
            for token in tokens
        ]
        record(Attempted(tokens=tokens))
        record(await answer(client, tokens, json.dumps(jobs).encode()))
        await asyncio.sleep(rng.uniform(0.05, 0.25))


async def answer(client: Client, tokens: list[str], call: bytes) -> Acknowledged | Refused | Unanswered:
    """Return what came of a call."""
    try:
        stored = json.loads(await client.run(Submission(b"inject_jobs", call)))
    except OutcomeUnknownError:
        return Unanswered(tokens=tokens)
    except UnreachableError as error:
        return Refused(tokens=tokens, error=str(error))
    except RefusedError as error:
        # What the Injector answers says which of the two it is.
        if str(error).endswith("nothing was stored"):
            return Refused(tokens=tokens, error=str(error))
        return Unanswered(tokens=tokens)
    return Acknowledged(tokens=tokens, jobs=[(job["jobid"], job["dbid"]) for job in stored])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
