"""Typed functions: what ``Garivini`` inserts, refuses and runs."""

import asyncio
import contextvars
import dataclasses
import datetime
import decimal
import enum
import math
import threading
import types
import uuid
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garivini import (
    Discard,
    Garivini,
    Job,
    JobFailed,
    JobFunction,
    Ref,
    ResultNotKept,
    Retry,
    UsageError,
)
from garivini.app import job_functions
from garivini.app.running import UNKNOWN_DELAYS
from garivini.model.state import State
from garivini.store.database import Lane
from garivini.worker.functions import setback_of
from tests.databases import sqlite_url
from tests.system import system, upgraded


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclasses.dataclass
class Address:
    street: str
    floors: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Receipt:
    number: int
    day: datetime.date


def send_invoice(invoice_id: int, customer: str, *, urgent: bool = False) -> Receipt:
    return Receipt(invoice_id, datetime.date(2026, 1, invoice_id))


def anything(value, other=None):  # type: ignore[no-untyped-def]
    return value


def with_default(items: list[int] = [1, 2]) -> int:  # noqa: B006  # what it tests
    items.append(3)
    return len(items)


async def typed_async(name: str) -> str:
    return name.upper()


def with_job(job: Job, path: str) -> str:
    return f"{job.id} {path}"


def everything(
    number: int,
    real: float,
    text: str,
    flag: bool,
    when: datetime.datetime,
    day: datetime.date,
    identity: uuid.UUID,
    amount: decimal.Decimal,
    raw: bytes,
    size: Size,
    address: Address,
    choice: Literal["a", "b"],
    table: dict[str, list[int]],
    pair: tuple[int, str],
    maybe: int | None,
) -> None: ...


@pytest.fixture
def app(tmp_path: Path) -> Garivini:
    return Garivini(upgraded_url(tmp_path))


def upgraded_url(folder: Path) -> str:
    url = sqlite_url(folder)
    upgraded(url)
    return url


def only_job(app: Garivini) -> Job:
    (job,) = app.client.list_jobs()
    return job


# ---- inserts


