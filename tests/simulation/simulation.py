"""Runs a scenario on the real QueueRunner and the real worker, with everything around them in memory."""

import asyncio
import gc
import random
import traceback
from functools import partial
from typing import Any, Final, cast

from garivini import events
from garivini.errors import GariviniError, OutcomeUnknownError
from garivini.events import throttle
from garivini.gearman.aio import Client
from garivini.keeper.supervised_child import Obituary
from garivini.model.job import Handle, Job
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Setback
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.model.when import Never, Offset
from garivini.roles.job_servers import JobServers
from garivini.roles.queue_runner import QueueRunner, QueueRunnerSettings
from garivini.roles.runner import run_passes
from garivini.store.database import Database
from garivini.worker import Discard, Registered, Retry
from tests.simulation.database import HELD, Connection, DatabaseThread, Model, Trouble
from tests.simulation.ledger import Ledger
from tests.simulation.loop import VirtualLoop
from tests.simulation.processes import KilledError, Process, Threads, clock_of, current_thread
from tests.simulation.scenario import Fault, Function, Pause, Plan, Scenario, Worker
from tests.simulation.servers import ClientLink, Server, WorkerLink
from tests.simulation.worker import ForeignWorker, WorkerProcess

#: Virtual seconds after which a simulation has failed to come to rest.
_PATIENCE: Final = 20_000.0


