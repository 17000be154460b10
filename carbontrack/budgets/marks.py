"""What the markers say: the limits of each test, and of a bad marker where it stands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from carbontrack.budgets import limits
from carbontrack.budgets.limits import Limits
from carbontrack.errors import ConfigError

MARKER = "carbon_budget"


def read(items: Sequence[pytest.Item], default: Limits) -> list[Limits]:
    """The limits of every test, in the order of the tests.

    Args:
        items: the tests.
        default: what holds where no marker says anything.

    Raises:
        pytest.UsageError: markers cannot be used; each is named with its place.
    """
    errors: list[str] = []
    known: dict[tuple[int, ...], Limits] = {}
    found: list[Limits] = []
    for item in items:
        marks = list(item.iter_markers_with_node(MARKER))
        key = tuple(id(mark) for _, mark in marks)
        if key not in known:
            own = [_limits_of(node, mark, errors) for node, mark in marks]
            known[key] = limits.layered([*own, default])
        found.append(known[key])
    if errors:
        raise pytest.UsageError("\n".join(errors))
    return found


def _limits_of(node: Any, mark: pytest.Mark, errors: list[str]) -> Limits:
    try:
        return limits.of_marker(mark.args, mark.kwargs)
    except ConfigError as error:
        errors.append(f"{_place(node)}: @pytest.mark.{MARKER}: {error}")
        return Limits()


def _place(node: Any) -> str:
    path, line, _ = node.reportinfo() if hasattr(node, "reportinfo") else (node.path, None, "")
    shown = os.path.relpath(path, node.config.rootpath)
    return f"{shown}:{line + 1}" if line is not None else f"{shown} ({node.nodeid})"
