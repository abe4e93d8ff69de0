"""How jobs are submitted to Gearman: function, payload and server, and the results of a submit. No I/O."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple, assert_never

from garivini.gearman.protocol import Created, Priority, Refused, Submission, Unknown, Unsent
from garivini.gearman.requests import SubmitResult
from garivini.gearman.servers import Counts, server_for
from garivini.model.job import Handle, Job, NewJob, unique_of
from garivini.model.lease import SUBMIT_WITHIN
from garivini.model.limits import FLAGS, MAX_FUNCNAME, MAX_KEY
from garivini.model.payload import encode_payload
from garivini.model.policy import FunctionPolicy

#: The Gearman function of Controllers, for jobs of flag ``controller``.
RUN_QUEUED_JOB: Final = "run_queued_job"
#: The Gearman function of Injectors, for jobs to insert.
INJECT_JOBS: Final = "inject_jobs"
#: The Gearman function that starts the next pass of a QueueRunner immediately.
WAKE: Final = "garivini_wake"
_CONTROLLER: Final = RUN_QUEUED_JOB.encode()
_LEASE_OF: Final = attrgetter("lease")
#: Gearman priorities by name. A dictionary lookup is faster than a call of the enum.
PRIORITY_OF: Final = {priority.name.lower(): priority for priority in Priority}


@lru_cache(1024)
def function_of(funcname: str, flag: str) -> bytes:
    """Return the Gearman function under which jobs of a function and flag wait."""
    return _CONTROLLER if flag == "controller" else funcname.encode()


def submission(job: Job, policy: FunctionPolicy) -> Submission:
    """Return the Gearman job that carries an attempt to a worker or a Controller.

    With envelope ``raw``, a Controller still gets the whole payload, and passes only the argument on to the
    worker.
    """
    payload = encode_payload(job, latin1=policy.envelope == "latin-1")
    return Submission(
        function_of(job.funcname, job.flag),
        payload,
        unique_of(job.dbid, job.jobid, job.attempt or 0),
        PRIORITY_OF[job.priority],
    )


def unfit(job: Job | NewJob, policy: FunctionPolicy) -> str | None:
    """Return why a job cannot be dispatched, or None if it can."""
    if job.flag not in FLAGS:
        return f"flag {job.flag!r} is unknown: it is one of {', '.join(FLAGS)}"
    name, uniqkey, coalesce = job.funcname, job.uniqkey, job.coalesce
    # A character has at most four bytes in UTF-8, so a short name fits and need not be encoded.
    if len(name) > MAX_FUNCNAME // 4 and len(name.encode()) > MAX_FUNCNAME:
        return f"the name of its function has more than {MAX_FUNCNAME} bytes"
    if (uniqkey and len(uniqkey) > MAX_KEY) or (coalesce and len(coalesce) > MAX_KEY):
        return f"its unique key or coalesce key has more than {MAX_KEY} characters"
    if isinstance(job, Job) and not (0 <= job.run_after < 2**32 and 0 <= job.failcount < 2**32):
        return f"run_after {job.run_after} or failcount {job.failcount} is out of range"
    if job.flag == "shim" and policy.envelope == "raw":
        return "a worker that gets the raw argument cannot complete the job: insert it with flag controller"
    return None


def shares(counts: Counts, jobs: Sequence[Submission]) -> dict[str, list[int]]:
    """Return, by the address of each server, the indexes of the jobs that it gets."""
    found: dict[str, list[int]] = {}
    for index, job in enumerate(jobs):
        found.setdefault(server_for(counts, job.function, job.unique), []).append(index)
    return found


# ---- after the submit


def all_jobs(calls: Iterable[Job]) -> list[Job]:
    """Return all jobs of calls, of each of which the first job is given."""
    return [job for call in calls for job in call.bundle]


def is_late(jobs: Sequence[Job], seconds: float) -> bool:
    """Return whether it is too late to submit jobs that were leased the given number of seconds ago.

    A QueueRunner may reclaim a leased job that no server knows, so a batch is submitted soon or not at all.
    """
    return bool(jobs) and seconds > min(SUBMIT_WITHIN, min(map(_LEASE_OF, jobs)) / 3)


class Delivery(NamedTuple):
    """The result of submitting a batch of leased jobs. Each job was delivered or is in one of the lists."""

    #: Number of jobs that a server has acknowledged.
    delivered: int
    #: Jobs that no server has. They are to be released.
    unsent: Sequence[Job] = ()
    #: Jobs that a server may have. Their leases are ended early, so that a QueueRunner asks the servers.
    unknown: Sequence[Job] = ()
    #: Jobs that cannot be sent to any server, each with the reason. They are to be parked.
    unfit: Sequence[tuple[Job, str]] = ()
    #: The reason why some jobs were not sent, for an operator.
    reason: str = ""

    @classmethod
    def of(cls, jobs: Sequence[Job], results: Sequence[SubmitResult]) -> "Delivery":
        """Return the delivery of jobs that were submitted. ``results``: one per job."""
        failed = [
            (job, result)
            for job, result in zip(jobs, results, strict=True)
            if not isinstance(result, Created)
        ]
        if not failed:
            return cls(len(jobs))
        unsent, unknown, unfit = [], [], []
        reason = ""
        for job, result in failed:
            match result:
                case Refused(b"USAGE", text):
                    unfit.append((job, text.decode()))
                case Refused(code, text):
                    unsent.append(job)
                    reason = reason or f"{code.decode(errors='replace')}: {text.decode(errors='replace')}"
                case Unsent():
                    unsent.append(job)
                case Unknown():
                    unknown.append(job)
                case _:
                    assert_never(result)
        return cls(len(jobs) - len(failed), unsent, unknown, unfit, reason or "the server went away")

    @classmethod
    def too_late(cls, jobs: Sequence[Job]) -> "Delivery":
        """Return the delivery of jobs that were not submitted because it was too late."""
        return cls(0, unsent=jobs, reason="this process was suspended between claim and submit")

    def unknown_by_lease(self) -> dict[int, list[Handle]]:
        """Return the handles of the unknown jobs, grouped by the seconds of their leases."""
        leases: dict[int, list[Handle]] = {}
        for job in self.unknown:
            leases.setdefault(job.lease, []).extend([member.handle for member in job.bundle])
        return leases
