"""Typed functions: what ``@app.job`` returns. They insert jobs, and can be called as before."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from garivini.app.arguments import Arguments
from garivini.app.connecting import Clients
from garivini.app.keys import TextOf
from garivini.app.refs import Ref
from garivini.errors import UsageError
from garivini.model.current import current_job
from garivini.model.handles import HandleLike, handle_of
from garivini.model.job import Job

if TYPE_CHECKING:
    from typing import Unpack

    from garivini.app.rules import JobOptions
_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Runs around each job, as a generator function with one ``yield``.
Around = Callable[[Job], Iterator[Any]]
AsyncAround = Callable[[Job], AsyncIterator[Any]]

#: The options that hold for all jobs of ``insert_many``. The others are values of each job.
_COMMON = ("run_after", "dispatch", "connection")


class Application(Clients, Protocol):
    """The part of ``Garivini`` that inserts need."""

    @property
    def arounds(self) -> tuple[Sequence[Around], Sequence[AsyncAround]]:
        """The hooks around jobs: those that are a ``def``, and those that are an ``async def``."""

    def headers_of(self, name: str, headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the headers of a job of this function, after the hooks of inserts."""


class Definition(NamedTuple):
    """What ``@app.job`` was given for one function."""

    app: Application
    name: str
    function: Callable[..., Any]
    is_async: bool
    takes_job: bool
    arguments: Arguments
    unique: TextOf | None
    partition: TextOf | None
    aliases: tuple[str, ...]
    #: The settings for ``Worker.function``.
    rules: Mapping[str, Any]
    #: The options of all its jobs, such as ``priority``.
    defaults: Mapping[str, Any]


class Call(Generic[_P]):
    """The checked arguments of one job for ``insert_many``: see ``JobFunction.call``."""

    __slots__ = ("row",)

    def __init__(self, row: dict[str, Any]) -> None:
        #: The job as a mapping for ``Client.insert_jobs``.
        self.row: dict[str, Any] = row


