"""Enqueues tasks of the project, in a process of its own: Django's settings are the process's."""

import asyncio
from datetime import timedelta
from typing import Any

import django

django.setup()

from django.db import transaction
from django.utils import timezone

from garivini.contrib.django import app
from garivini.contrib.django.task_types import TaskResultDoesNotExist, signals, tasks
from tests.contrib.project import tasks as project
from tests.contrib.project.models import Order


def funcnames() -> list[str]:
    return [job.funcname.rpartition(".")[2] for job in app.client.list_jobs()]


woken: list[int] = []
app.client.wake = lambda: woken.append(Order.objects.count())  # type: ignore[method-assign]
seen: list[str] = []


def enqueued(sender: Any, task_result: Any, **_: Any) -> None:
    seen.append(task_result.id)


signals.task_enqueued.connect(enqueued)

# A rollback, then a savepoint that is rolled back in a transaction that commits.
try:
    with transaction.atomic():
        Order.objects.create(email="eve@example.com")
        lost = project.confirm.enqueue(1)
        assert project.confirm.get_result(lost.id).status == "READY"  # seen in the transaction
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
assert (funcnames(), woken, Order.objects.count()) == ([], [], 0)
try:
    project.confirm.get_result(lost.id)
except TaskResultDoesNotExist:
    pass
else:
    raise AssertionError("a job that was rolled back has a result")
with transaction.atomic():
    Order.objects.create(email="ada@example.com")
    confirmed = project.confirm.enqueue(7, urgent=True)
    try:
        with transaction.atomic():
            project.fails.enqueue("rolled back")
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert woken == []
assert (funcnames(), woken) == (["confirm"], [1])

# Values come back as they were given.
found = project.confirm.get_result(confirmed.id)
assert (found.args, found.kwargs, found.status, found.attempts) == ([7], {"urgent": True}, "READY", 0)
assert found.enqueued_at is not None
assert confirmed.id in seen
later = project.total.using(run_after=timezone.now() + timedelta(hours=1), priority=-42).enqueue(1, 2)
assert project.total.get_result(later.id).task.priority == -42
job = app.client.get_job(later.id)
assert job is not None
assert (job.arg, job.priority) == (b'{"args":[1,2],"kwargs":{}}', "low")
assert 3590 < job.run_after - job.created <= 3601
mailed = asyncio.run(project.mail.aenqueue("ada@example.com"))
mail = app.client.get_job(mailed.id)
assert mail is not None
assert (mail.funcname, mail.arg) == (
    "tests.contrib.project.tasks.mail@mail",
    b'{"address":"ada@example.com"}',
)
assert mail.priority == "high"
failed, left = project.fails.enqueue("gone"), project.leaves_open.enqueue()
try:
    project.confirm.enqueue()
except TypeError:
    pass
else:
    raise AssertionError("a call without its argument was enqueued")
faults = [fault.id for fault in tasks.task_backends["default"].check()]
assert faults == ["garivini.W001"], faults
app.close()
print(confirmed.id, mailed.id, failed.id, left.id, later.id)
