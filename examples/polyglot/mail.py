"""A worker that uses our library and completes its jobs in the database itself."""

import os

from garivini import Client, Worker

worker = Worker(
    Client(os.environ.get("GARIVINI_DB", "sqlite:///garivini.db")),
    os.environ.get("GARIVINI_JOB_SERVERS", "127.0.0.1:4730"),
)


@worker.function("mail")
def mail(job):
    """Send a mail; this example only prints the recipient."""
    print("to", job.json["to"], flush=True)  # noqa: T201
