"""`carbontrack relay`: send what all processes of a host have for a server, over one connection."""

from __future__ import annotations

import glob
import os
import secrets
import signal
import sys
import threading
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from carbontrack.cli.journals import token_to
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.config import load
from carbontrack.errors import ConfigError
from carbontrack.sinks.journal.recovery import opener
from carbontrack.sinks.post import checked_token, checked_url
from carbontrack.sinks.relay.endpoint import Endpoint, endpoint_of, listening
from carbontrack.sinks.relay.others import OtherUsers, is_of_another
from carbontrack.sinks.relay.peers import Address, can_tell, uid_of_peer
from carbontrack.sinks.relay.relay import Relay, RelayCounts, RelayPlan
from carbontrack.sinks.relay.requests_in import Doorkeeper
from carbontrack.sinks.relay.rows import MOST_RECORDS
from carbontrack.sinks.sync import checked_for
from carbontrack.system.clock import SystemClock
from carbontrack.system.files import open_own
from carbontrack.system.log import RateLimitedLog
from carbontrack.system.urls import origin_of, shown
from carbontrack.text import visible

_ABOUT = """\
Send the records of all processes of this host to one server, in batches over
one connection: those that finished programs have left in their journals and,
with --listen, those that programs post to http://127.0.0.1:8788/v1/records.
A posted record is acknowledged once it is on disk. Runs until SIGTERM or
Ctrl-C. The token for the server is the setting http_token."""
_EPILOG = """\
example:
  CARBONTRACK_HTTP_TOKEN=TOKEN carbontrack relay \\
    --to https://carbon.example/v1/records --listen

exit codes: 0 if nothing is waiting any more; 1 if something is, or if a journal
cannot be read."""
DEFAULT_LISTEN = "127.0.0.1:8788"
"""Where a relay listens, unless `--listen` names another address."""
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
_TICK_S, _STATUS_S = 1.0, 10.0
_TOKEN_FILE_BYTES = 1 << 20


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "relay",
        run,
        description=_ABOUT,
        epilog=_EPILOG,
        usage="carbontrack relay --to URL [--listen [HOST:PORT]] [options]",
        keep_lines=True,
    )
    _add_places(parser.add_argument)
    _add_limits(parser.add_argument)


def _add_places(add: Callable[..., object]) -> None:
    add("--to", metavar="URL", required=True, help="address of the server")
    add(
        "--listen",
        nargs="?",
        const=DEFAULT_LISTEN,
        type=_listen_address,
        metavar="HOST:PORT",
        help=f"accept records from programs of this machine ({DEFAULT_LISTEN})",
    )
    add("--once", action="store_true", help="send what finished programs have left, then exit")
    add(
        "--state-dir",
        action="append",
        default=[],
        metavar="DIRECTORY",
        help="also send from this state directory, or from all that match a pattern such as "
        "'/home/*/.local/state/carbontrack' (of other users: only as root); may be given several "
        "times",
    )
    add(
        "--for",
        action="append",
        default=[],
        dest="also_for",
        metavar="URL",
        help="also send records that are waiting for this address; may be given several times",
    )


def _add_limits(add: Callable[..., object]) -> None:
    add(
        "--token-file",
        metavar="FILE",
        help="accept only requests with one of the tokens in FILE, one a line (default: programs "
        "of this user and of root, without a token)",
    )
    add("--any-user", action="store_true", help="accept programs of all users of this machine")
    add(
        "--space-mib",
        type=_count,
        default=256,
        metavar="N",
        help="disk space for accepted records (%(default)s); if it is full, senders keep theirs",
    )
    add(
        "--batch",
        type=_count,
        default=MOST_RECORDS,
        metavar="N",
        help="records in one request, at most (%(default)s)",
    )
    add(
        "--finish-s",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="seconds to go on sending after SIGTERM (%(default)g)",
    )
    add("--json", action="store_true", help="print each event as a line of JSON")


