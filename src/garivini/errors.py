"""The errors of the library: one root class, and below it a class for each kind of error.

Each entry names the party that must act or is at fault, and then the meaning of the error.

* ``GariviniError``
    * ``UsageError``: the caller. The call cannot work as written.
        * ``ResultNotKept``: the function of a job has no retention, so that its results are not kept.
    * ``SchemaError``: the operator. The database does not have the tables of this version.
    * ``UnreachableError``: the network or a server. A database or a Gearman server cannot be reached, or the
      database takes no writes.
    * ``RefusedError``: a server, which understood the request and refused it.
        * ``DuplicateJobError``: the rule of a unique key. A job with the key exists.
    * ``ConflictError``: another transaction, which held a lock for too long. The call can be repeated.
    * ``OutcomeUnknownError``: the network. The connection was lost between request and answer.
    * ``JobLost``: the function, which must roll its transaction back. Its attempt no longer holds the job.
    * ``JobDead`` and ``JobCancelled``: the operator. A job that was waited for does not run any more.
    * ``ProtocolError``: the peer, which violated the Gearman protocol.

After each error that precedes ``OutcomeUnknownError`` in this list, and after ``JobLost``, nothing was done.
After ``OutcomeUnknownError``, the request may have been carried out.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from garivini.model.inserted import Inserted
    from garivini.model.records import FailedAttempt


class GariviniError(Exception):
    """Root of every error that this library raises."""

    #: Whether the call can be repeated immediately: nothing was done, and the obstacle is gone, for example a
    #: closed connection or the other transaction of a deadlock.
    transient: bool = False
    #: After a failed insert of several jobs: the results of the jobs that are stored, in databases that have
    #: not failed. The keys are the positions of these jobs in the list.
    stored: "Mapping[int, Inserted]" = MappingProxyType({})
    #: The positions of the jobs that this error concerns. After ``OutcomeUnknownError`` they may be stored.
    #: All other positions are in ``stored`` or were not tried.
    failed: Sequence[int] = ()

    @property
    def passing(self) -> bool:
        """Alias of ``transient``."""
        return self.transient


class UsageError(GariviniError, ValueError):
    """The call cannot work as written. Nothing was done."""


class ResultNotKept(UsageError):
    """The result of a job was asked for, and is not kept: its function needs a ``retention``."""


class SchemaError(GariviniError):
    """The database does not have the tables of this version. Nothing was done."""


class UnreachableError(GariviniError):
    """A database or Gearman server cannot be reached, or a database takes no writes. Nothing was done."""

    #: Whether a database was reached that takes no writes: a replica, or a former primary.
    read_only: bool = False


class RefusedError(GariviniError):
    """A server understood the request and refused it. Nothing was done."""

    #: Whether the refused request was an insert into a database that is being drained.
    draining: bool = False


class DuplicateJobError(RefusedError):
    """A job with the unique key exists, and the rule of the key refuses another. Nothing was inserted."""

    #: The existing job, as an insert returns it.
    existing: "Inserted | None" = None


class ConflictError(GariviniError):
    """Another transaction held a lock for too long. Nothing was done, and the call can be repeated."""

    #: Whether the whole database was locked, not only some of its rows.
    whole: bool = False


class OutcomeUnknownError(GariviniError):
    """The connection was lost before the answer arrived. The request may have been carried out."""


class JobLost(GariviniError):
    """The attempt no longer holds the job. Roll back the transaction in which the job was to end."""


class JobDead(GariviniError):
    """The job that was waited for is dead. It runs again only if an operator retries it."""

    #: The last failure of the job, if one is recorded.
    failure: "FailedAttempt | None" = None


#: Alias of ``JobDead``, for those who wait for a result.
JobFailed = JobDead


class JobCancelled(JobDead):
    """The job that was waited for was cancelled."""


class ProtocolError(GariviniError):
    """A peer violated the Gearman protocol. The connection cannot be used any more."""
