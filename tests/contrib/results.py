"""Reads the results of the tasks that ``enqueues`` enqueued and a worker ran, in a process of its own."""

import sys

import django

django.setup()

from garivini.contrib.django import app
from tests.contrib.project import tasks as project
from tests.contrib.project.models import Order

confirmed, mailed, failed, left, later = sys.argv[1:]

found = project.confirm.get_result(confirmed)
assert found.status == "SUCCESSFUL", found
assert found.return_value == [7, True, 1, "RUNNING"], found.return_value
assert (found.args, found.kwargs, found.attempts) == ([7], {"urgent": True}, 1)
assert found.enqueued_at <= found.finished_at
found = project.mail.get_result(mailed)
assert (found.return_value, found.task.priority, found.task.queue_name) == ("ADA@EXAMPLE.COM", 10, "mail")
found = project.fails.get_result(failed)  # one attempt is allowed
assert (found.status, found.is_finished, found.attempts) == ("FAILED", True, 1), found
assert found.errors[0].exception_class is project.Gone, found.errors
assert "gone" in found.errors[0].traceback
found = project.leaves_open.get_result(left)
assert (found.status, found.attempts) == ("READY", 1), found  # it runs again
assert found.errors[0].exception_class.__name__ == "TransactionLeftOpen"
assert project.total.get_result(later).status == "READY"
assert sorted(order.email for order in Order.objects.all()) == ["ada@example.com", "ada@example.com"]
app.close()
print("done")
