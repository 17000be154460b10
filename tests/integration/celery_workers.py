"""Real workers of Celery, with tasks from a queue that is a folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

APP = """
from celery import Celery

app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": "queue", "data_folder_out": "queue"}
app.conf.worker_enable_remote_control = False
"""
"""The beginning of a program of tasks, which lies in the file `tasks.py`."""


ALONE = ("--without-gossip", "--without-mingle", "--without-heartbeat")
"""It looks for no other workers."""


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """With a state of its own in the folder."""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    state = {"CARBONTRACK_STATE_DIR": str(folder / "state"), "PYTHONPATH": path}
    return {**os.environ, **state, **settings}


def run(folder: Path, *command: str) -> None:
    """Run Python to its end."""
    subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment(folder), check=True, timeout=60
    )


def fill(folder: Path, program: str, calls: str) -> None:
    """Make a folder with a program of tasks, and call what puts tasks into the queue."""
    (folder / "tasks.py").write_text(APP + program)
    (folder / "queue").mkdir()
    run(folder, "-c", f"import tasks; {calls}")


def serve(folder: Path, *options: str, lines: int, end: signal.Signals, **settings: str) -> str:
    """Let a worker run until so many tasks have ended, and end it; returns what it logged.

    Each try of a task that is tried again counts.
    """
    log = folder / "log"
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tasks",
        "worker",
        "-l",
        "INFO",
        *ALONE,
        *options,
    ]
    with log.open("w") as file:
        worker = subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env=environment(folder, **settings),
            stdout=file,
            stderr=file,
        )
    for _ in range(1200):
        if ended(log.read_text()) >= lines or worker.poll() is not None:
            break
        time.sleep(0.1)
    if end == signal.SIGKILL:  # and its processes, which would go on without it
        time.sleep(2.5)  # a tick
        for child in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split():
            os.kill(int(child), end)
    worker.send_signal(end)
    try:
        worker.wait(60.0)
    except subprocess.TimeoutExpired:  # in rare cases billiard waits for a lock of an ended process
        worker.kill()
        worker.wait()
    printed = log.read_text()
    assert ended(printed) == lines, printed
    return printed


def ended(log: str) -> int:
    """How many tries of tasks have ended, however they have."""
    words = ("succeeded in", "raised unexpected:", "retry: Retry in", " ignored", " rejected")
    return sum(log.count(word) for word in (*words, "Task handler raised error"))
