"""What ``garivini doctor`` says of one thing."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    #: ``ok``; ``advice`` (it works, and could be better); ``fault`` (jobs can be lost, or nothing works).
    grade: Literal["ok", "advice", "fault"]
    #: The database, server or function that it is about.
    subject: str
    says: str
    #: What to change, where there is something.
    do: str = ""
