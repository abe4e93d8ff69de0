"""Whether a file is on a network file system, on which SQLite's locks and its shared memory do not work."""

import os
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

#: Where Linux lists the mounts of this process. Other systems have no such file, and there nothing is known.
MOUNTS: Final = Path("/proc/self/mountinfo")
#: Types of file systems whose files several machines can open at the same time. Those that end in * are the
#: beginnings of types.
_NETWORK: Final = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse.ceph*",
    "fuse.gluster*",
    "fuse.juicefs",
    "fuse.mfs*",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
    "vboxsf",
)


def network_file_system(path: Path, mounts: Path | None = None) -> str | None:
    """Return the type of the network file system that a file is on; None if it is on none or not known.

    Args:
        path: of the file, or of one that may be created there.
        mounts: the file that lists the mounts; None: ``MOUNTS``.

    """
    with suppress(OSError, ValueError):
        place = path if path.exists() else path.parent
        device = place.stat().st_dev
        return _network_type((mounts or MOUNTS).read_text(errors="replace"), device)
    return None


def _network_type(text: str, device: int) -> str | None:
    """Return the type of the file system that is mounted from a device, if it is a network file system."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in text.splitlines():
        # proc(5): id, parent, major:minor, root, mount point, options, optional fields, -, type, ...
        before, _, after = line.partition(" - ")
        if before.split(" ")[2:3] == [number]:
            kind = after.split(" ")[0]
            if any(fnmatchcase(kind, pattern) for pattern in _NETWORK):
                return kind
    return None
