"""How jobs are submitted to Gearman: the function, the payload and the server of each."""

from collections.abc import Sequence
from typing import Final

from garivini.gearman.protocol import Priority, Refused, Submission
from garivini.gearman.requests import SubmitResult
from garivini.gearman.servers import Counts, server_for
from garivini.model.job import Job, NewJob
from garivini.model.limits import FLAGS, MAX_FUNCNAME, MAX_KEY
from garivini.model.payload import encode_payload
from garivini.model.policy import FunctionPolicy

#: The Gearman function under which a Controller takes jobs of flag ``controller``.
RUN_QUEUED_JOB: Final = "run_queued_job"
#: The Gearman function under which an Injector takes jobs to store.
INJECT_JOBS: Final = "inject_jobs"
#: The Gearman function that lets a QueueRunner look for work at once.
WAKE: Final = "garivini_wake"
_CONTROLLER: Final = RUN_QUEUED_JOB.encode()
#: A job's priority in Gearman. A dictionary is read faster than an enum is called.
PRIORITY_OF: Final = {priority.name.lower(): priority for priority in Priority}


def function_of(funcname: str, flag: str) -> bytes:
    """Return the Gearman function under which jobs of a function and flag wait."""
    return _CONTROLLER if flag == "controller" else funcname.encode()


def submission(job: Job, policy: FunctionPolicy) -> Submission:
    """Return what carries an attempt to a worker, or to a Controller.

    A Controller gets the whole payload where a worker is to get the raw argument: it hands that on.
    """
    payload = encode_payload(job, latin1=policy.envelope == "latin-1")
    return Submission(function_of(job.funcname, job.flag), payload, job.unique, PRIORITY_OF[job.priority])


def unfit(job: Job | NewJob, policy: FunctionPolicy) -> str | None:
    """Return why a job cannot be dispatched, or None."""
    if job.flag not in FLAGS:
        return f"flag {job.flag!r} is unknown: it is one of {', '.join(FLAGS)}"
    name, uniqkey, coalesce = job.funcname, job.uniqkey, job.coalesce
    # A character has four bytes at most: few names need to be encoded.
    if len(name) > MAX_FUNCNAME // 4 and len(name.encode()) > MAX_FUNCNAME:
        return f"the name of its function has more than {MAX_FUNCNAME} bytes"
    if (uniqkey and len(uniqkey) > MAX_KEY) or (coalesce and len(coalesce) > MAX_KEY):
        return f"its unique key or coalesce key has more than {MAX_KEY} characters"
    if isinstance(job, Job) and not (0 <= job.run_after < 2**32 and 0 <= job.failcount < 2**32):
        return f"run_after {job.run_after} or failcount {job.failcount} is out of range"
    if job.flag == "shim" and policy.envelope == "raw":
        return "a worker that gets the raw argument cannot complete the job: insert it with flag controller"
    return None


def reason_of(results: Sequence[SubmitResult]) -> str:
    """Return why jobs were not sent, for a person."""
    for result in results:
        if isinstance(result, Refused):
            return f"{result.code.decode(errors='replace')}: {result.text.decode(errors='replace')}"
    return "the server went away, or it was too late"


def shares(counts: Counts, jobs: Sequence[Submission]) -> dict[str, list[int]]:
    """Return by address of a server the indexes of the jobs that it gets."""
    found: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        found.setdefault(server_for(counts, job.function, job.unique), []).append(index)
    return found
