"""Batches: groups of jobs whose end as a whole inserts another job."""

from typing import Final, NamedTuple

import msgspec

from garivini.errors import UsageError
from garivini.model.job import NewJob

#: Maximum characters of a name, and bytes of the argument of a job that a batch inserts.
MAX_NAME: Final = 200
MAX_CALLBACK: Final = 65_536
#: Seconds for which a batch that has ended is kept: a week.
BATCH_RETENTION: Final = 7 * 86400


class BatchStatus(NamedTuple):
    """A batch, as its row is. Times are unix seconds by the database's clock."""

    #: The id as text: that of the database and that of the batch, ``1:6a0c...``.
    id: str
    name: str
    #: All jobs that were added.
    members: int
    #: Members that have not ended.
    pending: int
    #: Members that are dead.
    failed: int
    #: Whether the batch ends with its last member.
    sealed: bool
    created: int
    #: When it ended; 0: it has not.
    completed_at: int

    @property
    def succeeded(self) -> int:
        """Members that have succeeded or were deleted."""
        return self.members - self.pending - self.failed


def parse_batch(batch: str) -> tuple[int, str]:
    """Return the id of the database and that of the batch from the text of both.

    Raises:
        UsageError: it is not the id of a batch.

    """
    dbid, _, batchid = str(batch).partition(":")
    if not dbid.isdecimal() or len(batchid) != 16 or not batchid.isalnum():
        raise UsageError(f"{batch!r:.100} is not the id of a batch, such as 1:6a0c1f2e9b3d4c5a")
    return int(dbid), batchid


def check_batch_name(name: str) -> str:
    """Return a name.

    Raises:
        UsageError: it is too long, or not a text.

    """
    if not isinstance(name, str) or len(name) > MAX_NAME or "\0" in name:
        raise UsageError(f"the name of a batch is a text of at most {MAX_NAME} characters")
    return name


def encode_callback(job: NewJob | None) -> str | None:
    """Return a job to insert at the end of a batch, as it is stored; None: there is none.

    Raises:
        UsageError: its argument is too large.

    """
    if job is None:
        return None
    if len(job.arg) > MAX_CALLBACK:
        raise UsageError(f"the argument of a batch's own job has at most {MAX_CALLBACK} bytes")
    return msgspec.json.encode(job).decode()


def decode_callback(text: str, batch: str) -> NewJob:
    """Return the stored job, with the batch's id among its headers.

    Raises:
        UsageError: another program has stored something else.

    """
    try:
        job = msgspec.json.decode(text, type=NewJob)
        headers = msgspec.json.decode(job.headers or "{}", type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"the job of batch {batch} cannot be read: {error}") from None
    headers["batch"] = msgspec.Raw(msgspec.json.encode(batch))
    return msgspec.structs.replace(job, headers=msgspec.json.encode(headers).decode())
