"""The functions whose limits hold jobs back, and when a QueueRunner claims their jobs again. No I/O."""

from typing import Final

#: Minimum and maximum seconds until the next claim of a function whose jobs are held back.
_FIRST: Final = 0.01
_LONGEST: Final = 0.05
#: Maximum seconds if a rate gives the time of the next claim, because the rate may be changed meanwhile.
_LONGEST_KNOWN: Final = 1.0


class HeldBack:
    """The functions that a pass leaves out, because a limit held back some of their jobs a moment ago.

    If a rate holds jobs back, it gives the time of the next claim. A limit on jobs in flight gives no time,
    because nothing reports the end of a job to a QueueRunner. So the QueueRunner claims repeatedly: soon
    after a claim that got jobs, later after a claim that got none. Times are monotonic.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._waits: dict[str, float] = {}

    def __contains__(self, funcname: str) -> bool:
        return funcname in self._until

    def begin(self, now: float) -> None:
        """Begin a pass. It leaves out only the functions whose next claim is not due yet."""
        if self._until:
            self._until = {name: until for name, until in self._until.items() if until > now}

    def claimed(self, funcname: str, *, jobs: int, held_back: float | None, now: float) -> None:
        """Record a claim of a function with rules; ``held_back``: see ``Admitted``."""
        if held_back is None:
            self._until.pop(funcname, None)
            self._waits.pop(funcname, None)
            return
        wait = _FIRST if jobs else min(self._waits.get(funcname, _FIRST / 2) * 2, _LONGEST)
        self._waits[funcname] = wait
        self._until[funcname] = now + max(wait, min(held_back, _LONGEST_KNOWN))

    def until_claim(self, now: float) -> list[float]:
        """Return, for each of the functions, the seconds until its jobs are claimed again."""
        return [max(0.0, until - now) for until in self._until.values()]
