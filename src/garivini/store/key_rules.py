"""The rules of unique keys that functions have, as an inserting process knows them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from garivini.errors import UsageError
from garivini.model.job import NewJob
from garivini.model.policy import POLICIES_AGE, FunctionPolicy
from garivini.model.unique import NO_RULE, KeyRule
from garivini.store.statements import Statements

_UNIQKEY: Final = attrgetter("uniqkey")


class KeyRules:
    """The rules by function, read again after ``POLICIES_AGE``. Threads may share it."""

    def __init__(self) -> None:
        self._read_at = -math.inf
        self._rules: Mapping[str, KeyRule] = {}

    def remember(self, policies: Mapping[str, FunctionPolicy]) -> None:
        """Take the rules from settings that have just been read for another purpose."""
        self._store({name: rule for name, it in policies.items() if (rule := it.key_rule) != NO_RULE})

    @property
    def queue(self) -> bool:
        """Whether inserts of a function may be stored until the job of their key ends."""
        return any(rule.queues for rule in self._rules.values())

    def apply(self, jobs: Sequence[NewJob], read: Callable[[], Mapping[str, KeyRule]]) -> Sequence[NewJob]:
        """Return the jobs with the rules of their keys: their own, then those of their functions.

        Jobs whose rules are the defaults get none. ``read`` is called for the rules of functions if the known
        ones are too old.
        """
        if not any(map(_UNIQKEY, jobs)):
            return jobs
        if time.monotonic() - self._read_at >= POLICIES_AGE:
            self._store(read())
        rules = self._rules
        if not rules and all(job.rule is None for job in jobs):
            return jobs
        return [self._with_rule(job, rules) if job.uniqkey is not None else job for job in jobs]

    def _with_rule(self, job: NewJob, rules: Mapping[str, KeyRule]) -> NewJob:
        rule = rules.get(job.funcname, NO_RULE)
        if job.rule is not None:
            rule = job.rule.over(rule)
        return replace(job, rule=None if rule.is_plain else rule)

    def _store(self, rules: Mapping[str, KeyRule]) -> None:
        self._rules, self._read_at = rules, time.monotonic()


def key_rules(run: Statements) -> dict[str, KeyRule]:
    """Return the rules of functions that have any, without invalid values."""
    found = {}
    for funcname, *values in run("key_rules"):
        named = dict(zip(("scope", "window", "on_duplicate", "max_delay"), values, strict=True))
        found[funcname] = KeyRule(**{name: value for name, value in named.items() if _is_valid(name, value)})
    return found


def _is_valid(name: str, value: object) -> bool:
    try:
        KeyRule(**{name: value})  # type: ignore[arg-type]
    except UsageError:
        return False
    return True
