"""An application: its typed functions, schedules and hooks."""

from __future__ import annotations

import inspect
import ssl
import sys
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    TypedDict,
    TypeVar,
    cast,
    overload,
)

from garivini.app.arguments import Arguments
from garivini.app.connecting import Clients, Connecting, Connections
from garivini.app.decorators import JobDecorator, JobDecoratorWithJob
from garivini.app.job_functions import (
    Around,
    AsyncAround,
    AsyncJobFunction,
    AsyncJobFunctionWithJob,
    Definition,
    DefJobFunction,
    DefJobFunctionWithJob,
    JobFunction,
)
from garivini.app.keys import UniqueBy, partition_text, unique_text
from garivini.app.names import check_function, function_name
from garivini.app.running import handler
from garivini.errors import UsageError
from garivini.model.job import Job
from garivini.model.limits import Priority
from garivini.model.schedule import Missed, Overlap
from garivini.worker import Worker
from garivini.worker.functions import Registered, declared_policy, registered

if TYPE_CHECKING:
    from typing import Unpack

    from garivini.app.rules import FunctionRules
    from garivini.client import Client
    from garivini.client.aio import AsyncClient
    from garivini.databases import DatabasesLike
    from garivini.worker.lifespans import LifespanFunction

_P = ParamSpec("_P")
_R = TypeVar("_R")
_F = TypeVar("_F", bound=Callable[..., Any])
#: Sets headers of a job that is inserted. It is called with the function and the headers so far.
OnInsert = Callable[[JobFunction[..., Any], dict[str, Any]], None]


class _Schedule(TypedDict):
    """The arguments of ``Worker.schedule``, with the function in place of its name and argument."""

    function: JobFunction[..., Any]
    arguments: Mapping[str, Any]
    rest: dict[str, Any]


