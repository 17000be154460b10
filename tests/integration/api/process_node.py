"""One process of a generated program: opens a block, works, starts others, and ends somehow.

Run as a script with the node as JSON; forked children call `run_node`. Each process writes down
when its block was open: at which count of the machine's energy, which all processes share.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import carbontrack


def note(name: str, event: str) -> None:
    """Add a line to the log, which all processes share."""
    zone = Path(os.environ["CARBONTRACK_SYSFS_PATH"], "class/powercap/intel-rapl:0")
    count_j = int((zone / "energy_uj").read_text()) / 1e6
    line = f"{name} {event} {count_j!r}\n".encode()
    log = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(log, line)
    os.close(log)


def run_node(node: dict[str, Any]) -> None:
    """Do what the node says."""
    if not node["block"]:
        do_actions(node)
        return
    block = carbontrack.track(node["name"])
    note(node["name"], "opening")
    block.open()
    note(node["name"], "opened")
    if node["inner"] == "span":
        with carbontrack.track("inner"):
            do_actions(node)
    elif node["inner"] == "call":
        carbontrack.track("call")(do_actions)(node)
    else:
        do_actions(node)
    note(node["name"], "closing")
    if node["end"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if node["end"] == "_exit":
        os._exit(0)
    block.close()
    note(node["name"], "closed")


def do_actions(node: dict[str, Any]) -> None:
    """Work, and start other processes; the last ones are waited for unless they may outlive."""
    waits = []
    for action in node["actions"]:
        if "work_s" in action:
            time.sleep(action["work_s"])
        elif action["how"] == "exec":
            note(node["name"], "closing")  # its block ends here, unless there is none
            os.execv(sys.executable, [sys.executable, __file__, json.dumps(action["child"])])
        else:
            wait = START[action["how"]](action["child"])
            (wait() if action["waits"] else waits.append(wait))
    for wait in waits if node["waits"] else ():
        wait()


def by_fork(child: dict[str, Any]) -> Any:
    pid = os.fork()
    if not pid:
        try:
            run_node(child)
        finally:
            os._exit(0)
    return lambda: os.waitpid(pid, 0)


def by_double_fork(child: dict[str, Any]) -> Any:
    pid = os.fork()
    if not pid:
        os.setsid()
        if not os.fork():
            time.sleep(0.05)
            os.execv(sys.executable, [sys.executable, __file__, json.dumps(child)])
        os._exit(0)
    return lambda: os.waitpid(pid, 0)


def by_subprocess(child: dict[str, Any]) -> Any:
    return subprocess.Popen([sys.executable, __file__, json.dumps(child)]).wait


def by_shell(child: dict[str, Any]) -> Any:
    command = [sys.executable, __file__, json.dumps(child)]
    return subprocess.Popen(["sh", "-c", '"$@"; true', "sh", *command]).wait


def by_multiprocessing(method: str) -> Any:
    def start(child: dict[str, Any]) -> Any:
        process = multiprocessing.get_context(method).Process(target=run_node, args=(child,))
        process.start()
        return process.join

    return start


START = {
    "fork": by_fork,
    "double fork": by_double_fork,
    "subprocess": by_subprocess,
    "shell": by_shell,
    "mp fork": by_multiprocessing("fork"),
    "mp spawn": by_multiprocessing("spawn"),
}

if __name__ == "__main__":
    run_node(json.loads(sys.argv[1]))
