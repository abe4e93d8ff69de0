"""A finding of ``garivini doctor``."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    #: ``ok``; ``advice`` (it works, and could be better); ``fault`` (jobs can be lost, or nothing works).
    grade: Literal["ok", "advice", "fault"]
    #: The database, server or function that was checked.
    subject: str
    says: str
    #: The recommended change, if there is one.
    do: str = ""
