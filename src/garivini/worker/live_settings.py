"""The current settings of a worker's functions, which an operator can change while the worker runs."""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace

from garivini.model.policy import NO_POLICY, FunctionPolicy
from garivini.worker.functions import Registered
from garivini.worker.kept_results import keeping
from garivini.worker.links import Links


class LiveSettings:
    """Puts the current settings into the entries of functions, so that reading them costs a job nothing.

    With several databases, the shortest time limit applies. The keepers call ``apply`` in their threads. It
    replaces each entry by one assignment.

    Args:
        functions: the entries to replace, by the names of the functions in Gearman.
        links: the connections for ``def`` functions. While one of these functions has a rate, no jobs are
            requested ahead: such jobs would start together after a long one.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self, functions: MutableMapping[bytes, Registered], links: Links, monotonic: Callable[[], float]
    ) -> None:
        self._functions = functions
        self._links = links
        self._declared = dict(functions)
        self._monotonic = monotonic
        #: By database, the settings that were read last.
        self._read: dict[int, Mapping[str, FunctionPolicy]] = {}
        for name, entry in self._declared.items():  # used until the first settings are read
            if entry.policy.retention is not None:
                functions[name] = keeping(entry, monotonic)

    def apply(self, dbid: int, policies: Mapping[str, FunctionPolicy]) -> None:
        """Use the settings that were read from a database."""
        if self._read.get(dbid) == policies:
            return
        self._read = {**self._read, dbid: policies}
        prefetches = True
        for name, entry in self._declared.items():
            found = [read.get(name.decode(), NO_POLICY) for read in self._read.values()]
            limits = [policy.timeout for policy in found if policy.timeout is not None]
            current = replace(entry, timeout=min(limits, default=None))
            keeps = any(policy.retention is not None for policy in found)
            self._functions[name] = keeping(current, self._monotonic) if keeps else current
            prefetches &= entry.is_async or all(
                policy.rate is policy.partition_rate is None for policy in found
            )
        self._links.prefetches = prefetches
