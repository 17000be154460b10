"""Packages with entry points, as an installation leaves them: a module and its metadata."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, group: str, name: str, source: str
) -> None:
    """Let this Python find the entry point `name`: the function `make` of a module of `source`.

    The module is called after the folder and the plugin, so that no test meets another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = f"plugin_{name.replace('-', '_').replace('.', '_')}_{abs(hash(folder))}"
    (folder / f"{module}.py").write_text(dedent(source), encoding="utf-8")
    info = folder / f"{module}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:make\n")
    monkeypatch.syspath_prepend(str(folder))
