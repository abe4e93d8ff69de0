"""The number of processors that this process may use, which is often less than the machine has."""

import os
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path, PurePosixPath


def usable_cores(proc: Path = Path("/proc/self")) -> int:
    """Return the number of cores that this process may use; the minimum is 1.

    The affinity of the process (``taskset``, ``cpuset``) limits the number, and so does the CPU limit of its
    control groups (``docker run --cpus``, a limit of Kubernetes, ``CPUQuota`` of systemd), rounded up.
    """
    return max(1, min([_affinity(), *(ceil(limit) for limit in _limits(proc))]))


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on; the user can limit it by PYTHON_CPU_COUNT
        return int(os.process_cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _limits(proc: Path) -> Iterator[float]:
    """Yield the limit, in cores, of each control group of this process and of the parents of these groups."""
    try:
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:  # not Linux, or not mounted
        return
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = after.split()[:3]
        for _, controllers, group in groups:
            if kind == "cgroup2" and not controllers:
                yield from _climb(Path(mount), root, group, _quota_v2)
            elif kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(","):
                yield from _climb(Path(mount), root, group, _quota_v1)


def _climb(mount: Path, root: str, group: str, quota: Callable[[Path], float | None]) -> Iterator[float]:
    """Yield the limits of a group and its parents, as far as they are mounted."""
    try:
        inner = PurePosixPath(group).relative_to(root)
    except ValueError:  # in a container, the mount point is the group of the container, and not the root
        inner = PurePosixPath()
    for part in (inner, *inner.parents):
        try:
            limit = quota(mount / part)
        except (OSError, ValueError):  # the topmost group has no limit
            continue
        if limit is not None:
            yield limit


def _quota_v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
