"""The user of the process at the other end of a connection on this machine, from the kernel.

Linux answers for one connection at a time (sock_diag(7)), so that it takes as long on a host with
ten thousand of them.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

from carbontrack.system.interrupts import pass_on

_SOCK_DIAG = 4
_BY_FAMILY = 20
_REQUEST = 1
_ESTABLISHED = 1
_HEAD = struct.Struct("=IHHII")
_ASKED = struct.Struct("=BBBBI")
_PORTS = struct.Struct("!HH")
_NO_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
_ID_BYTES = 48
_FOUND = struct.Struct("=BBBB48xIIIII")
_ANSWER_BYTES = 8192
_WAIT_S = 1.0

Address = tuple[str, int]
"""An IP address and a port."""


def uid_of_peer(ours: Address, theirs: Address) -> int | None:
    """The user whose process holds the other end of an open TCP connection on this machine.

    `ours` and `theirs` are the two addresses as our end has them. None if the system does not
    report it, or the other end is closed.
    """
    try:
        return _asked(ours, theirs)
    except (OSError, ValueError, struct.error) as error:
        pass_on(error)
        return None


def _asked(ours: Address, theirs: Address) -> int | None:
    if not hasattr(socket, "AF_NETLINK"):
        return None
    packed = [ipaddress.ip_address(host).packed for host, _ in (theirs, ours)]
    family = socket.AF_INET if len(packed[0]) == 4 else socket.AF_INET6
    # the other end is looked for, whose own address is theirs
    connection = _PORTS.pack(theirs[1], ours[1]) + b"".join(one.ljust(16, b"\0") for one in packed)
    asked = _ASKED.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + connection + _NO_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as kernel:
        kernel.settimeout(_WAIT_S)
        kernel.send(_HEAD.pack(_HEAD.size + len(asked), _BY_FAMILY, _REQUEST, 1, 0) + asked)
        answer = kernel.recv(_ANSWER_BYTES)
    if _HEAD.unpack_from(answer)[1] != _BY_FAMILY:
        return None  # there is no such connection
    _family, state, _timer, _tries, _expires, _read, _write, uid, _inode = _FOUND.unpack_from(
        answer, _HEAD.size
    )
    # once a process has closed its end, the kernel says that it is nobody's: 0, as of root
    return int(uid) if state == _ESTABLISHED else None


def can_tell() -> bool:
    """Whether this system reports the user of a connection, tested with one of this process."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            here = server.getsockname()
            with socket.create_connection(here, timeout=_WAIT_S) as end:
                return uid_of_peer(here, end.getsockname()) == os.geteuid()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        pass_on(error)
        return False
