"""The commit that is checked out where tests run, read from the files of git: no program is run."""

from __future__ import annotations

import re
from pathlib import Path

from carbontrack.system.interrupts import pass_on

_HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def head_commit(directory: Path) -> str | None:
    """The hash of the commit; None outside of a repository or where it cannot be read."""
    try:
        for parent in (directory, *directory.parents):
            if (parent / ".git").exists():
                return _head(_git_directory(parent / ".git"))
    except (OSError, ValueError) as error:
        pass_on(error)
    return None


def _git_directory(path: Path) -> Path:
    """The repository's directory; a worktree and a submodule have a file that names it."""
    if path.is_dir():
        return path
    return path.parent / path.read_text(encoding="utf-8").removeprefix("gitdir:").strip()


def _head(git: Path) -> str | None:
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return _hash(head)
    reference = head.removeprefix("ref:").strip()
    common = git / "commondir"
    shared = git / common.read_text(encoding="utf-8").strip() if common.exists() else git
    for place in (git, shared):
        if (place / reference).is_file():
            return _hash((place / reference).read_text(encoding="utf-8").strip())
    packed = (shared / "packed-refs").read_text(encoding="utf-8").splitlines()
    return next((_hash(line.split()[0]) for line in packed if line.endswith(f" {reference}")), None)


def _hash(text: str) -> str | None:
    return text if _HASH.fullmatch(text) else None
