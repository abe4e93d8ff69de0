"""Five tasks."""

from typing import Any

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from garivini.contrib.django.task_types import tasks
from tests.contrib.project.models import Order


class Gone(Exception):
    """The error of a task."""


@tasks.task(takes_context=True)
def confirm(context: Any, order: int, *, urgent: bool = False) -> list[Any]:
    return [order, urgent, context.attempt, context.task_result.status]


@tasks.task
def fails(text: str) -> None:
    raise Gone(text)


@tasks.task(queue_name="mail", priority=10)
async def mail(address: str) -> str:
    await sync_to_async(Order.objects.create)(email=address)
    return address.upper()


@tasks.task
def leaves_open() -> None:
    transaction.set_autocommit(False)
    Order.objects.create(email="lost@example.com")


@tasks.task
def total(*numbers: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return sum(numbers)
