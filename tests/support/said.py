"""What carbontrack says on stderr in a program that has set up no logging."""

from __future__ import annotations


def said(stderr: str) -> list[str]:
    """The sentences, without who speaks; anything else on stderr is an error."""
    lines = stderr.splitlines()
    strangers = [line for line in lines if not line.startswith("carbontrack: ")]
    assert strangers == []
    return [line.removeprefix("carbontrack: ") for line in lines]
