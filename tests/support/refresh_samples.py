"""Writes the samples that pages show anew, from a run of the pages on this machine.

    python -m tests.support.refresh_samples [PAGE ...]

Only outputs after `<!-- sample -->` are written. A text that the comment names and that the new
output lacks is reported, since it has to be named anew.
"""

from __future__ import annotations

import re
import sys
import tempfile
import textwrap
from pathlib import Path

from tests.support.doc_blocks import Block, blocks_of, needs_of, steps_of
from tests.support.doc_pages import PAGES, name_of, run_steps
from tests.support.doc_samples import pattern_of
from tests.support.frameworks import is_installed


def refreshed(page: str, blocks: list[Block], printed: list[list[str]]) -> str:
    """The page with new outputs: for each block what each of its steps has printed."""
    for block, outputs in reversed(list(zip(blocks, printed, strict=True))):
        if block.sample is None or (block.expected is None and block.language != "console"):
            continue
        begin, end = block.output_at
        body = _console(block, outputs) if block.language == "console" else outputs[0]
        body = "\n".join(line.rstrip() for line in body.strip("\n").splitlines()) + "\n"
        page = page[:begin] + textwrap.indent(body, block.margin) + page[end:]
    return page


def _console(block: Block, outputs: list[str]) -> str:
    """The block with its commands as they are written, and new outputs where some were shown."""
    text = ""
    for part, printed in zip(
        re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:], outputs, strict=True
    ):
        command = re.match(r"(?:.*\\\n)*.*\n?", part)
        assert command is not None
        shown = part[command.end() :].strip()
        text += f"$ {command[0].rstrip()}\n" + (f"{printed.strip(chr(10))}\n" if shown else "")
    return text


def refresh(path: Path) -> None:
    """Run a page and write its samples anew."""
    page = path.read_text(encoding="utf-8")
    blocks = [block for block in blocks_of(page) if steps_of([block])]
    if not any(block.sample is not None for block in blocks):
        return
    if not all(map(is_installed, needs_of(page))):
        print(f"{name_of(path)}: not run, needs {' '.join(needs_of(page))}")
        return
    steps = [steps_of([block]) for block in blocks]
    with tempfile.TemporaryDirectory() as scratch:
        results = iter(run_steps([step for of_block in steps for step in of_block], Path(scratch)))
    printed = [[_output(path, next(results)) for _ in of_block] for of_block in steps]
    for block, outputs in zip(blocks, printed, strict=True):
        for text in block.sample or ():
            if pattern_of(text) not in pattern_of("".join(outputs)):
                print(f"{name_of(path)}, line {block.line}: there is no {text!r} in it any more")
    path.write_text(refreshed(page, blocks, printed), encoding="utf-8")


def _output(path: Path, result: dict[str, str | None]) -> str:
    if result["failure"]:
        sys.exit(f"{name_of(path)}: {result['failure']}")
    return result["printed"] or ""


if __name__ == "__main__":
    chosen = [Path(name).resolve() for name in sys.argv[1:]]
    for one in chosen or PAGES:
        refresh(one)