class Inserts(Generic[_P, _R]):
    """The inserts of one function, with some options. ``JobFunction`` is one without options."""

    def __init__(self, definition: Definition, options: Mapping[str, Any]) -> None:
        self._definition = definition
        self._options = options

    def insert(self, *args: _P.args, **kwargs: _P.kwargs) -> Ref[_R]:
        """Insert a job with these arguments; return a reference to it.

        In a running event loop, use ``insert_async``: this call blocks, and warns about it once.

        Raises:
            UsageError: an argument does not fit its parameter, or an option cannot be stored.
            GariviniError: as for ``Client.insert_job``.

        """
        _warn_in_loop()
        job = self._row(args, kwargs)
        inserted = self._definition.app.client.insert_job(**job, **self._common())
        return Ref(self._definition, handle_of(inserted), new=inserted.new)

    async def insert_async(self, *args: _P.args, **kwargs: _P.kwargs) -> Ref[_R]:
        """Insert a job as ``insert`` does, in an event loop. Any number of loops may do so."""
        job = self._row(args, kwargs)
        inserted = await self._definition.app.async_client.insert_job(**job, **self._common())
        return Ref(self._definition, handle_of(inserted), new=inserted.new)

    def call(self, *args: _P.args, **kwargs: _P.kwargs) -> Call[_P]:
        """Return a job with these arguments for ``insert_many``; insert nothing. Raises ``UsageError``."""
        return Call(self._row(args, kwargs))

    def insert_many(self, calls: Iterable[Call[_P] | tuple[Any, ...]]) -> list[Ref[_R]]:
        """Insert many jobs, in one transaction per database.

        Args:
            calls: for each job, the result of ``call``, which type checkers check, or a tuple of arguments.

        Raises:
            UsageError: the arguments of a job do not fit. Nothing was inserted.
            GariviniError: as for ``Client.insert_jobs``.

        """
        _warn_in_loop()
        inserted = self._definition.app.client.insert_jobs(self._rows(calls), **self._common())
        return [Ref(self._definition, handle_of(each), new=each.new) for each in inserted]

    async def insert_many_async(self, calls: Iterable[Call[_P] | tuple[Any, ...]]) -> list[Ref[_R]]:
        """Insert many jobs as ``insert_many`` does, in an event loop."""
        rows = self._rows(calls)
        inserted = await self._definition.app.async_client.insert_jobs(rows, **self._common())
        return [Ref(self._definition, handle_of(each), new=each.new) for each in inserted]

    def follow_up(self, *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Insert a job if the job that runs here succeeds, in the transaction that completes that one.

        It does no I/O: see ``Job.insert_job``.

        Raises:
            UsageError: an argument does not fit, an option cannot be used here, or no job runs here.

        """
        job = current_job()
        if job is None:
            raise UsageError(f"{self._definition.name}.follow_up is called in a function that runs a job")
        common = self._common()
        if common.get("connection") is not None or "dispatch" in common:
            raise UsageError("a follow-up has neither connection nor dispatch: it is stored by its job's end")
        job.insert_job(**self._row(args, kwargs), run_after=common.get("run_after"))

    def _rows(self, calls: Iterable[Call[_P] | tuple[Any, ...]]) -> list[dict[str, Any]]:
        rows = []
        for number, call in enumerate(calls):
            try:
                rows.append(call.row if isinstance(call, Call) else self._row(tuple(call), {}))
            except UsageError as error:
                raise UsageError(f"job {number} of the list: {error}; nothing was inserted") from None
        return rows

    def _common(self) -> dict[str, Any]:
        return {name: self._options[name] for name in _COMMON if name in self._options}

    def _row(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the job as a mapping for ``Client.insert_jobs``."""
        made, options = self._definition, self._options
        payload, arguments = made.arguments.encode(args, kwargs)
        row: dict[str, Any] = {"funcname": made.name, "arg": payload}
        for name in ("unique", "partition"):
            text: TextOf | None = getattr(made, name)
            if name in options:
                row[name] = options[name]
            elif text is not None:
                row[name] = text.make(made.arguments.builtins(arguments, text.names))
        for name in ("priority", "coalesce", "expires"):
            if name in options:
                row[name] = options[name]
        headers = made.app.headers_of(made.name, options.get("headers"))
        if headers:
            row["headers"] = headers
        return row


class JobFunction(Inserts[_P, _R]):
    """A function whose calls can be jobs: ``insert`` takes its own parameters and nothing else."""

    def __init__(self, definition: Definition) -> None:
        super().__init__(definition, definition.defaults)
        #: The name under which workers register it.
        self.name: str = definition.name
        #: The decorated function.
        self.function: Callable[..., Any] = definition.function
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(self, name, getattr(definition.function, name))
        self.__wrapped__: Callable[..., Any] = definition.function

    def __repr__(self) -> str:
        return f"<JobFunction {self.name}>"

    @property
    def definition(self) -> Definition:
        """What ``@app.job`` was given, for tools."""
        return self._definition

    def options(self, **options: Unpack[JobOptions]) -> Inserts[_P, _R]:
        """Return the inserts of this function with options, such as ``run_after``.

        Raises:
            UsageError: there is no such option.

        """
        check_options(options)
        return Inserts(self._definition, {**self._definition.defaults, **options})

    def ref(self, job: HandleLike) -> Ref[_R]:
        """Return a reference to a job of this function from its stored id, such as ``1:42``.

        Raises:
            UsageError: it is not the id of a job.

        """
        return Ref(self._definition, handle_of(job), new=False)

    def encode(self, *args: _P.args, **kwargs: _P.kwargs) -> bytes:
        """Return these arguments as they are stored: a JSON object by parameter. Raises ``UsageError``."""
        return self._definition.arguments.encode(args, kwargs)[0]

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Return the arguments of a job by parameter.

        Raises:
            UsageError: they do not fit the parameters; the message names the argument.

        """
        arguments = self._definition.arguments
        return dict(zip(arguments.names, _values(arguments.decode(payload)), strict=True))


class DefJobFunction(JobFunction[_P, _R]):
    """A ``def``."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Run the function here, as an ordinary call. No job is inserted."""
        return cast(_R, self.function(*args, **kwargs))


class AsyncJobFunction(JobFunction[_P, _R]):
    """An ``async def``."""

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> Coroutine[Any, Any, _R]:
        """Return the coroutine of an ordinary call. No job is inserted."""
        return cast("Coroutine[Any, Any, _R]", self.function(*args, **kwargs))


class DefJobFunctionWithJob(JobFunction[_P, _R]):
    """A ``def`` whose first parameter is the job."""

    def __call__(self, job: Job, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Run the function here, as an ordinary call. No job is inserted."""
        return cast(_R, self.function(job, *args, **kwargs))


class AsyncJobFunctionWithJob(JobFunction[_P, _R]):
    """An ``async def`` whose first parameter is the job."""

    def __call__(self, job: Job, /, *args: _P.args, **kwargs: _P.kwargs) -> Coroutine[Any, Any, _R]:
        """Return the coroutine of an ordinary call. No job is inserted."""
        return cast("Coroutine[Any, Any, _R]", self.function(job, *args, **kwargs))


def check_options(options: Mapping[str, Any]) -> None:
    """Make sure that these are options of an insert.

    Raises:
        UsageError: one is not.

    """
    from garivini.app.rules import JobOptions

    if unknown := sorted(set(options) - set(JobOptions.__annotations__)):
        known = ", ".join(sorted(JobOptions.__annotations__))
        raise UsageError(f"{', '.join(unknown)} is not an option of an insert: these are {known}")


def _values(arguments: Any) -> tuple[Any, ...]:
    return tuple(getattr(arguments, name) for name in arguments.__struct_fields__)


_warned = False


def _warn_in_loop() -> None:
    """Warn once about a blocking insert in a running event loop."""
    global _warned
    if not _warned and asyncio._get_running_loop() is not None:
        _warned = True
        warnings.warn(
            "a blocking insert was called in a running event loop, which waits for the database meanwhile: "
            "use insert_async",
            RuntimeWarning,
            stacklevel=3,
        )
