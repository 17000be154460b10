"""CodeCarbon's names on carbontrack: the calls of codecarbon_tool, with another package."""

from typing import Any

from peers import load

_theirs = load("codecarbon")
REQUIREMENT = "."
IMPORT = "import carbontrack.compat.codecarbon"
WAYS: dict[str, str] = _theirs.WAYS


def _package() -> Any:
    from carbontrack.compat import codecarbon

    return codecarbon


_theirs.package = _package
_theirs.SETTINGS["output_methods"] = []
del _theirs.SETTINGS["save_to_file"]
life, decorated = _theirs.life, _theirs.decorated
session, sampling = _theirs.session, _theirs.sampling