class Garivini:
    """An application with typed functions. It opens and reads nothing until the first insert.

    Values that are not given come at the first insert, or at the start of a worker, from ``configure``, from
    the environment, or from the file ``garivini.toml`` nearest to the module that makes the application.

    Args:
        dbs: the databases, as for ``Client``.
        job_servers: the Gearman servers, as for ``Client``.
        tls: encrypts the connections to Gearman servers.
        watermark: as for ``Client``.

    """

    def __init__(
        self,
        dbs: DatabasesLike | None = None,
        job_servers: str | Iterable[str] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        watermark: int | None = None,
    ) -> None:
        module = sys._getframe(1).f_globals
        self._connecting = Connecting(
            str(module.get("__name__")),
            module.get("__file__"),
            Connections(dbs, job_servers, tls, watermark),
        )
        self._job_servers = job_servers
        #: The typed functions by name. Aliases are not among them.
        self.functions: dict[str, JobFunction[..., Any]] = {}
        self._names: set[str] = set()
        self._schedules: dict[str, _Schedule] = {}
        self._lifespans: list[LifespanFunction] = []
        self._arounds: list[Around] = []
        self._async_arounds: list[AsyncAround] = []
        self._on_insert: list[OnInsert] = []

    def configure(
        self,
        dbs: DatabasesLike | None = None,
        job_servers: str | Iterable[str] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        watermark: int | None = None,
    ) -> None:
        """Set what the constructor was not given, before the first insert, by the same arguments.

        Raises:
            UsageError: a client exists already.

        """
        self._connecting.configure(dbs=dbs, job_servers=job_servers, tls=tls, watermark=watermark)

    @property
    def client(self) -> Client:
        """The client of the application, for blocking calls. Raises ``UsageError`` without a database."""
        return self._connecting.client

    @property
    def async_client(self) -> AsyncClient:
        """The client of the application for the running event loop. Raises as ``client``."""
        return self._connecting.async_client

    def replaced(self, others: Clients) -> AbstractContextManager[None]:
        """Insert by other clients in the body of a ``with``, as ``garivini.testing`` does."""
        return self._connecting.replaced(others)

    def close(self) -> None:
        """Close the connections of ``client``. A later call opens new ones."""
        self._connecting.close()

    async def close_async(self) -> None:
        """Close the client of the running event loop, after the calls in progress."""
        await self._connecting.close_async()

    # ---- functions

    @overload
    def job(  # type: ignore[overload-overlap]
        self, function: Callable[_P, Coroutine[Any, Any, _R]], /
    ) -> AsyncJobFunction[_P, _R]: ...
    @overload
    def job(self, function: Callable[_P, _R], /) -> DefJobFunction[_P, _R]: ...
    @overload
    def job(
        self,
        *,
        name: str | None = None,
        aliases: Sequence[str] = (),
        renamed: Mapping[str, str] = ...,
        takes_job: Literal[False] = False,
        unique: UniqueBy = False,
        partition: str | None = None,
        priority: Priority | None = None,
        max_attempts: int | None = None,
        **rules: Unpack[FunctionRules],
    ) -> JobDecorator: ...
    @overload
    def job(
        self,
        *,
        name: str | None = None,
        aliases: Sequence[str] = (),
        renamed: Mapping[str, str] = ...,
        takes_job: Literal[True],
        unique: UniqueBy = False,
        partition: str | None = None,
        priority: Priority | None = None,
        max_attempts: int | None = None,
        **rules: Unpack[FunctionRules],
    ) -> JobDecoratorWithJob: ...
    def job(  # type: ignore[misc]  # mypy compares the unpacked settings with each parameter
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        aliases: Sequence[str] = (),
        renamed: Mapping[str, str] = types.MappingProxyType({}),
        takes_job: bool = False,
        unique: UniqueBy = False,
        partition: str | None = None,
        priority: Priority | None = None,
        max_attempts: int | None = None,
        **rules: Unpack[FunctionRules],
    ) -> Any:
        """Make a ``def`` or ``async def`` a typed function, whose calls can be jobs.

        The type hints are resolved at the first insert, or at the start of a worker.

        Args:
            function: the function, if the decorator is written without arguments.
            name: by default ``module.function``.
            aliases: old names, under which workers also register it.
            renamed: for each old name of a parameter, the present name.
            takes_job: whether the first parameter takes the ``Job``.
            unique: what the unique key of a job is made of: True for all arguments, a list of parameters, or
                a template such as ``{customer}/{day}``. By default, jobs have none.
            partition: the parameter that is the partition of a job, or a template.
            priority: of its jobs: ``high``, ``normal`` (default) or ``low``.
            max_attempts: failures after which a job is dead, 25 by default: ``max_failures`` of
                ``Worker.function``. Crashes, ``Retry`` and reschedules do not count.
            rules: the other arguments of ``Worker.function``.

        Raises:
            UsageError: the function cannot be a job, its name is taken, or an argument is wrong.

        """
        settings: dict[str, Any] = {**rules}
        if max_attempts is not None:
            settings["max_failures"] = max_attempts

        def decorate(decorated: Callable[..., Any]) -> JobFunction[..., Any]:
            check_function(decorated)
            chosen = function_name(decorated) if name is None else name
            arguments = Arguments(chosen, decorated, takes_job=takes_job, renamed=renamed)
            made = Definition(
                app=self,
                name=chosen,
                function=decorated,
                is_async=inspect.iscoroutinefunction(decorated),
                takes_job=takes_job,
                arguments=arguments,
                unique=unique_text(chosen, unique, arguments.names),
                partition=partition_text(chosen, partition, arguments.names),
                aliases=(aliases,) if isinstance(aliases, str) else tuple(aliases),
                rules=settings,
                defaults={} if priority is None else {"priority": priority},
            )
            return self._add(made)

        return decorate if function is None else decorate(function)

    def _add(self, made: Definition) -> JobFunction[..., Any]:
        for each in (made.name, *made.aliases):
            if each in self._names:
                raise UsageError(f"two functions have the name {each}: give one of them another by name=")
        declared_policy(**made.rules)  # checks them
        self._names.update((made.name, *made.aliases))
        kinds = {
            (False, False): DefJobFunction,
            (False, True): AsyncJobFunction,
            (True, False): DefJobFunctionWithJob,
            (True, True): AsyncJobFunctionWithJob,
        }
        kind: Callable[[Definition], JobFunction[..., Any]] = kinds[made.takes_job, made.is_async]
        found = self.functions[made.name] = kind(made)
        return found

    def schedule(
        self,
        cron: str | None = None,
        *,
        every: int | timedelta | None = None,
        tz: str = "UTC",
        name: str | None = None,
        arguments: Mapping[str, Any] = types.MappingProxyType({}),
        priority: Priority = "normal",
        missed: Missed = "last",
        missed_window: int = 3600,
        overlap: Overlap = "skip",
    ) -> Callable[[_F], _F]:
        """Insert a job of the decorated function at set times: see ``Worker.schedule``.

        Write it above ``@app.job``, or alone, in which case it makes the function a typed function too.

        Args:
            cron: a cron expression of five fields, or six with the seconds first.
            every: the interval instead, in seconds or as a timedelta of whole seconds.
            tz: the time zone of ``cron``, such as ``Europe/Berlin``.
            name: of the schedule; by default the name of the function.
            arguments: of the jobs, by parameter.
            priority: as for ``Worker.schedule``.
            missed: as there.
            missed_window: as there.
            overlap: as there.

        Raises:
            UsageError: the schedule's name is taken, or as for ``job``.

        """

        def decorate(decorated: _F) -> _F:
            found: Any = decorated if isinstance(decorated, JobFunction) else self.job(decorated)
            chosen = found.name if name is None else name
            if chosen in self._schedules:
                raise UsageError(f"schedule {chosen!r} is declared twice: give one of them another name=")
            rest = {"cron": cron, "every": every, "zone": tz, "priority": priority, "missed": missed}
            rest |= {"missed_window": missed_window, "overlap": overlap}
            self._schedules[chosen] = _Schedule(function=found, arguments=arguments, rest=rest)
            return cast(_F, found)

        return decorate

    # ---- hooks

    def lifespan(self, function: LifespanFunction) -> LifespanFunction:
        """Register code for the start and the end of each worker process: see ``Worker.lifespan``."""
        self._lifespans.append(function)
        return function

    def around(self, function: _F) -> _F:
        """Register code around each job: a generator function with one ``yield``, called with the ``Job``.

        An error of the job is raised at the ``yield``; a hook that does not raise it again makes the job
        complete. An ``async def`` is used around jobs of ``async def`` functions only.

        Raises:
            UsageError: it is not a generator function.

        """
        if inspect.isasyncgenfunction(function):
            self._async_arounds.append(cast("Callable[[Job], AsyncIterator[Any]]", function))
        elif inspect.isgeneratorfunction(function):
            self._arounds.append(cast("Callable[[Job], Iterator[Any]]", function))
        else:
            raise UsageError(f"an around hook is a def or async def with one yield, not {function!r:.100}")
        return function

    def on_insert(self, function: OnInsert) -> OnInsert:
        """Register a function that is called at each insert, with the typed function and a dict of headers.

        It may add headers, such as a tenant or the id of a request. An error that it raises stops the insert.
        """
        self._on_insert.append(function)
        return function

    def headers_of(self, name: str, headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Return the headers of a job, after the hooks of inserts; None: it has none."""
        if not self._on_insert:
            return headers
        found = dict(headers or {})
        for hook in self._on_insert:
            hook(self.functions[name], found)
        return found or None

    # ---- running

    @property
    def arounds(self) -> tuple[Sequence[Around], Sequence[AsyncAround]]:
        """The hooks around jobs: those that are a ``def``, and those that are an ``async def``."""
        return self._arounds, self._async_arounds

    def entries(self) -> dict[str, Registered]:
        """Return the functions as a ``Worker`` registers them, by name and alias.

        Raises:
            UsageError: a type hint of a function cannot be resolved, or names a type that cannot be stored.

        """
        found = {}
        for each in self.functions.values():
            made = each.definition
            made.arguments.resolve()  # an error stops the worker, and not each job
            run = handler(made, *self.arounds)
            policy, delay = declared_policy(**made.rules)
            for name in (made.name, *made.aliases):
                found[name] = registered(name, run, policy, delay)
        return found

    def worker(
        self,
        job_servers: str | Iterable[str] | None = None,
        *,
        concurrency: int = 32,
        tls: ssl.SSLContext | None = None,
    ) -> Worker:
        """Return a worker that runs the jobs of this application. Arguments are those of ``Worker``.

        Raises:
            UsageError: a type hint of a function cannot be resolved, or names a type that cannot be stored.

        """
        worker = Worker(self.client, job_servers, concurrency=concurrency, tls=tls)
        worker.functions.update(self.entries())
        for name, schedule in self._schedules.items():
            function = schedule["function"]
            arg = function.encode(**schedule["arguments"])
            worker.schedule(name, function.name, arg=arg, **schedule["rest"])
        for lifespan in self._lifespans:
            worker.lifespan(lifespan)
        return worker
