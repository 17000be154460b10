"""Folders and files that only their owner may read, whatever the process's umask is."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def make_private_folder(folder: Path) -> None:
    """Make a folder and its missing parents, each for its owner only (0700).

    The XDG base directory specification asks for that. An existing folder is left as it is.

    Raises:
        OSError: it cannot be made, or a file has its name.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        # mkdir(parents=True) would make the parents with the default mode
        if folder.parent == folder:
            raise
        make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def replace_privately(path: Path, text: str) -> None:
    """Replace `path` by a file with this text in one step, for its owner only (0600).

    Missing folders are made in the same way. No reader ever sees a partial file.

    Raises:
        OSError: it could not be written; the old file is still there.
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
