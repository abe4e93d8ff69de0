"""The errors of the library: one root, and one class for each answer to "who must act?".

* ``GariviniError``
    * ``UsageError``: you. The call cannot work as written; nothing was done.
    * ``SchemaError``: you. The database is not at the schema of this code; nothing was done.
    * ``UnreachableError``: the world. A database or a Gearman server cannot be reached; nothing was done.
    * ``RefusedError``: they. A server understood and said no; nothing was done.
    * ``ConflictError``: they. A lock could not be had in time; nothing was done, trying again is safe.
    * ``OutcomeUnknownError``: the world. The connection went between the request and its answer; it may be
      done or not.
    * ``ProtocolError``: they. The peer sent what the Gearman protocol does not allow.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from garivini.model.inserted import Inserted


class GariviniError(Exception):
    """Root of every error that this library raises."""

    #: Whether the same call may be made again at once: nothing was done, and what was in the way is gone (a
    #: connection that had been closed, the other side of a deadlock).
    transient: bool = False
    #: From an insert of several jobs, by position in the list: the answers of those that are stored anyway,
    #: in another database than the one that failed.
    stored: "Mapping[int, Inserted]" = MappingProxyType({})
    #: The positions of the jobs that this error concerns; with ``OutcomeUnknownError`` they may be stored.
    #: All other positions are either in ``stored`` or were not attempted.
    failed: Sequence[int] = ()

    @property
    def passing(self) -> bool:
        """Alias of ``transient``."""
        return self.transient


class UsageError(GariviniError, ValueError):
    """The call cannot work as written. Nothing was done."""


class SchemaError(GariviniError):
    """The database has no schema of ours, or another version of it. Nothing was done."""


class UnreachableError(GariviniError):
    """A database or Gearman server cannot be reached. Nothing was done."""


class RefusedError(GariviniError):
    """A server understood the request and refused it. Nothing was done."""

    #: Whether it was an insert into a database that is being drained.
    draining: bool = False


class ConflictError(GariviniError):
    """Another transaction was in the way for too long. Nothing was done; trying again is safe."""

    #: Whether the whole database was locked, and not some of its rows.
    whole: bool = False


class OutcomeUnknownError(GariviniError):
    """The connection was lost before the answer came. The request may have been carried out or not."""


class ProtocolError(GariviniError):
    """A peer sent bytes that the Gearman protocol does not allow. The connection is of no more use."""