def run(args: Namespace) -> int:
    """Relay until told to end, or once."""
    settings = load.load_settings(writes=False)
    url = checked_url(args.to)
    if args.listen is not None and args.once:
        raise ConfigError("--listen and --once: what is sent once takes nothing new; leave one out")
    if args.listen is not None and origin_of(url) in map(origin_of, _endpoints(args.listen)):
        raise ConfigError(f"--to {shown(url)} is where this relay listens; name the server")
    doorkeeper, own_token = _doorkeeper(args)
    folders = _Folders(load.state_path(settings), args.state_dir)
    unreadable, server = _Unreadable(), None
    if args.listen is not None or folders.may_have_others:
        _raise_file_limit()
        server = listening(args.listen or ("127.0.0.1", 0))
    here = None if server is None else server.getsockname()[:2]
    plan = RelayPlan(
        url,
        checked_for(url, checked_token(token_to(url, settings)), (url,)),
        load.state_path(settings),
        folders.own,
        (*_endpoints(here), *map(checked_url, args.also_for)),
        args.space_mib << 20,
        opener(is_ours=settings.owns_state_dir),
        batch=min(args.batch, MOST_RECORDS),
    )
    relay = Relay(plan, clock=SystemClock(), on_unreadable=unreadable)
    said = _Events(as_json=args.json)
    with _asked_to_end() as asked, ExitStack() as stack:
        others = None
        if server is not None:
            endpoint = stack.enter_context(Endpoint(server, doorkeeper, relay.spool.add))
            addresses = url, *plan.addresses
            others = OtherUsers(endpoint.url, own_token, addresses, clock=SystemClock())
            stack.callback(others.end)
        said.started(url, endpoint_of(here) if args.listen and here else None, folders.own())
        _relay_until(asked, args, relay, (folders, others), said)
    relay.stop(args.finish_s)
    unfinished = others.unfinished if others is not None else 0
    is_complete = relay.has_all and not (unfinished or unreadable.count)
    said.ended(relay.counts(), url, is_complete=is_complete, to_stdout=args.once)
    return 0 if is_complete else 1


def _relay_until(
    asked: threading.Event,
    args: Namespace,
    relay: Relay,
    places: tuple[_Folders, OtherUsers | None],
    said: _Events,
) -> None:
    """Relay until asked to end, or, once, until it is done."""
    folders, others = places
    if args.once and others is not None:
        found = folders.others()
        while others.look(found) and not SystemClock.wait(asked, _tick_s(args)):
            pass
    relay.start(once=args.once)
    while not (relay.is_over.is_set() or SystemClock.wait(asked, _tick_s(args))):
        relay.wake()
        if others is not None and not args.once:
            others.look(folders.others())
        said.status(relay.counts())


def _tick_s(args: Namespace) -> float:
    return 0.05 if args.once else _TICK_S


class _Folders:
    """The state directories, looked for anew each time: users come and go."""

    def __init__(self, first: Path, patterns: Sequence[str]) -> None:
        self._first = first
        self.may_have_others = bool(patterns) and os.name == "posix" and os.geteuid() == 0
        self._patterns = [os.path.expanduser(one) for one in patterns]  # noqa: PTH111 - patterns

    def _all(self) -> list[Path]:
        found = [Path(one) for each in self._patterns for one in sorted(glob.glob(each))]  # noqa: PTH207
        return list(dict.fromkeys((self._first, *found)))

    def own(self) -> list[Path]:
        """Those that this process looks into itself."""
        return [one for one in self._all() if not is_of_another(one)]

    def others(self) -> list[Path]:
        """Those of other users, where this process is root."""
        return [one for one in self._all() if is_of_another(one)]


