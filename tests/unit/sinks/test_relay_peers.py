"""Whose process is at the other end of a connection."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from carbontrack.sinks.relay.peers import can_tell, uid_of_peer
from tests.support.plain_user import STRANGER, as_stranger

pytestmark = pytest.mark.skipif(not can_tell(), reason="this system does not tell")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_connection_of_our_own_is_ours(host):
    """By IPv4 and IPv6; None once the other end is closed, whose user nobody knows any more."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"there is no {host} here")
    with server, socket.create_connection(server.getsockname()[:2]) as end:
        accepted, theirs = server.accept()
        with accepted:
            ours = accepted.getsockname()[:2]
            assert uid_of_peer(ours, theirs[:2]) == os.geteuid()
            assert uid_of_peer(ours, (host, 1)) is None
            assert uid_of_peer(ours, ("no address", 1)) is None
            end.close()
            assert uid_of_peer(ours, theirs[:2]) is None


@pytest.mark.skipif(not as_stranger(), reason="only root can become another user")
def test_a_connection_of_another_user_is_that_users():
    """Whatever we are ourselves."""
    program = (
        "import socket as s, sys; s.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(1)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        python = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable
        other = subprocess.Popen([*as_stranger(), python, "-I", "-c", program, str(port)], cwd="/")
        accepted, theirs = server.accept()
        assert uid_of_peer(accepted.getsockname(), theirs) == STRANGER
        accepted.close()
        other.communicate()
