"""Runs the steps of a page, as a program of its own: steps as JSON on stdin, results on stdout."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

SHELL_TIMEOUT_S = 60.0


def run(step: dict[str, Any], namespace: dict[str, Any]) -> dict[str, str | None]:
    """Do one step; returns what it printed and how it failed, if it did."""
    if step["kind"] == "write":
        Path(step["path"]).write_text(step["text"], encoding="utf-8")
        return {"printed": "", "failure": None}
    return _shell(step["text"]) if step["kind"] == "shell" else _python(step, namespace)


def _shell(command: str) -> dict[str, str | None]:
    done = subprocess.run(
        command,
        shell=True,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SHELL_TIMEOUT_S,
    )
    printed = done.stdout.decode()
    failure = f"exit code {done.returncode}\n{printed}" if done.returncode else None
    return {"printed": printed, "failure": failure}


def _python(step: dict[str, Any], namespace: dict[str, Any]) -> dict[str, str | None]:
    printed = io.StringIO()
    failure = None
    try:
        with redirect_stdout(printed):
            # line numbers are those of the page
            code = compile("\n" * step["line"] + step["text"], "page", "exec", dont_inherit=True)
            exec(code, namespace)
    except BaseException:
        failure = traceback.format_exc()
    return {"printed": printed.getvalue(), "failure": failure}


def main() -> None:
    """Do the steps one after the other; the first that fails ends it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    results = []
    for step in json.load(sys.stdin):
        results.append(run(step, namespace))
        if results[-1]["failure"]:
            break
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
