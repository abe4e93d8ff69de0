"""A worker: its registered functions, and how they are run."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TypeVar

from garivini import settings
from garivini.client import Client
from garivini.errors import UsageError
from garivini.gearman.servers import parse_addresses
from garivini.keeper.supervised_child import SupervisedChild
from garivini.model.job import Job
from garivini.model.limits import Flag, Priority
from garivini.model.new_jobs import new_job
from garivini.model.retry import Backoff, ErrorClass
from garivini.model.schedule import Missed, Overlap, Schedule, check_name, whole_seconds
from garivini.model.unique import OnDuplicate, UniqueScope
from garivini.worker.functions import DelayAfter, Function, Registered, declared_policy, registered
from garivini.worker.lifespans import LifespanFunction, Lifespans
from garivini.worker.process import Process
from garivini.worker.serving import Serving

_F = TypeVar("_F", bound=Function)


class Worker:
    """Runs registered functions on the jobs of some Gearman servers.

    Construction and registration open no connection, so other code may import the module that does them.

    Args:
        client: has the databases of the jobs. By default, a ``Client()`` with the commands' settings.
        job_servers: the Gearman servers as ``host:port``. The worker connects to all of them. By default they
            are those of the client, or if the client has none, those of the settings.
        concurrency: maximum ``async def`` jobs at a time in one process.
        tls: the TLS context of the connections to the servers. Without it they are not encrypted.

    """

    def __init__(
        self,
        client: Client | None = None,
        job_servers: str | Iterable[str] | None = None,
        *,
        concurrency: int = 32,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.client: Client = client if client is not None else Client()
        if job_servers is None:
            if self.client.job_servers:
                job_servers, tls = self.client.job_servers, tls or self.client.tls
            else:
                found = settings.current()
                job_servers, tls = found.job_servers(), tls or found.tls()
        self.tls: ssl.SSLContext | None = tls
        self.job_servers: list[str] = parse_addresses(job_servers)
        self.concurrency: int = concurrency
        self.functions: dict[str, Registered] = {}
        self.schedules: dict[str, Schedule] = {}
        self.lifespans: Lifespans = Lifespans()

    def function(
        self,
        funcname: str,
        *,
        timeout: float | None = None,
        cancel_grace: int | None = None,
        lease: int | None = None,
        max_failures: int | None = None,
        max_running: int | None = None,
        rate: str | None = None,
        burst: int | None = None,
        partition_max_running: int | None = None,
        partition_rate: str | None = None,
        partition_burst: int | None = None,
        fair: bool | None = None,
        coalesce_max: int | None = None,
        coalesce_wait: int | None = None,
        backoff: Backoff | DelayAfter | None = None,
        backoff_for: Mapping[ErrorClass, Backoff] | None = None,
        retry_on: Iterable[ErrorClass] | None = None,
        discard_on: Iterable[ErrorClass] = (),
        retention: int | None = None,
        dead_retention: int | None = None,
        unique_scope: UniqueScope | None = None,
        unique_window: int | None = None,
        on_duplicate: OnDuplicate | None = None,
        max_delay: int | None = None,
        expires: int | None = None,
    ) -> Callable[[_F], _F]:
        """Register the decorated ``def`` or ``async def`` under this name; it is called with a ``Job``.

        A ``def`` runs in the process's main thread, one at a time, as in any Python program; an ``async def``
        is a task of the event loop, which has a thread of its own. If the function returns, the job
        is complete. If it raises any exception but ``Retry`` and ``Discard``, the job has failed and is
        retried with backoff.

        A starting worker declares these settings in each database. A setting that an operator has made
        there, as with ``garivini functions set``, has precedence.

        Args:
            funcname: the function's name in Gearman.
            timeout: maximum seconds of a job. After that the job has failed. An ``async def`` is cancelled;
                to stop a ``def``, the process is ended and started again, which needs ``garivini worker``.
            cancel_grace: seconds after the worker learns that a running job is cancelled, 1 s to a year.
                After them the process of a ``def`` that still runs is ended and started again, which needs
                ``garivini worker``. By default the ``def`` continues. An ``async def`` is always cancelled.
            lease: seconds for which an attempt holds a job unless the lease is renewed; 60 by default.
            max_failures: failures after which a job is dead; 25 by default.
            max_running: maximum jobs that are in flight at a time (dispatched and not ended yet), 1 to
                10,000. By default any number.
            rate: maximum jobs that start per second, minute, hour or day, such as ``10/s``,
                ``100/m``, ``500/h`` or ``1000/d``. By default any number.
            burst: maximum jobs that start at once under the rate after a time without starts, 1 to 10,000. By
                default as many as start in a tenth of a second, at least one.
            partition_max_running: as ``max_running``, for the jobs of each partition.
            partition_rate: as ``rate``, for the jobs of each partition.
            partition_burst: as ``burst``, for ``partition_rate``.
            fair: whether partitions take turns, each with one job per round. With ``partition_max_running``
                or ``partition_rate``, they always take turns.
            coalesce_max: maximum jobs with the same ``coalesce`` value that one call gets as
                ``job.bundle``, 1 to 1,000; by default one. It has no effect if a rule is about
                partitions.
            coalesce_wait: maximum seconds for which a due job waits for others; by default 0.
            backoff: the delays after failures: a ``BackoffCurve``, or a list of seconds for the first
                failure, the second and so on, the last for all later ones. By default 2, 4, 8 minutes and so
                on, up to a day. Or a callable, which a worker calls with the number of failures and the
                exception, and which returns seconds. After a crash, or if it raises, the default applies.
            backoff_for: other delays for some exceptions, by the class or by the name of the class.
            retry_on: classes of exceptions after which a job is retried, besides those of ``backoff_for``.
                If it is given, all other exceptions make the job dead.
            discard_on: classes of exceptions that make a job dead at once. An entry for a class has
                precedence over those for its base classes.
            retention: seconds for which a job is kept after success with its result as JSON, 1 s to a year.
            dead_retention: days for which a dead job is kept, 1 to 3,650; by default for ever.
            unique_scope: how long a job holds its unique key: ``while_live`` until it is complete or dead,
                ``while_live_or_dead`` (default) until its row is deleted.
            unique_window: seconds after an insert for which its unique key stays taken, even if the job is
                complete.
            on_duplicate: the effect of an insert whose unique key is taken: ``existing`` (default),
                ``raise``, ``replace``, ``debounce`` or ``one_more``. See ``docs/how-to/unique.md``.
            max_delay: maximum seconds for which ``debounce`` puts a job off, from its first insert.
            expires: seconds after its due time until which a job must be handed out. Later it is discarded.

        Raises:
            UsageError: the name is invalid or registered already, a value is out of range, or the function
                is a generator or cannot be called with a job.

        """
        new_job(funcname, b"")
        policy, delay = declared_policy(
            backoff=backoff,
            backoff_for=backoff_for,
            retry_on=retry_on,
            discard_on=discard_on,
            lease=lease,
            max_failures=max_failures,
            max_running=max_running,
            rate=rate,
            burst=burst,
            partition_max_running=partition_max_running,
            partition_rate=partition_rate,
            partition_burst=partition_burst,
            fair=fair,
            coalesce_max=coalesce_max,
            coalesce_wait=coalesce_wait,
            timeout=timeout,
            cancel_grace=cancel_grace,
            retention=retention,
            dead_retention=dead_retention,
            unique_scope=unique_scope,
            unique_window=unique_window,
            on_duplicate=on_duplicate,
            max_delay=max_delay,
            expires=expires,
        )

        def register(function: _F) -> _F:
            if funcname in self.functions:
                raise UsageError(f"function {funcname!r} is registered twice")
            self.functions[funcname] = registered(funcname, function, policy, delay)
            return function

        return register

    def lifespan(self, function: LifespanFunction) -> LifespanFunction:
        """Register code for the start and the end of each worker process, such as for a pool of connections.

        Args:
            function: a generator function, ``def`` or ``async def``, with one ``yield``. The code before it
                runs before the first job, and the code after it when the last job has ended. A ``def`` runs
                in the main thread, an ``async def`` in the event loop.

        Raises:
            UsageError: it is not a generator function.

        """
        self.lifespans.add(function)
        return function

    def schedule(
        self,
        name: str,
        funcname: str,
        *,
        cron: str | None = None,
        every: int | timedelta | None = None,
        zone: str = "UTC",
        arg: bytes | str = b"",
        priority: Priority = "normal",
        flag: Flag = "shim",
        missed: Missed = "last",
        missed_window: int = 3600,
        overlap: Overlap = "skip",
    ) -> None:
        """Declare a schedule, which inserts jobs at set times. A QueueRunner has to run.

        A starting worker declares it. Values that an operator has set, as with ``garivini schedules set``,
        have precedence. If no worker has declared it for ten minutes, it is retired, and does not tick.

        Args:
            name: the schedule's name. The same name is the same schedule in all workers of the databases.
            funcname: the function of the jobs, of this worker or of any other.
            cron: a cron expression of five fields, or six with the seconds first.
            every: the interval instead, in seconds or as a timedelta of whole seconds.
            zone: the time zone of ``cron``, such as ``Europe/Berlin``.
            arg: the argument of the jobs.
            priority: of the jobs: ``high``, ``normal`` or ``low``.
            flag: of the jobs: ``shim``, or ``controller`` for stock workers.
            missed: for ticks that were missed while no QueueRunner ran: ``skip`` inserts no job, ``last``
                inserts one for the last missed tick, ``all`` inserts one for each.
            missed_window: the maximum age in seconds of a missed tick, for ``all``.
            overlap: while the previous job has not ended: ``allow`` inserts the job of a tick, ``skip`` does
                not, ``queue`` lets one tick wait until the previous job has ended.

        Raises:
            UsageError: the name is invalid or declared already, or a value is wrong.

        """
        if check_name(name) in self.schedules:
            raise UsageError(f"schedule {name!r} is declared twice")
        self.schedules[name] = Schedule(
            funcname=funcname,
            arg=arg.encode() if isinstance(arg, str) else arg,
            cron=cron,
            every=whole_seconds(every),
            zone=zone,
            priority=priority,
            flag=flag,
            missed=missed,
            missed_window=missed_window,
            overlap=overlap,
        )

    def run(self, child: SupervisedChild | None = None) -> None:
        """Run jobs in this process. SIGTERM or SIGINT drains it; a second signal ends it at once.

        It blocks the main thread, which runs the ``def`` functions and handles the signals.

        ``child``: the state that ``garivini worker`` shares with each of its processes.

        Raises:
            UsageError: no function is registered, or this is not the main thread.

        """
        if not self.functions:
            raise UsageError('no function is registered: decorate one with @worker.function("name")')
        if threading.current_thread() is not threading.main_thread():
            raise UsageError(
                "run() handles signals, which needs the main thread: elsewhere await serve(stop)"
            )
        Process(self, child).run()

    async def serve(self, stop: asyncio.Event, *, drain: float | None = None) -> list[Job]:
        """Run jobs until ``stop`` is set, then finish those it holds, commit their outcomes and close.

        ``async def`` functions are tasks of this loop; ``def`` functions run in a thread of their own.

        Args:
            stop: when it is set, the worker drains.
            drain: maximum seconds from the stop until the jobs have ended; None: no limit.

        Returns:
            The jobs that were still running after ``drain`` seconds. They run again elsewhere. An
            ``async def`` among them is cancelled; a ``def``, or an ``async def`` that ignores its
            cancellation for more than half a second, continues without an outcome.

        """
        serving = Serving(self, asyncio.get_running_loop(), drain)
        with self.lifespans.entered():
            async with self.lifespans.entered_async():
                threading.Thread(target=serving.blocking.run, name="garivini-functions", daemon=True).start()
                try:
                    return await serving.run(stop)
                finally:
                    serving.blocking.stop()