class Simulation:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.loop = VirtualLoop(scenario.loop_time)
        self.source = random.Random(scenario.seed)
        # Of a worker whose jobs may be too quick for that it reads all that has come before it runs one.
        quick = any(plan.seconds < 0.05 for plan in scenario.plans)
        # A second until a worker reads of a cancelled job, and one until it has given back what waits there.
        self.ledger = Ledger(self.loop, unread_is_wrong=not quick, notice=2.0 + 8 * scenario.database_delay)
        offset = scenario.database_time - scenario.loop_time
        self.loop.set_exception_handler(self._caught)
        self.model = Model(
            7,
            lambda: self.loop.time() + offset,
            self.ledger.changed,
            lambda: self.source.uniform(-1, 1),
        )
        for function in scenario.functions:
            rules = ("max_running", "rate", "burst", "partition_max_running", "partition_rate", "fair")
            given = FunctionPolicy(**{name: getattr(function, name) for name in rules})
            if given.has_rules:
                self.model.set_function(function.name, given)
        self.ledger.model = self.model
        self.functions = {function.name: function for function in scenario.functions}
        plans = [*scenario.plans, *(plan.follow_up for plan in scenario.plans if plan.follows)]
        self.plans = self.ledger.plans = {plan.number: plan for plan in plans}
        self.servers: list[Server] = []
        self.runners: dict[int, RunnerProcess] = {}
        self.workers: dict[int, WorkerProcess | ForeignWorker] = {}
        self.troubles: list[Trouble] = []
        self.ends_at = 0.0  # of the last fault
        #: What the parent of each worker has to say of the last one.
        self._obituaries: dict[int, list[Obituary]] = {}

    def run(self) -> Ledger:
        # The collector would go over all that the process holds, again and again.
        collects = gc.isenabled()
        gc.disable()
        throttle.install()  # which a worker does once per process
        throttle.emit_held()
        try:
            with events.only(self.ledger.event):
                self.loop.run(self._main())
        finally:
            if collects:
                gc.enable()
        self.ledger.check()
        return self.ledger

    def _caught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        details = traceback.format_exception(error) if error is not None else []
        self.ledger.wrong("an exception that nobody caught", context["message"], *details)

    async def _main(self) -> None:
        scenario = self.scenario
        begin = self.loop.time()
        self.servers = [
            Server(
                self.loop,
                f"server{number}:4730",
                scenario.server_delay,
                self.source,
                self.ledger.queue,
                partial(self.ledger.strike, "cut submit", 0.0),
            )
            for number in range(scenario.servers)
        ]
        self.ledger.servers = self.servers
        for number, start in enumerate(scenario.runners):
            self.loop.call_later(start, self._start_runner, number)
        for number, spec in enumerate(scenario.workers):
            self.loop.call_later(spec.at, self._start_worker, number, spec)
        for number in range(scenario.foreign):
            self._start_foreign(len(scenario.workers) + number)
        for fault in scenario.faults:
            self.loop.call_later(fault.at, self._strike, fault)
            self.ends_at = max(self.ends_at, begin + fault.at + fault.seconds)
        for start, seconds, number in scenario.refusals:
            self.loop.call_later(start, self._refuse, seconds, number)
            self.ends_at = max(self.ends_at, begin + start + seconds)
        for pause in scenario.pauses:
            self.loop.call_later(pause.at, self._pause, pause)
            self.ends_at = max(self.ends_at, begin + pause.at + pause.seconds)
        for at, target in scenario.cancels:
            self.loop.call_later(at, self._cancel, target)
        client = Process(self.loop, "client")
        inserts = [self.loop.create_task(self._insert(client, plan)) for plan in scenario.plans]
        await asyncio.wait(inserts)
        await self._rest()
        for process in [*self.runners.values(), *self.workers.values(), client]:
            process.kill()
        await asyncio.sleep(0.001)

    async def _rest(self) -> None:
        """Wait until every job has ended, and then some time for what should not happen any more."""
        over = self.loop.time() + _PATIENCE
        while (
            any(row.state.name != "DEAD" for row in self.model.rows.values())
            or self.loop.time() < self.ends_at
        ):
            await asyncio.sleep(2.0)
            if self.loop.time() > over:
                self.ledger.wrong("it does not come to rest")
                return
        await asyncio.sleep(min(self.scenario.longest_lease, 20) + 5.0)

    # ---- processes

    def connect(self, process: Process) -> Connection:
        return Connection(
            self.model,
            process,
            self.source,
            self.scenario.database_delay,
            self.troubles,
            self.ledger.guard,
        )

    def _start_worker(self, number: int, spec: Worker) -> None:
        process = WorkerProcess(
            self.loop,
            f"worker{number}",
            self.servers,
            self.connect,
            lambda process: {
                function.name: self._registered(function, process)
                for function in self.scenario.functions
                if function.kind == spec.kind
            },
            concurrency=spec.concurrency,
            obituaries=self._obituaries.get(number, []),
            arrived=self.ledger.arrived,
            told=self.ledger.told,
            source=self.source,
        )
        self.workers[number] = process
        process.start()

    def _start_foreign(self, number: int) -> None:
        process = ForeignWorker(
            self.loop,
            f"worker{number}",
            self.servers[number % len(self.servers)],
            self.connect,
            [function.name for function in self.scenario.functions if function.kind == "foreign"],
            self._run_foreign,
            self.ledger.told,
        )
        self.workers[number] = process
        process.start()

    def _start_runner(self, number: int) -> None:
        self.runners[number] = RunnerProcess(self, f"runner{number}")

    def _kill_worker(
        self, process: WorkerProcess | ForeignWorker, after: float, *, machine: bool = False
    ) -> None:
        """End a worker, or the machine under it; another one starts in its place."""
        (number,) = (number for number, other in self.workers.items() if other is process)
        for link in process.links:
            link.leaves = not machine
            if machine and link.attached is not None:
                self._leave_later(link, after)
        if isinstance(process, WorkerProcess):
            left = process.left("its process was killed")
            for obituary in left:
                # Also where it was given before: a process may die between its commit and its word of it.
                self.ledger.obituaries[obituary.handle.jobid] += 1
            self._obituaries[number] = [] if machine else left
            self.loop.call_later(after, self._start_worker, number, self.scenario.workers[number])
        else:
            self.loop.call_later(after, self._start_foreign, number)
        process.kill()

    # ---- jobs

    async def _insert(self, client: Process, plan: Plan) -> None:
        await asyncio.sleep(plan.at)
        job = new_job(
            plan.function,
            b"%d" % plan.number,
            priority=plan.priority,
            delay=plan.delay,
            partition=plan.partition,
        )
        connection = self.connect(client)
        while True:
            try:
                (answer,) = await self.loop.run_in_executor(Threads(client), connection.insert, [job])
            except OutcomeUnknownError:
                return
            except GariviniError:
                await asyncio.sleep(2.0)
            else:
                break
        self.ledger.acknowledged.add(answer.jobid)
        if self.scenario.wake:
            for runner in self.runners.values():
                runner.wake.set()

    def _registered(self, function: Function, process: WorkerProcess) -> Registered:
        given = FunctionPolicy(lease=function.lease, max_failures=function.max_failures, renews=True)
        if function.kind == "async":
            return Registered(partial(self._run_async, process), given, None, True)
        return Registered(partial(self._run_inline, process), given, None, False)

    def _run_inline(self, process: WorkerProcess, job: Job) -> None:
        plan = self._begin(process, job)
        current_thread().sleep(plan.seconds)
        if self._dies(process, job, plan):
            raise KilledError
        self._come_to(process, job, plan)

    async def _run_async(self, process: WorkerProcess, job: Job) -> None:
        plan = self._begin(process, job)
        try:
            await process.sleep(plan.seconds)
        except asyncio.CancelledError:
            self.ledger.end(process, job, "cancelled")
            raise
        self.ledger.went_on(job)
        if self._dies(process, job, plan):
            await process.never()
        self._come_to(process, job, plan)

    async def _run_foreign(self, process: ForeignWorker, job: Job) -> str:
        plan = self._begin(process, job)
        await process.sleep(plan.seconds)
        outcome = plan.outcomes[min(self.ledger.put_offs[job.jobid], len(plan.outcomes) - 1)]
        self.ledger.end(process, job, outcome)
        return outcome

    def _begin(self, process: WorkerProcess | ForeignWorker, job: Job) -> Plan:
        self.ledger.start(process, job, lost=process.lost(job.unique))
        return self.plans[int(job.arg)]

    def _dies(self, process: WorkerProcess, job: Job, plan: Plan) -> bool:
        if self.ledger.deaths[job.jobid] >= plan.deaths:
            return False
        self.ledger.died(process, job.jobid)
        self._kill_worker(process, 0.1 + self.source.random())
        return True

    def _come_to(self, process: Process, job: Job, plan: Plan) -> None:
        """End a run as its plan has it."""
        steps = self.ledger.steps[job.jobid]
        outcome = plan.outcomes[min(steps["failed"] + steps["rescheduled"], len(plan.outcomes) - 1)]
        self.ledger.end(process, job, outcome)
        match outcome:
            case "fail":
                raise ValueError("as planned")
            case "retry":
                raise Retry(self.source.randrange(4))
            case "discard":
                raise Discard("as planned")
            case "done" if plan.follows:
                job.insert_job(plan.function, b"%d" % plan.follow_up.number)

    def _pause(self, pause: Pause) -> None:
        self.ledger.paused(pause.function)
        end = Never() if pause.resumed else Offset(max(1, round(pause.seconds)))
        self.model.pause(pause.function, end)
        if pause.resumed:
            self.loop.call_later(pause.seconds, self.model.resume, pause.function)

    def _cancel(self, target: int) -> None:
        rows = [row for row in self.model.rows.values() if row.standing is not State.DEAD]
        if rows:
            handle = Handle(rows[target % len(rows)].jobid, self.model.dbid)
            self.ledger.cancelled[handle.jobid] = self.loop.time()
            self.model.settle([Setback(handle=handle, kind="cancelled")])

    # ---- faults

    def _refuse(self, seconds: float, number: int) -> None:
        server = self.servers[number % len(self.servers)]
        server.refuses_until = self.loop.time() + seconds
        self.ledger.say("refuses", server.address, seconds)

    def _strike(self, fault: Fault) -> None:
        kind, _, target = fault.kind.partition(" ")
        match target:
            case "worker":
                workers = [worker for worker in self.workers.values() if worker.alive]
                if workers:
                    self._strike_worker(kind, fault, workers[fault.target % len(workers)])
            case "runner":
                runners = [runner for runner in self.runners.values() if runner.alive]
                if runners:
                    self._strike_runner(kind, fault, runners[fault.target % len(runners)])
            case "server" | "submit":
                servers = [server for server in self.servers if server.up]
                if servers:
                    self._strike_server(kind, fault, servers[fault.target % len(servers)])
            case "off":
                held = [row for row in self.model.rows.values() if row.state in HELD and not row.put_off]
                if held:
                    row = held[fault.target % len(held)]
                    self.ledger.strike(fault.kind, 0.0, row.jobid)
                    self.model.put_off_apart(row.jobid, round(fault.seconds))
            case _:
                now = self.loop.time()
                self.troubles.append(Trouble(target, now, now + fault.seconds))
                self.ledger.strike(fault.kind, fault.seconds)

    def _strike_worker(self, kind: str, fault: Fault, worker: WorkerProcess | ForeignWorker) -> None:
        self.ledger.strike(fault.kind, fault.seconds if kind == "freeze" else 0.0, worker.name)
        match kind:
            case "kill":
                self._kill_worker(worker, min(fault.seconds, 3.0))
            case "vanish":
                self._kill_worker(worker, fault.seconds, machine=True)
            case "freeze":
                worker.freeze(fault.seconds)
            case "cut":
                for link in worker.links:
                    if link.attached is not None:
                        link.cut(noticed=False)
                        self._leave_later(link, fault.seconds)

    def _leave_later(self, link: WorkerLink, seconds: float) -> None:
        """Let the server notice only then that a connection has gone."""
        assert link.attached is not None
        self.loop.call_later(seconds, link.server.at_work, link.server.leave, link.attached)

    def _strike_runner(self, kind: str, fault: Fault, runner: "RunnerProcess") -> None:
        self.ledger.strike(fault.kind, fault.seconds if kind == "freeze" else 0.0, runner.name)
        match kind:
            case "kill":
                runner.kill()
                self.loop.call_later(
                    fault.seconds, self._start_runner, int(runner.name.removeprefix("runner"))
                )
            case "freeze":
                runner.freeze(fault.seconds)

    def _strike_server(self, kind: str, fault: Fault, server: Server) -> None:
        if kind == "cut":
            # The fault begins with the next submit.
            server.cut = (fault.share, self.source.random())
            return
        self.ledger.strike(fault.kind, 0.0 if kind == "reset" else fault.seconds, server.address)
        match kind:
            case "restart":
                server.restart(fault.seconds)
            case "reset":
                server.reset()
            case "freeze":
                server.freeze(fault.seconds)


class RunnerProcess(Process):
    """A process with a QueueRunner."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        super().__init__(simulation.loop, name)
        self.wake = asyncio.Event()
        scenario, ledger = simulation.scenario, simulation.ledger
        by_address = {server.address: server for server in simulation.servers}

        def connect(address: str) -> Client:
            link = ClientLink(
                by_address[address],
                self,
                partial(ledger.offered, self),
                partial(ledger.sent, self),
                ledger.heard,
            )
            return cast(Client, link)

        clock = clock_of(self, simulation.source)
        servers = JobServers(list(by_address), remember=8000, connect=connect, clock=clock)
        settings = QueueRunnerSettings(
            lease=scenario.lease,
            watermark=scenario.watermark,
            batch_max=scenario.batch_max,
            poll=scenario.poll,
        )
        connection = simulation.connect(self)
        thread = DatabaseThread(connection)
        runner = QueueRunner(cast(Database, connection), servers, settings, thread=thread, clock=clock)
        self.loop.create_task(run_passes(runner, stop=asyncio.Event(), wake=self.wake, clock=clock))


def simulate(scenario: Scenario) -> Ledger:
    """Run a scenario; return what happened."""
    return Simulation(scenario).run()
