"""What a seed stands for: jobs, functions, processes, and what goes wrong when."""

import random
from dataclasses import dataclass, replace
from typing import Any, Final

from garivini.model.lease import MIN_LEASE
from garivini.model.limits import PRIORITIES

#: What can go wrong, and how likely it is among other things.
FAULTS: Final[dict[str, int]] = {
    "kill worker": 4,
    "vanish worker": 2,
    "freeze worker": 4,
    "cut worker": 2,
    "kill runner": 3,
    "freeze runner": 3,
    "restart server": 4,
    "reset server": 3,
    "freeze server": 2,
    "cut submit": 3,
    "database away": 2,
    "database conflict": 2,
    "database lost": 3,
    "database stall": 2,
}


#: Somebody writes the time of a leased row. Drawn apart, so that the seeds stay what they were.
PUT_OFF: Final = "put off"


#: The number of a follow-up is that of its job and this.
FOLLOW_UPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    kind: str  # def, async or foreign
    lease: int | None
    max_failures: int
    max_running: int | None = None
    rate: str | None = None
    burst: int | None = None
    partition_max_running: int | None = None
    partition_rate: str | None = None
    fair: bool | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A job to be: when it is inserted, and what its function will do."""

    number: int
    at: float
    function: str
    delay: int
    priority: str
    seconds: float
    #: What each of its runs comes to, those left out that did not count; the last one goes on. With
    #: ``later 5`` a foreign worker puts the row off by its time alone.
    outcomes: tuple[str, ...]
    #: How many of its first runs end their process.
    deaths: int = 0
    partition: str | None = None
    #: Whether each of its runs that succeeds inserts a follow-up.
    follows: bool = False

    @property
    def follow_up(self) -> "Plan":
        """The plan of its follow-up."""
        return replace(self, number=self.number + FOLLOW_UPS, outcomes=("done",), deaths=0, follows=False)


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    kind: str
    seconds: float
    #: Which of the processes or servers, modulo their number.
    target: int
    share: float


@dataclass(frozen=True, slots=True)
class Pause:
    at: float
    seconds: float
    function: str
    #: Whether it ends by a call; else by the time that it was given.
    resumed: bool


@dataclass(frozen=True, slots=True)
class Worker:
    at: float
    kind: str  # def or async
    concurrency: int


@dataclass(frozen=True, slots=True)
class Scenario:
    seed: int
    #: Unix time of the database and loop time, at the start.
    database_time: float
    loop_time: float
    lease: int
    watermark: int
    batch_max: int
    poll: float
    wake: bool
    servers: int
    runners: tuple[float, ...]  # when each starts
    workers: tuple[Worker, ...]
    foreign: int
    functions: tuple[Function, ...]
    plans: tuple[Plan, ...]
    faults: tuple[Fault, ...]
    refusals: tuple[tuple[float, float, int], ...]  # from, for so many seconds, server
    database_delay: float
    server_delay: float
    pauses: tuple[Pause, ...] = ()
    #: When a job is cancelled, and which one of those that there are then, modulo their number.
    cancels: tuple[tuple[float, int], ...] = ()

    @property
    def longest_lease(self) -> int:
        return max([self.lease, *(function.lease or 0 for function in self.functions)])

    def __str__(self) -> str:
        lines = [f"SEED={self.seed}"]
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, tuple):
                lines += [f"  {name}:", *(f"    {item}" for item in value)]
            else:
                lines.append(f"  {name}: {value}")
        return "\n".join(lines)


def plain(*seconds: float, **changes: Any) -> Scenario:
    """Return a scenario without a fault: jobs that take so long, due at the start, and one of all else."""
    scenario = Scenario(
        seed=0,
        database_time=1.8e9,
        loop_time=1e3,
        lease=MIN_LEASE,
        watermark=4000,
        batch_max=1000,
        poll=1.0,
        wake=True,
        servers=1,
        runners=(0.0,),
        workers=(Worker(0.0, "def", 1),),
        foreign=0,
        functions=(Function("f0", "def", None, 3),),
        plans=tuple(
            Plan(number, 0.0, "f0", 0, "normal", length, ("done",)) for number, length in enumerate(seconds)
        ),
        faults=(),
        refusals=(),
        database_delay=0.002,
        server_delay=0.001,
    )
    return replace(scenario, **changes)


def draw(seed: int) -> Scenario:
    """Return the scenario of a seed."""
    dice = random.Random(seed)
    calm = dice.random() < 0.3
    lease = _lease(dice)
    functions = tuple(_functions(dice))
    own = [function for function in functions if function.kind != "foreign"]
    kinds = sorted({function.kind for function in own})
    workers = [Worker(0.0, kind, dice.choice([1, 2, 8])) for kind in kinds]
    workers += [
        Worker(dice.choice([0.0, 4.0, 15.0]) * dice.random(), dice.choice(kinds), dice.choice([1, 3]))
        for _ in range(dice.choice([0, 0, 1, 1, 2]))
    ]
    shortest = min([lease, *(function.lease or lease for function in functions)])
    longest = max([lease, *(function.lease or lease for function in functions)])
    faults = [] if calm else sorted(_faults(dice, longest), key=lambda fault: fault.at)
    refusals = []
    if dice.random() < 0.2:
        refusals = [(10 * dice.random(), dice.choice([0.5, 3.0, 2.0 * lease]), dice.randrange(2))]
    scenario = Scenario(
        seed=seed,
        database_time=dice.choice([1e9, 1.7e9, 1.9e9, 2.5e9]) + 1e6 * dice.random(),
        loop_time=1e5 * dice.random(),
        lease=lease,
        watermark=dice.choice([0, 4000, 4000, 1, 3, 10]),
        batch_max=dice.choice([1000, 1000, 3, 10]),
        poll=dice.choice([2.0, 10.0, 30.0, 60.0]),
        wake=dice.random() < 0.7,
        servers=dice.choice([1, 1, 2]),
        runners=dice.choice([(0.0,), (0.0,), (0.0, 0.0), (0.0, 5.0 * dice.random())]),
        workers=tuple(workers),
        foreign=dice.choice([1, 2]) if len(own) < len(functions) else 0,
        functions=functions,
        plans=tuple(_plans(dice, functions, longest, calm=calm)),
        faults=tuple(faults),
        refusals=tuple(refusals),
        database_delay=dice.choice([0.002, 0.01, shortest / 60]),
        server_delay=dice.choice([0.0005, 0.002, 0.01]),
    )
    scenario = _put_off(scenario, random.Random(f"put off {seed}"), longest, calm=calm)
    scenario = _limit(scenario, random.Random(f"limit {seed}"))
    scenario = _limit_rate(scenario, random.Random(f"rate {seed}"))
    scenario = _pause(scenario, random.Random(f"pause {seed}"))
    scenario = _cancel(scenario, random.Random(f"cancel {seed}"))
    scenario = _divide(scenario, random.Random(f"partitions {seed}"))
    return _follow(scenario, random.Random(f"follow {seed}"))


def _divide(scenario: Scenario, dice: random.Random) -> Scenario:
    """Give jobs partitions, and some functions rules about them."""
    if dice.random() > 0.25:
        return scenario
    plans = [replace(plan, partition=dice.choice([None, "a", "b", "b", "c"])) for plan in scenario.plans]
    functions = [
        replace(
            function,
            partition_max_running=dice.choice([None, 1, 1, 2]),
            partition_rate=dice.choice([None, None, "20/s", "2/s", "30/m"]),
            fair=dice.choice([None, True]),
        )
        for function in scenario.functions
    ]
    return replace(scenario, plans=tuple(plans), functions=tuple(functions))


def _follow(scenario: Scenario, dice: random.Random) -> Scenario:
    """Let some jobs insert follow-ups."""
    if dice.random() > 0.25:
        return scenario
    share = dice.choice([0.3, 1.0])
    foreign = {function.name for function in scenario.functions if function.kind == "foreign"}
    plans = [
        replace(plan, follows=plan.function not in foreign and dice.random() < share)
        for plan in scenario.plans
    ]
    return replace(scenario, plans=tuple(plans))


def _cancel(scenario: Scenario, dice: random.Random) -> Scenario:
    """Cancel some jobs, whatever their state."""
    if dice.random() > 0.2:
        return scenario
    times = sorted(20.0 * dice.random() ** 2 for _ in range(dice.choice([1, 2, 5])))
    return replace(scenario, cancels=tuple((time, dice.randrange(1000)) for time in times))


def _pause(scenario: Scenario, dice: random.Random) -> Scenario:
    """Pause some functions, most of them for longer than it takes until everybody knows."""
    if dice.random() > 0.25:
        return scenario
    pauses = [
        Pause(
            at=20.0 * dice.random() ** 2,
            seconds=dice.choice([2.0, 12.0, 25.0, 60.0]) * dice.uniform(0.5, 1.0),
            function=dice.choice(scenario.functions).name,
            resumed=dice.random() < 0.5,
        )
        for _ in range(dice.choice([1, 1, 2]))
    ]
    return replace(scenario, pauses=tuple(sorted(pauses, key=lambda pause: pause.at)))


def _limit(scenario: Scenario, dice: random.Random) -> Scenario:
    """Limit the jobs in flight of some functions, as an operator does."""
    if dice.random() > 0.25:
        return scenario
    limits = [dice.choice([None, 1, 2, 3]) for _ in scenario.functions]
    functions = zip(scenario.functions, limits, strict=True)
    return replace(scenario, functions=tuple(replace(it, max_running=limit) for it, limit in functions))


def _limit_rate(scenario: Scenario, dice: random.Random) -> Scenario:
    """Limit the rate of some functions, as an operator does."""
    if dice.random() > 0.25:
        return scenario
    rates = [dice.choice([None, "20/s", "2/s", "30/m"]) for _ in scenario.functions]
    bursts = [dice.choice([None, 1, 2, 5]) for _ in scenario.functions]
    functions = zip(scenario.functions, rates, bursts, strict=True)
    return replace(scenario, functions=tuple(replace(it, rate=rate, burst=b) for it, rate, b in functions))


def _put_off(scenario: Scenario, dice: random.Random, longest: int, *, calm: bool) -> Scenario:
    """Let foreign workers put jobs off, and somebody rows that are leased."""
    plans = list(scenario.plans)
    for index, plan in enumerate(plans):
        if plan.function == "foreign" and dice.random() < 0.5:
            later = [f"later {_delay(dice, longest)}" for _ in range(dice.choice([1, 1, 2]))]
            plans[index] = replace(plan, outcomes=(*later, "done"))
    faults = list(scenario.faults)
    if not calm and dice.random() < 0.2:
        faults += [
            Fault(25.0 * dice.random() ** 1.5, PUT_OFF, _delay(dice, longest), dice.randrange(1000), 0.0)
            for _ in range(dice.choice([1, 2, 4]))
        ]
    return replace(scenario, plans=tuple(plans), faults=tuple(sorted(faults, key=lambda fault: fault.at)))


def _delay(dice: random.Random, longest: int) -> int:
    return max(1, round(dice.choice([2.0, 8.0, 20.0, longest * 0.7, longest * 1.5]) * dice.uniform(0.5, 1.0)))


def _lease(dice: random.Random) -> int:
    return dice.choice([MIN_LEASE, MIN_LEASE, 4, 5, 6, 8, 12, 20, 60])


def _functions(dice: random.Random) -> list[Function]:
    functions = [
        Function(
            f"f{number}",
            dice.choice(["def", "def", "async"]),
            dice.choice([None, None, _lease(dice)]),
            dice.choice([1, 2, 3]),
        )
        for number in range(dice.choice([1, 1, 2, 3]))
    ]
    if dice.random() < 0.2:
        functions.append(Function("foreign", "foreign", dice.choice([None, _lease(dice)]), 2))
    return functions


def _plans(dice: random.Random, functions: tuple[Function, ...], longest: int, *, calm: bool) -> list[Plan]:
    count = dice.choice([1, 2, 5, 8, 12, 24])
    paces = dice.choice([(0.01,), (0.01, 0.3), (0.3, 2.0), (0.01, 0.5, longest * 0.7, longest * 1.5)])
    span = dice.choice([0.0, 2.0, 10.0, 20.0])
    trouble = dice.choice([0.0, 0.2, 0.5])
    poison = 0.0 if calm else dice.choice([0.0, 0.0, 0.0, 0.15])
    plans = []
    for number in range(count):
        function = dice.choice(functions)
        outcomes: list[str] = []
        if function.kind != "foreign" and dice.random() < trouble:
            outcomes = dice.choices(["fail", "retry", "discard"], [1, 4, 2], k=dice.choice([1, 2]))
        deaths = 0
        if function.kind != "foreign" and dice.random() < poison:
            deaths = dice.choice([1, 1, 2, 99])
        plans.append(
            Plan(
                number=number,
                at=span * dice.random(),
                function=function.name,
                delay=dice.choice([0, 0, 0, 0, 3, 9]),
                priority=dice.choice(PRIORITIES),
                seconds=dice.choice(paces) * dice.uniform(0.5, 1.0),
                outcomes=(*outcomes, "done"),
                deaths=deaths,
            )
        )
    return sorted(plans, key=lambda plan: (plan.at, plan.number))


def _faults(dice: random.Random, longest: int) -> list[Fault]:
    allowed = list(FAULTS)
    if dice.random() < 0.5:  # half of the scenarios have one or two kinds only, which hides less
        allowed = dice.sample(allowed, dice.choice([1, 2]))
    weights = [FAULTS[kind] for kind in allowed]
    return [
        Fault(
            at=25.0 * dice.random() ** 1.5,
            kind=dice.choices(allowed, weights)[0],
            seconds=dice.choice([0.05, 0.5, 2.0, longest * 0.5, longest * 1.2, longest * 2.5])
            * dice.uniform(0.5, 1.0),
            target=dice.randrange(1000),
            share=dice.random(),
        )
        for _ in range(dice.choice([1, 1, 2, 3, 5]))
    ]
