"""What has to happen in a forked child: its locks, threads and descriptors are the parent's."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Follower(Protocol):
    """Something that must be told that it is in a child now."""

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's, and take no lock that the parent may have held."""
        ...


_followers: weakref.WeakSet[Follower] = weakref.WeakSet()
_hooked: list[bool] = []


def follow(follower: Follower) -> None:
    """Tell the follower of each fork, in the child, for as long as it lives.

    There is one hook for all of them, since Python has no way to take one back.
    """
    _followers.add(follower)
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked.append(True)
        os.register_at_fork(after_in_child=_tell)


def _tell() -> None:
    for follower in list(_followers):
        follower.after_fork_in_child()
