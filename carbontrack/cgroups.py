"""Where the limits of this process stand in the control group tree (cgroups(7)), both versions."""

from __future__ import annotations

from pathlib import Path


def own_groups(procfs: Path, sysfs: Path, controller: str) -> list[tuple[Path, int]]:
    """The directories that limit this process for `controller`, from the top of the tree down.

    Each with the version of its tree, 1 or 2. In a container the path may be the host's, which does
    not exist here; the top is ours then, and what does not exist is for the caller to pass over.
    """
    try:
        text = (procfs / "self" / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found: list[tuple[Path, int]] = []
    for line in text.splitlines():
        number, controllers, path = ("::" if line.count(":") < 2 else line).split(":", 2)
        if number == "0":
            top, version = sysfs / "fs" / "cgroup", 2
        elif controller in controllers.split(","):
            top, version = sysfs / "fs" / "cgroup" / controller, 1
        else:
            continue
        pieces = [piece for piece in path.split("/") if piece not in {"", ".", ".."}]
        steps = (pieces[:depth] for depth in range(len(pieces) + 1))
        found += [(top.joinpath(*step), version) for step in steps]
    return found
