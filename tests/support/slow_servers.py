"""Servers on this machine that take a connection and then hold it for as long as they are let."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

PIECES = 400
"""In how many pieces an answer comes: at `PAUSE_S` after each, it takes many seconds."""
PAUSE_S = 0.05

Script = Callable[["SlowServer", socket.socket], None]


class SlowServer:
    """Treats each connection as its script does, in a `with` block.

    Attributes:
        connections: how many there were.
        pieces: how many pieces were sent, or read, on all of them together.
    """

    def __init__(self, script: Script) -> None:
        self.connections = self.pieces = 0
        self.stopping = threading.Event()
        self._script = script
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/records"

    def pause(self) -> bool:
        """Count a piece and wait; False when the test is over."""
        self.pieces += 1
        return not self.stopping.wait(PAUSE_S)

    def __enter__(self) -> SlowServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._script(self, connection)
        except OSError:
            return  # the other side has given up


def _trickle(server: SlowServer, connection: socket.socket, start: bytes, piece: bytes) -> None:
    connection.recv(1 << 16)
    connection.sendall(start)
    for _ in range(PIECES):
        connection.sendall(piece)
        if not server.pause():
            return


def status_line(server: SlowServer, connection: socket.socket) -> None:
    """The status line, which never ends."""
    _trickle(server, connection, b"HTTP/1.1 200 ", b"O")


def headers(server: SlowServer, connection: socket.socket) -> None:
    """A header that never ends."""
    _trickle(server, connection, b"HTTP/1.1 503 No\r\nX-Slow: ", b"x")


def interim_answers(server: SlowServer, connection: socket.socket) -> None:
    """Interim answers, after which the real one never comes."""
    _trickle(server, connection, b"", b"HTTP/1.1 100 Continue\r\n\r\n")


def body(server: SlowServer, connection: socket.socket) -> None:
    """The headers at once, and then the body."""
    _trickle(server, connection, b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n", b"x")


def handshake(server: SlowServer, connection: socket.socket) -> None:
    """The record of a TLS handshake, which never ends."""
    _trickle(server, connection, b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb", b"\x00")


def upload(server: SlowServer, connection: socket.socket) -> None:
    """Reads what is sent a little at a time, each in good time."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
    for _ in range(PIECES):
        connection.recv(1 << 15)
        if not server.pause():
            return


def silence(server: SlowServer, connection: socket.socket) -> None:
    """Nothing at all."""
    connection.recv(1 << 16)
    server.stopping.wait()


def silence_after_one(server: SlowServer, connection: socket.socket) -> None:
    """The first request is answered, and no other one."""
    connection.recv(1 << 16)
    if server.connections == 1:
        connection.sendall(b"HTTP/1.1 204 Yes\r\nConnection: close\r\n\r\n")
    else:
        server.stopping.wait()
