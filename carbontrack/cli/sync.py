"""`carbontrack sync`: deliver what ended processes could not."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, _SubParsersAction
from dataclasses import asdict
from pathlib import Path

from carbontrack.cli.terminal import Unseen
from carbontrack.config import load
from carbontrack.sinks.delivery import FOLDER
from carbontrack.sinks.post import shown
from carbontrack.sinks.sync import Drained, drain

_NOTHING = {False: "nothing waits to be sent", True: "nothing could be sent"}


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "sync",
        help="send the records that wait for a server",
        description="Send the records of ended processes that wait in the journal for a server. "
        "The addresses are those in the journal; the token is the setting http_token. "
        "Exit code 0: nothing waits any more; 1: something does, or a journal cannot be opened.",
        epilog="Example: CARBONTRACK_HTTP_TOKEN=… carbontrack sync",
        allow_abbrev=False,
    )
    parser.add_argument("--url", metavar="URL", help="only what waits for this address")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(func=run)


def run(args: Namespace) -> int:
    """Send, and say for each address what came of it."""
    settings = load.load_settings(writes=False)
    unseen = Unseen()
    state_dir = load.state_path(settings)
    found = drain(state_dir, args.url, settings.http_token, on_trouble=unseen)
    remaining = sum(drained.remaining for drained in found)
    if args.json:
        addresses = [asdict(drained) | {"url": shown(drained.url)} for drained in found]
        print(json.dumps({"addresses": addresses, "remaining": remaining}))
    else:
        told = [_told(drained, state_dir) for drained in found]
        print("\n".join(told) or _NOTHING[bool(unseen.found)])
    return 1 if unseen.say() or remaining else 0


def _told(drained: Drained, state_dir: Path) -> str:
    parts = [f"{drained.delivered} delivered"]
    if drained.refused:
        parts.append(f"{drained.refused} refused and set aside in {state_dir / FOLDER}")
    if drained.remaining:
        why = f" ({drained.trouble})" if drained.trouble else ""
        parts.append(f"{drained.remaining} still wait{why}")
    return f"{shown(drained.url)}: {', '.join(parts)}"
