"""`carbontrack serve`: the receiver of a team's records, its tokens and its projects."""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carbontrack.cli.options import Subparsers, new_parser
from carbontrack.cli.terminal import Terminal
from carbontrack.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from carbontrack.store.base import Project, Store
    from carbontrack.store.tokens import Token, Tokens

_ABOUT = """\
Receive the records of a team over HTTP, and show the totals of each project.
Programs send to http://HOST:PORT/v1/records (setting output) with a token
(setting http_token). Without tokens, only this machine may send."""
_EPILOG = """\
examples:
  carbontrack serve --new-token vision
  carbontrack serve --store team.db
"""
DEFAULT_STORE = "team.db"
_LIBRARIES = ("starlette", "uvicorn", "msgspec", "prometheus_client", "pandas")
_NO_LIMIT = "none"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = new_parser(
        subparsers,
        "serve",
        run,
        description=_ABOUT,
        epilog=_EPILOG,
        usage="carbontrack serve [--store STORE] [--host HOST] [--port PORT] [options]",
        keep_lines=True,
    )
    add = parser.add_argument
    store = f"SQLite file, or postgresql://USER@HOST/DATABASE ({DEFAULT_STORE})"
    add("--store", default=DEFAULT_STORE, metavar="STORE", help=store)
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--port", type=_port, default=8787, help="port to listen on (8787)")
    add("--tokens", type=Path, metavar="FILE", help="keep tokens in this file instead of the store")
    tasks = parser.add_argument_group("tokens and projects, instead of serving")
    add = tasks.add_argument
    add("--new-token", metavar="PROJECT", help="create a token for a project, and print it once")
    add("--read", action="store_true", help="with --new-token: the token may read totals, not send")
    add("--revoke", metavar="ID", help="revoke a token, by its id or its text")
    add("--project", metavar="PROJECT", help="set --quota and --retention of a project")
    add(
        "--quota",
        type=_quota,
        metavar="N",
        help=f"with --project: records a minute, or {_NO_LIMIT}",
    )
    add(
        "--retention",
        type=_days,
        metavar="DAYS",
        help=f"with --project: days to keep records, or {_NO_LIMIT}",
    )
    add("--list", action="store_true", help="list projects and tokens, without secrets")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: Namespace) -> int:
    """Serve, or do one task with tokens and projects."""
    _check(args)
    from carbontrack.store.factory import open_store

    with closing(open_store(args.store)) as store:
        tokens = _tokens(args.tokens, store)
        if args.new_token is not None:
            return _new_token(args, tokens)
        if args.revoke is not None:
            return _revoke(args.revoke, tokens)
        if args.project is not None:
            return _set_project(args, store)
        if args.list:
            return _list(store, tokens, as_json=args.json)
        return _serve(args, store, tokens)


def _check(args: Namespace) -> None:
    """Refuse options that do not go together."""
    tasks = {
        "--new-token": args.new_token is not None,
        "--revoke": args.revoke is not None,
        "--project": args.project is not None,
        "--list": args.list,
    }
    asked = [name for name, is_asked in tasks.items() if is_asked]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} cannot be given together")
    if args.read and args.new_token is None:
        raise ConfigError("--read is for --new-token")
    limits = args.quota is not None or args.retention is not None
    if limits != (args.project is not None):
        raise ConfigError("--project takes --quota, --retention or both, and they need --project")


def _tokens(path: Path | None, store: Store) -> Tokens:
    if path is None:
        return store
    from carbontrack.store.token_file import TokenFile

    return TokenFile(path)


def _serve(args: Namespace, store: Store, tokens: Tokens) -> int:
    for library in _LIBRARIES:
        if find_spec(library) is None:
            raise MissingExtra(library, "server", "carbontrack serve")
    from carbontrack.server.process import check_is_safe, listen, serve

    if args.tokens is not None and not args.tokens.expanduser().exists():
        raise ConfigError(
            f"--tokens {args.tokens}: there is no such file; carbontrack serve --new-token PROJECT "
            f"--tokens {args.tokens} makes it with a first token in it"
        )
    is_open = check_is_safe(args.host, tokens)
    terminal = Terminal(sys.stderr)

    def say(address: str) -> None:
        terminal.say(f"carbontrack: listening on {address}, records in {store.address}\n")
        if is_open:
            terminal.say(
                "carbontrack: without tokens, any program on this machine may send and read, as "
                "project 'default'; to change that: carbontrack serve --new-token PROJECT\n"
            )

    serve(store, tokens, listen(args.host, args.port), is_open=is_open, on_start=say)
    terminal.say("carbontrack: stopped; all acknowledged records are stored\n")
    return 0


def _new_token(args: Namespace, tokens: Tokens) -> int:
    text = tokens.create_token(args.new_token, "read" if args.read else "ingest")
    out = Terminal(sys.stdout)
    may = "read the totals of" if args.read else "send records to"
    if args.json:
        out.say(out.json({"project": args.new_token, "token": text}) + "\n")
        return 0
    out.say(f"{text}\n")
    Terminal(sys.stderr).say(
        f"carbontrack: this token may {may} project {args.new_token}; keep it: it cannot be shown "
        "again, as only its hash is stored\n"
    )
    return 0


def _revoke(token: str, tokens: Tokens) -> int:
    if tokens.revoke(token):
        Terminal(sys.stderr).say(
            "carbontrack: revoked; a running server refuses it within seconds\n"
        )
        return 0
    raise ConfigError("there is no token with this id; to list all: carbontrack serve --list")


def _set_project(args: Namespace, store: Store) -> int:
    found = store.project(args.project)
    if args.quota is not None:
        found = found._replace(quota_records_per_min=_number(args.quota))
    if args.retention is not None:
        found = found._replace(retention_days=_number(args.retention))
    store.set_project(found)
    terminal = Terminal(sys.stdout)
    if args.json:
        terminal.say(terminal.json(store.project(args.project)._asdict()) + "\n")
    else:
        terminal.say(f"{_project_line(store.project(args.project))}\n")
    return 0


def _list(store: Store, tokens: Tokens, *, as_json: bool) -> int:
    projects, known = store.projects(), tokens.tokens()
    terminal = Terminal(sys.stdout)
    if as_json:
        content = {
            "projects": [one._asdict() for one in projects],
            "tokens": [one._asdict() for one in known],
        }
        terminal.say(terminal.json(content, indent=2) + "\n")
        return 0
    lines = [*map(_project_line, projects), *map(_token_line, known)]
    terminal.say("\n".join([*lines, ""]) if lines else "no projects and no tokens\n")
    return 0


def _project_line(project: Project) -> str:
    quota, days = project.quota_records_per_min, project.retention_days
    takes = "any number of records" if quota is None else f"{quota:,} records a minute"
    keeps = "keeps them forever" if days is None else f"keeps them {days:g} days"
    return f"project {project.name}: takes {takes}, {keeps}"


def _token_line(token: Token) -> str:
    may = "read" if token.may == "read" else "send"
    end = f", revoked {token.revoked_at[:10]}" if token.revoked_at else ""
    return (
        f"token {token.id}: may {may}, project {token.project}, made {token.created_at[:10]}{end}"
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 16:
        raise ValueError
    return port


def _quota(text: str) -> int | str:
    return text if text == _NO_LIMIT else int(text)


def _days(text: str) -> float | str:
    return text if text == _NO_LIMIT else float(text)


def _number(limit: float | str) -> Any:
    return None if limit == _NO_LIMIT else limit