def test_insert_stores_the_arguments_as_a_json_object_by_parameter(app: Garivini) -> None:
    ref = app.job(send_invoice).insert(7, "acme")
    job = only_job(app)
    assert (ref.id, ref.new, job.funcname) == (job.id, True, "tests.test_app.send_invoice")
    assert job.json == {"invoice_id": 7, "customer": "acme", "urgent": False}


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        (("7", "acme"), {}, "argument invoice_id: expected `int`, got `str`"),
        ((True, "acme"), {}, "argument invoice_id: expected `int`, got `bool`"),
        ((7,), {}, "Missing required argument 'customer'"),
        ((7, "acme", True), {}, "Extra positional arguments"),
        ((7, "acme"), {"late": 1}, "Unexpected keyword argument 'late'"),
        ((7, "\ud800"), {}, "cannot be written as JSON"),
    ],
)
def test_insert_refuses_arguments_that_do_not_fit(app: Garivini, args: Any, named: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        app.job(send_invoice).insert(*args, **named)
    assert app.client.list_jobs() == []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("value", [lambda n: n, lambda n: {"a": [1.5, n]}, lambda n: [None, n]])
def test_insert_refuses_nan_and_infinity(app: Garivini, value: Any, number: float) -> None:
    with pytest.raises(UsageError, match="argument value has NaN or infinity"):
        app.job(anything).insert(value(number))


def test_insert_of_an_unannotated_parameter_takes_any_json(app: Garivini) -> None:
    app.job(anything).insert({"a": [1, None, 2.5]})
    assert only_job(app).json == {"value": {"a": [1, None, 2.5]}, "other": None}


def test_a_default_is_copied_for_each_job(app: Garivini) -> None:
    function = app.job(with_default)
    run = app.worker(["127.0.0.1:1"]).functions[function.name].function
    for _ in range(2):
        assert run(Job(1, 1, function.name, b"{}")) == 3


def test_options_apply_to_one_insert(app: Garivini) -> None:
    function = app.job(send_invoice)
    function.options(run_after=60, priority="high", unique="k", partition="p", headers={"a": 1}).insert(
        7, "b"
    )
    job = only_job(app)
    assert job.run_after >= job.created + 60
    found = (job.priority, job.uniqkey, job.partition, job.headers)
    assert found == ("high", "k", "p", {"a": 1})


def test_options_refuses_an_unknown_name(app: Garivini) -> None:
    with pytest.raises(UsageError, match="later is not an option of an insert"):
        app.job(send_invoice).options(later=1)  # type: ignore[call-arg]


def test_insert_many_takes_calls_and_tuples(app: Garivini) -> None:
    function = app.job(send_invoice)
    refs = function.insert_many([function.call(1, "a", urgent=True), (2, "b")])
    jobs = {job.id: job.json for job in app.client.list_jobs()}
    assert [jobs[ref.id]["urgent"] for ref in refs] == [True, False]


def test_insert_many_names_the_job_that_does_not_fit_and_inserts_nothing(app: Garivini) -> None:
    with pytest.raises(UsageError, match=r"job 1 of the list: .*customer.*nothing was inserted"):
        app.job(send_invoice).insert_many([(1, "a"), (2,)])
    assert app.client.list_jobs() == []


@pytest.mark.parametrize(
    ("unique", "key"),
    [
        (["invoice_id"], '{"invoice_id":7}'),
        (["customer", "invoice_id"], '{"customer":"acme","invoice_id":7}'),
        (True, '{"customer":"acme","invoice_id":7,"urgent":false}'),
        ("{customer}/{invoice_id}", "acme/7"),
        ("customer", "acme"),
    ],
)
def test_unique_makes_the_key_of_arguments(app: Garivini, unique: Any, key: str) -> None:
    function = app.job(unique=unique)(send_invoice)
    assert [function.insert(7, "acme").new for _ in range(2)] == [True, False]
    assert only_job(app).uniqkey == key


def test_unique_hashes_a_long_key(app: Garivini) -> None:
    function = app.job(unique=["customer"])(send_invoice)
    function.insert(7, "a" * 300)
    assert (only_job(app).uniqkey or "").startswith("sha256:")


def test_partition_is_an_argument_or_a_template(app: Garivini) -> None:
    app.job(partition="customer")(send_invoice).insert(7, "acme")
    assert only_job(app).partition == "acme"


@pytest.mark.parametrize(
    "options",
    [{"unique": ["nobody"]}, {"unique": "{nobody}"}, {"partition": "nobody"}, {"unique": "{customer!r}"}],
)
def test_job_refuses_keys_of_unknown_parameters(app: Garivini, options: Any) -> None:
    with pytest.raises(UsageError, match=r"nobody|plain names"):
        app.job(**options)(send_invoice)


def test_on_insert_adds_headers(app: Garivini) -> None:
    @app.on_insert
    def tenant(function: JobFunction[..., Any], headers: dict[str, Any]) -> None:
        headers["by"] = function.name

    app.job(send_invoice).options(headers={"a": 1}).insert(7, "acme")
    assert only_job(app).headers == {"a": 1, "by": "tests.test_app.send_invoice"}


# ---- functions that cannot be jobs


class Holder:
    def method(self) -> None: ...


def positional_only(a: int, /) -> None: ...


def many(*args: int) -> None: ...


def any_names(**names: int) -> None: ...


def generator() -> Iterator[int]:
    yield 1


def strange(thread: threading.Thread) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: None, "lambda"),
        (Holder.method, "a method"),
        (Holder, "not a function"),
        (positional_only, "parameter a is positional-only"),
        (many, "parameter args takes any number"),
        (any_names, "parameter names takes arguments of any name"),
        (generator, "has a yield"),
    ],
)
def test_job_refuses_what_cannot_be_a_job(app: Garivini, function: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        app.job(function)


def test_job_refuses_a_nested_function(app: Garivini) -> None:
    def inner() -> None: ...

    with pytest.raises(UsageError, match="cannot import it"):
        app.job(inner)


def test_job_refuses_a_name_twice(app: Garivini) -> None:
    app.job(aliases=["old"])(send_invoice)
    with pytest.raises(UsageError, match="two functions have the name old"):
        app.job(name="old")(anything)


def test_job_refuses_an_unknown_setting(app: Garivini) -> None:
    with pytest.raises(UsageError, match="retrys is not a setting"):
        app.job(retrys=3)(send_invoice)  # type: ignore[call-overload]


def test_worker_refuses_a_type_that_cannot_be_stored_and_names_the_parameter(app: Garivini) -> None:
    app.job(strange)
    with pytest.raises(UsageError, match="parameter thread has the type Thread"):
        app.worker(["127.0.0.1:1"])


def test_a_function_of_the_main_module_has_the_name_of_its_file(
    app: Garivini, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = types.ModuleType("__main__")
    main.__file__ = "/somewhere/shop.py"
    monkeypatch.setitem(__import__("sys").modules, "__main__", main)
    monkeypatch.setattr(send_invoice, "__module__", "__main__")
    assert app.job(send_invoice).name == "shop.send_invoice"


# ---- arguments


json_values = st.fixed_dictionaries(
    {
        "number": st.integers(-(2**63), 2**63 - 1),
        "real": st.floats(allow_nan=False, allow_infinity=False),
        "text": st.text(st.characters(exclude_categories=["Cs"])),
        "flag": st.booleans(),
        "when": st.datetimes(timezones=st.just(datetime.UTC)),
        "day": st.dates(),
        "identity": st.uuids(),
        "amount": st.decimals(allow_nan=False, allow_infinity=False),
        "raw": st.binary(),
        "size": st.sampled_from(Size),
        "address": st.builds(Address, st.text("abc"), st.lists(st.integers(0, 9))),
        "choice": st.sampled_from(["a", "b"]),
        "table": st.dictionaries(st.text("xyz"), st.lists(st.integers(0, 9))),
        "pair": st.tuples(st.integers(0, 9), st.text("ab")),
        "maybe": st.none() | st.integers(0, 9),
    }
)
EVERYTHING = Garivini("sqlite:///never-opened.db").job(everything)


@given(json_values)
def test_decode_returns_what_encode_was_given(values: dict[str, Any]) -> None:
    assert EVERYTHING.decode(EVERYTHING.encode(**values)) == values


def run_of(app: Garivini, function: JobFunction[..., Any]) -> Any:
    return app.worker(["127.0.0.1:1"]).functions[function.name].function


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"invoice_id": 7}', "argument customer is missing"),
        (b'{"invoice_id": "7", "customer": "a"}', "argument invoice_id: expected `int`, got `str`"),
    ],
)
def test_a_job_whose_payload_does_not_fit_is_discarded_with_the_argument_named(
    app: Garivini, payload: bytes, message: str
) -> None:
    run = run_of(app, app.job(send_invoice))
    with pytest.raises(Discard, match=message):
        run(Job(1, 1, "f", payload))


