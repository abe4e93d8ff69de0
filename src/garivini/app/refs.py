"""References to inserted jobs, with the type of their results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar, cast

import msgspec

from garivini.errors import ResultNotKept
from garivini.model.job import Handle, Job
from garivini.model.json_forms import from_json
from garivini.model.records import KeptJob

if TYPE_CHECKING:
    from garivini.app.job_functions import Definition
    from garivini.client import Client

_R = TypeVar("_R")


class Ref(Generic[_R]):
    """Names a job of a typed function.

    Args:
        definition: of the function.
        handle: of the job.
        new: whether the insert made the job; False if the job with its unique key existed.

    """

    __slots__ = ("_definition", "handle", "new")

    def __init__(self, definition: Definition, handle: Handle, *, new: bool) -> None:
        self._definition = definition
        #: The handle for calls of ``Client``.
        self.handle: Handle = Handle(handle.jobid, handle.dbid)
        #: Whether the insert made the job. False: a job with its unique key exists, or the id was given.
        self.new: bool = new

    def __repr__(self) -> str:
        return f"<Ref {self._definition.name} {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and self.handle == other.handle

    def __hash__(self) -> int:
        return hash(self.handle)

    @property
    def id(self) -> str:
        """The job's id as text, ``1:42`` for job 42 of database 1."""
        return self.handle.id

    def job(self) -> Job | None:
        """Return the job as its row is now; None if it is complete or was deleted."""
        return self._client.get_job(self.handle)

    def cancel(self, reason: str = "") -> bool:
        """Cancel the job: see ``Client.cancel_job``."""
        return self._client.cancel_job(self.handle, reason)

    def wait(self, timeout: float | None = None) -> _R:
        """Wait until the job has succeeded; return its result.

        Args:
            timeout: maximum seconds; None: no limit; 0: check once.

        Raises:
            ResultNotKept: the function has no ``retention``, so that results are not kept. Raised at once.
            TimeoutError: the job has not ended. It is not affected.
            JobFailed: the job is dead; ``failure`` has the error. ``JobCancelled``: it was cancelled.
            GariviniError: as for ``Client.wait``.

        """
        if not self._is_kept:
            self._check_stored(self._client)
        return self._result(self._client.wait(self.handle, timeout))

    async def wait_async(self, timeout: float | None = None) -> _R:
        """Wait as ``wait`` does. One statement polls for all tasks that wait in this loop."""
        client = self._definition.app.async_client
        if not self._is_kept:
            await client._call(self._check_stored, self._client)
        return self._result(await client.wait(self.handle, timeout))

    @property
    def _client(self) -> Client:
        return self._definition.app.client

    @property
    def _is_kept(self) -> bool:
        return self._definition.rules.get("retention") is not None

    def _check_stored(self, client: Client) -> None:
        """Make sure that the stored settings keep results, if the code does not declare it."""
        stored = client.shards[self.handle.dbid].functions().get(self._definition.name)
        if stored is None or stored.retention is None:
            self._not_kept("its function has no retention: give @app.job a retention=, in seconds")

    def _result(self, kept: KeptJob | None) -> _R:
        if kept is None:
            self._not_kept("the job succeeded without one, or was deleted")
        if kept.result is None:
            self._not_kept("it could not be written as JSON; a report of the job says why")
        kind = self._definition.arguments.returns
        return cast(_R, msgspec.json.decode(kept.result or b"null", type=kind, dec_hook=from_json))

    def _not_kept(self, reason: str) -> NoReturn:
        raise ResultNotKept(f"the result of {self._definition.name}, job {self.id}, is not kept: {reason}")
