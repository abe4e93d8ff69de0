"""Requests of the blocking and the asyncio client that wait for answers. The clients pass the answers in."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from garivini.errors import OutcomeUnknownError, RefusedError, UnreachableError, UsageError
from garivini.gearman.packets import Type
from garivini.gearman.protocol import (
    ClientProtocol,
    Created,
    Event,
    Finished,
    Refused,
    Submission,
    Unknown,
    Unsent,
    Update,
)

#: The result of one job of a pipelined submit.
SubmitResult: TypeAlias = Created | Refused | Unknown | Unsent


class Batch:
    """Background submits through one connection, and their results.

    A server accepts requests and buffers answers without limit. So the limit is here: nothing is written
    while a window of jobs or bytes waits for answers.
    """

    WINDOW_JOBS: Final = 2000
    WINDOW_BYTES: Final = 1024 * 1024
    #: Maximum jobs in one write.
    CHUNK: Final = 500

    def __init__(self, jobs: Sequence[Submission]) -> None:
        self._jobs = jobs
        self._next = 0
        self._waiting: deque[int] = deque()  # indexes of jobs without an answer
        self._sizes = [0] * len(jobs)  # bytes of each job in the output
        self._bytes = 0  # total bytes of the jobs in ``_waiting``
        #: The results, one per job, in order; ``Unsent`` until the result is known.
        self.results: list[SubmitResult] = [Unsent()] * len(jobs)

    @property
    def done(self) -> bool:
        """Whether no job waits for an answer and none is to be written."""
        return not self._waiting and self._next == len(self._jobs)

    def write(self, protocol: ClientProtocol[Callable[[Event], None]]) -> None:
        """Submit the next jobs that fit the window.

        A job that a packet cannot carry is ``Refused`` with the code ``USAGE``; the others are submitted.
        """
        stop = min(self._next + self.CHUNK, len(self._jobs))
        # Half the window must be free before the next write, so that writes stay large.
        if len(self._waiting) > self.WINDOW_JOBS // 2 or self._bytes > self.WINDOW_BYTES // 2:
            return
        submit, answer, jobs = protocol.submit, self.answer, self._jobs
        for index in range(self._next, stop):
            if self._bytes >= self.WINDOW_BYTES:
                break
            self._next = index + 1
            try:
                size = submit(answer, jobs[index])
            except UsageError as error:
                self.results[index] = Refused(b"USAGE", str(error).encode())
            else:
                self._waiting.append(index)
                self._sizes[index] = size
                self._bytes += size

    def answer(self, event: Event) -> None:
        """Receive the answer to the oldest job that has no answer yet. Answers come in the jobs' order."""
        index = self._waiting.popleft()
        self._bytes -= self._sizes[index]
        if isinstance(event, Created):
            self.results[index] = event
            return
        assert isinstance(event, Refused | Unknown)
        self.results[index] = event
        if isinstance(event, Unknown):
            self._next = len(self._jobs)


class Answers:
    """Collects the answers to ``count`` requests of one connection, in their order."""

    def __init__(self, count: int) -> None:
        self._count = count
        #: The answers so far.
        self.events: list[Event] = []

    @property
    def done(self) -> bool:
        """Whether each request has its answer."""
        return len(self.events) == self._count

    def answer(self, event: Event) -> None:
        """Receive the answer to the oldest request that has no answer yet."""
        self.events.append(event)


class Foreground:
    """A foreground job that was submitted: its reports, and its end."""

    def __init__(self, on_update: Callable[[Update], None] | None = None) -> None:
        self._on_update = on_update
        #: The last WORK_WARNING. A WORK_FAIL has no data, so this is the reason of a later WORK_FAIL.
        self.warning: bytes = b""
        #: ``Finished``; ``Refused`` if the server refused the job; ``Unknown`` if the connection was lost.
        self.end: Finished | Refused | Unknown | None = None

    @property
    def done(self) -> bool:
        """Whether ``end`` is set: no further event of the job can come."""
        return self.end is not None

    def answer(self, event: Event) -> None:
        """Receive an event of the job."""
        if isinstance(event, Finished | Refused | Unknown):
            self.end = event
        elif isinstance(event, Update):
            if event.kind is Type.WORK_WARNING:
                self.warning = event.fields[0]
            if self._on_update is not None:
                self._on_update(event)


def checked(answers: list[Event], address: str) -> list[Event]:
    """Return the answers to requests that change nothing, if all were answered.

    Raises:
        RefusedError: a request was refused.
        UnreachableError: a request was not answered. It can be repeated.

    """
    for answer in answers:
        if isinstance(answer, Refused):
            code, text = answer.code.decode("utf-8", "replace"), answer.text.decode("utf-8", "replace")
            raise RefusedError(f"Gearman server {address} refused: {code} {text}")
        if isinstance(answer, Unknown):
            raise UnreachableError(
                f"Gearman server {address}: the connection was lost before the answer arrived"
            )
    return answers


def result_of(foreground: Foreground, address: str) -> bytes:
    """Return the data of a foreground job that completed.

    Raises:
        RefusedError: the server refused the job, or the worker failed it.
        OutcomeUnknownError: the connection was lost before the end.

    """
    match foreground.end:
        case Finished(Type.WORK_COMPLETE, data):
            return data
        case Finished(_, data):
            reason = (data or foreground.warning).decode("utf-8", "replace").strip() or "no reason given"
            raise RefusedError(f"the worker failed the job: {reason}")
        case Refused() as refused:
            checked([refused], address)
    raise OutcomeUnknownError(f"Gearman server {address}: the connection was lost before the job ended")