class _Unreadable:
    """Warns of journals that cannot be read, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._warnings = RateLimitedLog()

    def __call__(self, path: Path, error: OSError) -> None:
        self.count += 1
        reason = error.strerror or str(error)
        self._warnings.warn(
            str(path), f"{path} cannot be read: {reason}; its records are still waiting"
        )


class _Events:
    """Says what happens: lines of text on stderr, or of JSON on stdout."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out, self._err = Terminal(sys.stdout), Terminal(sys.stderr)
        self._last: RelayCounts | None = None
        self._said_at_s = SystemClock.monotonic_s()

    def started(self, url: str, endpoint: str | None, folders: Sequence[Path]) -> None:
        """The relay has started, and listens."""
        where = "" if endpoint is None else f", listens on {endpoint}"
        text = f"sends to {shown(url)}{where}; journals: {', '.join(map(str, folders))}"
        places = {"to": shown(url), "listen": endpoint, "folders": list(map(str, folders))}
        self._say("started", text, places)

    def status(self, counts: RelayCounts) -> None:
        """Say how it goes, if that has changed, and was not said a moment ago."""
        now_s = SystemClock.monotonic_s()
        if counts != self._last and now_s - self._said_at_s >= _STATUS_S:
            self._last, self._said_at_s = counts, now_s
            self._say("status", _line(counts), counts._asdict())

    def ended(self, counts: RelayCounts, url: str, *, is_complete: bool, to_stdout: bool) -> None:
        """The last line."""
        facts = counts._asdict() | {"is_complete": is_complete}
        text = f"{shown(url)}: {_line(counts)}"
        if to_stdout and not self._as_json:
            self._out.say(visible(text) + "\n")
        else:
            self._say("ended", text, facts)

    def _say(self, event: str, text: str, facts: dict[str, Any]) -> None:
        if self._as_json:
            self._out.say(self._out.json({"event": event, **facts}) + "\n")
        else:
            self._err.say(f"carbontrack relay: {visible(text)}\n")


def _line(counts: RelayCounts) -> str:
    parts = [f"{counts.delivered} delivered"]
    if counts.refused:
        parts.append(f"{counts.refused} refused and set aside")
    if counts.waiting:
        why = f" ({counts.trouble})" if counts.trouble else ""
        parts.append(f"{counts.waiting} waiting{why}")
    return ", ".join(parts)


def _doorkeeper(args: Namespace) -> tuple[Doorkeeper, str]:
    """Who is let in, and the token of our own processes.

    Raises:
        ConfigError: the options contradict each other, or this system does not tell who asks.
    """
    own_token = secrets.token_urlsafe(32)
    tokens = frozenset({own_token})
    users: frozenset[int] | None = frozenset()
    if args.any_user and args.token_file is not None:
        raise ConfigError(
            "--any-user and --token-file: let in all users, or those who have a token"
        )
    if args.token_file is not None:
        tokens |= _tokens_in(Path(args.token_file))
    elif args.any_user:
        users = None
    elif args.listen is not None:
        if not can_tell():
            raise ConfigError(
                "--listen: this system does not say whose process a connection is; give a "
                "--token-file, or let in all users of this machine: --any-user"
            )
        users = frozenset({0, os.geteuid()})
    return Doorkeeper(tokens, users, uid_of_peer), own_token


def _tokens_in(path: Path) -> frozenset[str]:
    """The tokens in a file that only this user may have written; empty lines and # are left out.

    Raises:
        ConfigError: it cannot be read, others may read it, or there is no token in it.
    """
    try:
        with open_own(path) as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(f"--token-file {path}: others may read it: chmod 600 {path}")
            lines = file.read(_TOKEN_FILE_BYTES).decode(errors="replace").splitlines()
    except OSError as error:
        raise ConfigError(f"--token-file {path}: {error.strerror or error}") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise ConfigError(f"--token-file {path}: there is no token in it; write one a line")
    return frozenset(one for one in map(checked_token, found) if one is not None)


def _listen_address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    host = _LOOPBACK.get(host.removeprefix("[").removesuffix("]").lower(), "")
    if not host:
        raise ArgumentTypeError(
            f"{text!r} is no address of this machine's loopback, such as {DEFAULT_LISTEN}; a relay "
            "takes records of its own machine only: start one on each"
        )
    if not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ArgumentTypeError(f"{text!r} has no port from 0 to 65535")
    return host, int(port)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000_000):
        raise ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0.0 <= found < 1e6:
        raise ArgumentTypeError(f"{text!r} is no number of seconds")
    return found


def _endpoints(listen: Address | None) -> list[str]:
    """The addresses under which programs know a relay of their machine."""
    ports = dict.fromkeys((listen[1] if listen else 0, int(DEFAULT_LISTEN.rpartition(":")[2])))
    hosts = ("127.0.0.1", "localhost", "::1")
    return [endpoint_of((host, port)) for port in ports if port for host in hosts]


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends the process at once."""
    asked = threading.Event()
    before: dict[int, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, note)
    yield asked


def _raise_file_limit() -> None:
    """Let this process have as many connections as the system allows it."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
