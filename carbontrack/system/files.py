"""Folders and files that only their user may read, whatever the process's umask is."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, each for its user alone (0700).

    The XDG base directory specification asks for that. A folder that is there stays as it is.

    Raises:
        OSError: it cannot be made, or something else has its name.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        # mkdir(parents=True) would give those above the mode of any other folder
        if folder.parent == folder:
            raise
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def replace_privately(path: Path, text: str) -> None:
    """Let a file with this text take the place of `path` in one step, for its user alone (0600).

    Folders that are missing are made, likewise. No reader ever sees half of it.

    Raises:
        OSError: it could not be written; what was there is still there.
    """
    make_private_folder(path.parent)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
