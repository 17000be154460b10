"""Which file systems are shared with other machines, where appending is not atomic."""

from __future__ import annotations

import os
from pathlib import Path

_REMOTE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs"}) | {
    f"fuse.{name}" for name in ("sshfs", "s3fs", "gcsfuse", "rclone", "goofys", "blobfuse2")
}
"""Types whose clients place an append by the size that they last saw (open(2), O_APPEND; NFS FAQ
A9). Lustre, GPFS and Ceph are absent: they keep O_APPEND atomic between machines."""


def remote_filesystem(directory: Path, *, procfs: Path = Path("/proc")) -> str | None:
    """The type of the remote file system that holds `directory`; None if local or not known."""
    try:
        mounts = (procfs / "self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return None
    place = os.path.realpath(directory) + "/"
    best, kind = "", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5 or not after:
            continue
        point = _unescaped(fields[4]).rstrip("/") + "/"
        if place.startswith(point) and len(point) >= len(best):
            best, kind = point, after.split(" ")[0]
    return kind if kind in _REMOTE else None


def boot_id(*, procfs: Path = Path("/proc")) -> str:
    """A few letters that tell this running kernel, and so this client of a server, from others."""
    try:
        return (procfs / "sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return "unknown"


def _unescaped(point: str) -> str:
    # proc(5): space, tab, newline and backslash stand as three octal digits
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(escape, character)
    return point
