"""A worker with our library: it completes its jobs in the database by itself."""

import os

from garivini import Client, Worker

worker = Worker(
    Client(os.environ.get("GARIVINI_DB", "sqlite:///garivini.db")),
    os.environ.get("GARIVINI_JOB_SERVERS", "127.0.0.1:4730"),
)


@worker.function("mail")
def mail(job):
    """Send it; here, say to whom."""
    print("to", job.json["to"], flush=True)  # noqa: T201
