"""Both ends of a Gearman conversation without I/O: commands to bytes, and bytes to events."""

from garivini.gearman.protocol.client import MAX_HANDLE, ClientProtocol, Priority, Submission, Tag
from garivini.gearman.protocol.events import (
    Answer,
    Assigned,
    Created,
    Echoed,
    Event,
    Finished,
    JobStatus,
    Lines,
    OptionSet,
    Refused,
    Rejected,
    Unknown,
    Unsent,
    Update,
)
from garivini.gearman.protocol.window import GrabWindow
from garivini.gearman.protocol.worker import WorkerProtocol

__all__ = [
    "MAX_HANDLE",
    "Answer",
    "Assigned",
    "ClientProtocol",
    "Created",
    "Echoed",
    "Event",
    "Finished",
    "GrabWindow",
    "JobStatus",
    "Lines",
    "OptionSet",
    "Priority",
    "Refused",
    "Rejected",
    "Submission",
    "Tag",
    "Unknown",
    "Unsent",
    "Update",
    "WorkerProtocol",
]