def test_a_job_with_an_unknown_argument_is_tried_again_for_ten_minutes_and_then_discarded(
    app: Garivini,
) -> None:
    function = app.job(send_invoice)
    entry = app.worker(["127.0.0.1:1"]).functions[function.name]
    stored = app.client.insert_job(function.name, b'{"invoice_id": 7, "customer": "a", "colour": "red"}')
    (database,) = app.client.shards
    delays = []
    for _ in range(len(UNKNOWN_DELAYS) + 1):
        (job,) = database.claim(Lane(function.name, State.WAITING, "normal", 0), limit=1, lease=60)
        with pytest.raises((Retry, Discard)) as raised:
            entry.function(job)
        delays.append(getattr(raised.value, "after", None))
        database.settle([setback_of(entry, job, raised.value, "w")])
        app.client.retry_job(stored)  # makes it due now
    assert tuple(delays) == (*UNKNOWN_DELAYS, None)
    assert sum(UNKNOWN_DELAYS) == 600


def test_renamed_accepts_the_old_name_of_a_parameter(app: Garivini) -> None:
    run = run_of(app, app.job(renamed={"number": "invoice_id"})(send_invoice))
    assert run(Job(1, 1, "f", b'{"number": 7, "customer": "a"}')).number == 7


def test_aliases_are_registered_by_the_worker(app: Garivini) -> None:
    app.job(aliases=["old.name"])(send_invoice)
    assert set(app.worker(["127.0.0.1:1"]).functions) == {"tests.test_app.send_invoice", "old.name"}


