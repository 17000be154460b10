"""The files of docs/examples/server say what the command and its limits say."""

from __future__ import annotations

import json
import re
import shlex
from argparse import ArgumentParser, Namespace
from configparser import ConfigParser
from pathlib import Path

import yaml

from carbontrack.cli import COMMANDS, serve
from carbontrack.server.limits import Limits

FOLDER = Path(__file__).parents[3] / "docs" / "examples" / "server"


def parsed(command: list[str]) -> Namespace:
    """A command of ours, read as the command line reads it."""
    assert Path(command[0]).name == "carbontrack"
    assert command[1] in COMMANDS
    parser = ArgumentParser(exit_on_error=False)
    serve.add_parser(parser.add_subparsers())
    return parser.parse_args(command[1:])


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_unit():
    """It starts the command on this machine alone, and waits long enough for its end."""
    unit = ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    text = (FOLDER / "carbontrack-serve.service").read_text()
    unit.read_string(text)
    service = unit["Service"]
    args = parsed(shlex.split(service["ExecStart"]))
    assert (args.host, args.port) == ("127.0.0.1", 8787)
    assert args.store.startswith(service["WorkingDirectory"])
    assert seconds(service["TimeoutStopSec"]) > Limits().stop_s
    assert int(service["LimitNOFILE"]) > Limits().connections
    (task,) = re.findall(r"(/opt/carbontrack/bin/carbontrack serve --new.+)", text)
    assert parsed(shlex.split(task)).new_token == "vision"


def test_the_compose_file():
    """The server waits for its database, has its password from one place, and may finish."""
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    server, db = services["server"], services["db"]
    args = parsed(server["entrypoint"])
    assert args.store == "postgresql://carbontrack@db/carbontrack"
    assert parsed([*server["entrypoint"], "--new-token", "vision"]).new_token == "vision"
    assert server["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert "healthcheck" in db
    assert server["environment"]["PGPASSWORD"] == db["environment"]["POSTGRES_PASSWORD"]
    assert db["environment"]["POSTGRES_USER"] in args.store
    assert server["ports"] == [f"127.0.0.1:{args.port}:{args.port}"]
    assert seconds(server["stop_grace_period"]) > Limits().stop_s


def test_the_dockerfile():
    """Its entry point is the command, on the port that it exposes; it does not run as root."""
    text = (FOLDER / "Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    args = parsed(json.loads(entry))
    assert args.host == "0.0.0.0"
    assert re.findall(r"^EXPOSE (\d+)$", text, re.MULTILINE) == [str(args.port)]
    assert f"127.0.0.1:{args.port}/healthz" in text
    assert text.index("\nUSER carbontrack") < text.index("\nENTRYPOINT")
    assert "carbontrack[server]" in text


def test_the_proxies():
    """They take bodies as large as the receiver does, and wait longer than it does."""
    nginx = (FOLDER / "nginx.conf").read_text()
    assert f"client_max_body_size {Limits().body_bytes >> 20}m;" in nginx
    (wait,) = re.findall(r"proxy_read_timeout (\w+);", nginx)
    assert seconds(wait) > Limits().request_s
    caddy = (FOLDER / "Caddyfile").read_text()
    for text in (nginx, caddy):
        assert "127.0.0.1:8787" in text
        assert text.count("{") == text.count("}")
