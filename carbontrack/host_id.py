"""A name for this host in records that tells nobody which host it is."""

from __future__ import annotations

from pathlib import Path


def host_id(etc: Path = Path("/etc")) -> str:
    """A name for this host that nobody can turn back into one: a keyed hash of its machine id.

    The machine id is random (machine-id(5)), and its manual asks for a keyed hash of it wherever it
    leaves the machine. Where there is none, the host's name takes its place.
    """
    try:
        from _blake2 import blake2b  # hashlib would load all of OpenSSL first, 5 ms
    except ImportError:
        from hashlib import blake2b
    try:
        secret = (etc / "machine-id").read_bytes().strip()
    except OSError:
        secret = b""
    if not secret:
        import socket

        secret = socket.gethostname().encode()
    return blake2b(secret, digest_size=8, key=b"carbontrack host id").hexdigest()


def calibration_path(state: Path, host: str) -> Path:
    """One file for each host: a state directory may be shared by several."""
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in host)
    return state / f"calibration-{safe}.json"