# ---- calls, and jobs that run


def test_an_ordinary_call_runs_the_function_here(app: Garivini) -> None:
    assert app.job(send_invoice)(7, "acme").number == 7
    assert asyncio.run(app.job(typed_async)("a")) == "A"
    assert app.client.list_jobs() == []


async def test_jobs_of_def_and_async_def_run_with_their_arguments_and_wait_returns_the_result(
    tmp_path: Path,
) -> None:
    async with system(tmp_path) as whole:
        app = Garivini(whole.url, [whole.address])
        send = app.job(retention=60)(send_invoice)
        upper = app.job(retention=60)(typed_async)
        path = app.job(retention=60, takes_job=True)(with_job)
        whole.start_worker(app.worker())
        whole.start_queue_runner()
        receipt = await (await send.insert_async(7, "acme")).wait_async(30)
        assert receipt == Receipt(7, datetime.date(2026, 1, 7))
        assert await (await upper.insert_async("abc")).wait_async(30) == "ABC"
        ref = await path.insert_async("/x")
        assert await ref.wait_async(30) == f"{ref.id} /x"
        again: Ref[Receipt] = send.ref(ref.id)
        assert again == ref
        await app.close_async()
    app.close()


def test_wait_raises_at_once_if_results_are_not_kept(app: Garivini) -> None:
    with pytest.raises(ResultNotKept, match="no retention"):
        app.job(send_invoice).insert(7, "acme").wait()


def test_wait_raises_the_failure_of_a_dead_job(app: Garivini) -> None:
    ref = app.job(retention=60)(send_invoice).insert(7, "acme")
    ref.cancel("not wanted")
    with pytest.raises(JobFailed, match="not wanted"):
        ref.wait(5)


def test_hooks_run_around_each_job_in_their_order(app: Garivini) -> None:
    seen: list[str] = []

    @app.around
    def outer(job: Job) -> Iterator[None]:
        seen.append("outer")
        yield
        seen.append("after")

    @app.around
    async def inner(job: Job) -> AsyncIterator[None]:
        seen.append("inner")
        yield

    function, job = app.job(typed_async), Job(1, 1, "f", b'{"name": "a"}')
    assert asyncio.run(run_of(app, function)(job)) == "A"
    assert seen == ["outer", "inner", "after"]
    seen.clear()
    assert run_of(app, app.job(anything))(Job(1, 1, "f", b'{"value": 1}')) == 1
    assert seen == ["outer", "after"]


def test_an_around_hook_sees_the_error_of_the_job(app: Garivini) -> None:
    @app.around
    def note(job: Job) -> Iterator[None]:
        try:
            yield
        except Discard as error:
            raise RuntimeError("noted") from error

    with pytest.raises(RuntimeError, match="noted"):
        run_of(app, app.job(send_invoice))(Job(1, 1, "f", b""))


def test_follow_up_outside_of_a_job_is_refused(app: Garivini) -> None:
    with pytest.raises(UsageError, match="in a function that runs a job"):
        app.job(send_invoice).follow_up(7, "a")


