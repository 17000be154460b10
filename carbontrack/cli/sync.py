"""`carbontrack sync`: deliver the records that ended processes could not."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from carbontrack.cli.journals import UnreadableJournals, print_result, token_to
from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.config import load
from carbontrack.record import told
from carbontrack.sinks.delivery import DEAD_LETTER_FOLDER
from carbontrack.sinks.factory import is_url
from carbontrack.sinks.journal.recovery import opener
from carbontrack.sinks.resend import Resent, resend
from carbontrack.sinks.sync import Drained, drain
from carbontrack.system.urls import shown

_ABOUT = """\
Send the records of finished programs that are waiting for a server. The token
(setting http_token) is sent only to servers named in the setting output, and to
--url."""
_EPILOG = """\
examples:
  carbontrack sync
  carbontrack sync --url https://carbon.example/records

exit codes: 0 if nothing is waiting any more; 1 if something is, or if a journal
cannot be read."""
_NOTHING = ("nothing is waiting to be sent", "nothing could be sent")
_NO_LETTERS = ("no refused records", "nothing could be read")


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "sync",
        run,
        description=_ABOUT,
        epilog=_EPILOG,
        keep_lines=True,
    )
    parser.add_argument("--url", metavar="URL", help="only records for this address")
    parser.add_argument(
        "--dead-letters",
        action="store_true",
        help="send again what servers have refused, for example because of a wrong token",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: Namespace) -> int:
    """Send, and print the result for each address."""
    if args.dead_letters:
        return _resend(args)
    settings = load.load_settings(writes=False)
    unreadable = UnreadableJournals()
    state_dir = load.state_path(settings)
    found = drain(
        state_dir,
        args.url,
        token_to(args.url, settings),
        outputs=filter(is_url, settings.output),
        on_unreadable=unreadable,
    )
    remaining = sum(drained.remaining for drained in found)
    addresses = [asdict(drained) | {"url": shown(drained.url)} for drained in found]
    return print_result(
        {"addresses": addresses, "remaining": remaining} if args.json else None,
        [_line(drained, state_dir) for drained in found],
        unreadable,
        nothing=_NOTHING,
        is_complete=not remaining,
    )


def _resend(args: Namespace) -> int:
    settings = load.load_settings(writes=False)
    unreadable = UnreadableJournals()
    found = resend(
        load.state_path(settings),
        args.url,
        token_to(args.url, settings),
        outputs=filter(is_url, settings.output),
        open_sink=opener(is_ours=settings.owns_state_dir),
        on_unreadable=unreadable,
    )
    remaining = sum(resent.remaining for resent in found)
    bad_lines = sum(resent.unreadable for resent in found)
    return print_result(
        {
            "files": [_as_json(resent) for resent in found],
            "remaining": remaining,
            "unreadable": bad_lines,
        }
        if args.json
        else None,
        map(_resent_line, found),
        unreadable,
        nothing=_NO_LETTERS,
        is_complete=not remaining and not bad_lines,
    )


def _as_json(resent: Resent) -> dict[str, object]:
    output = None if resent.output is None else told(resent.output)
    return asdict(resent) | {"path": str(resent.path), "output": output}


def _resent_line(resent: Resent) -> str:
    parts = [f"{resent.delivered} delivered"]
    if resent.remaining:
        parts.append(f"{resent.remaining} still in {resent.path} ({resent.trouble})")
    if resent.unreadable:
        parts.append(f"{resent.unreadable} unreadable, still in {resent.path}")
    return (
        f"{resent.path.stem if resent.output is None else told(resent.output)}: {', '.join(parts)}"
    )


def _line(drained: Drained, state_dir: Path) -> str:
    parts = [f"{drained.delivered} delivered"]
    if drained.refused:
        parts.append(f"{drained.refused} refused and set aside in {state_dir / DEAD_LETTER_FOLDER}")
    if drained.remaining:
        why = f" ({drained.trouble})" if drained.trouble else ""
        parts.append(f"{drained.remaining} still waiting{why}")
    return f"{shown(drained.url)}: {', '.join(parts)}"