# ---- settings, loops


def test_client_without_a_database_names_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARIVINI_DB", raising=False)
    with pytest.raises(UsageError, match=r"Garivini\(.*configure.*GARIVINI_DB.*garivini\.toml"):
        _ = Garivini().client


def test_client_takes_the_database_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GARIVINI_DB", upgraded_url(tmp_path))
    assert Garivini().client.list_jobs() == []


def test_client_finds_the_settings_file_above_the_module_and_not_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GARIVINI_DB", raising=False)
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "garivini.toml").write_text(f'databases = ["{upgraded_url(tmp_path)}"]\n')
    module = tmp_path / "package" / "inner" / "jobs.py"
    scope: dict[str, Any] = {"__name__": "jobs", "__file__": str(module)}
    exec("from garivini import Garivini\napp = Garivini()", scope)
    assert scope["app"].client.list_jobs() == []


def test_configure_before_the_first_insert_sets_the_database(tmp_path: Path) -> None:
    app = Garivini()
    app.configure(upgraded_url(tmp_path))
    assert app.client.list_jobs() == []
    with pytest.raises(UsageError, match="exists already"):
        app.configure(sqlite_url(tmp_path))


def test_insert_async_works_in_any_number_of_loops(app: Garivini) -> None:
    function = app.job(send_invoice)

    async def insert() -> None:
        await asyncio.gather(*(function.insert_async(number, "a") for number in range(5)))
        await app.close_async()

    threads = [threading.Thread(target=asyncio.run, args=(insert(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(app.client.list_jobs(limit=100)) == 20


def test_a_blocking_insert_in_a_running_loop_warns_once(
    app: Garivini, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_functions, "_warned", False)
    function = app.job(send_invoice)

    async def insert() -> None:
        with pytest.warns(RuntimeWarning, match="insert_async"):
            function.insert(1, "a")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function.insert(2, "a")

    contextvars.copy_context().run(asyncio.run, insert())


def test_a_session_that_rolls_back_inserts_no_job(tmp_path: Path) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    url = upgraded_url(tmp_path)
    app = Garivini(url)
    function = app.job(send_invoice)
    engine = create_engine(url)
    with Session(engine) as session:
        function.options(connection=session).insert(1, "a")
        session.rollback()
        function.options(connection=session).insert(2, "a")
        session.commit()
    engine.dispose()
    assert [job.json["invoice_id"] for job in app.client.list_jobs()] == [2]


class Model:
    """Looks like a pydantic model."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def model_validate(cls, value: Any) -> "Model":
        return cls(value["number"])

    def model_dump(self, mode: str) -> dict[str, int]:
        return {"number": self.number}


def takes_model(model: Model, many: list[Model]) -> Model:
    return model


def test_arguments_may_be_models_as_those_of_pydantic(app: Garivini) -> None:
    function = app.job(takes_model)
    payload = function.encode(Model(7), [Model(8)])
    assert payload == b'{"model":{"number":7},"many":[{"number":8}]}'
    assert function.decode(payload)["many"][0].number == 8


async def test_a_callable_backoff_decides_when_a_failed_job_runs_again(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def delay(failures: int, error: BaseException) -> float:
        seen.append((failures, str(error)))
        return 1000.0

    async with system(tmp_path) as whole:
        app = Garivini(whole.url, [whole.address])
        function = app.job(backoff=delay)(anything_fails)
        whole.start_worker(app.worker())
        whole.start_queue_runner()
        ref = await asyncio.to_thread(function.insert)
        await whole.seen.until(lambda: bool(seen))

        async with asyncio.timeout(30):
            while (job := await asyncio.to_thread(ref.job)) is None or not job.failcount:
                await asyncio.sleep(0.01)  # a row says nothing
        assert seen == [(1, "no")]
        assert 900 < job.run_after - job.created < 1100
    app.close()


def anything_fails() -> None:
    raise ValueError("no")
