"""The code blocks of a Markdown page: which are run, which are written to a file, what they print.

    ```python                  run, all of a page in one namespace and one folder
    ```text                    directly after a python block: what it prints
    ```console                 lines after "$ " are run by the shell; the others are what they print
    ```bash                    run by the shell
    ```any title="train.py"    written to that file, not run

In an output `…` matches anything. A block inside an HTML comment is run and not shown. A block
after `<!-- not run: reason -->` is neither run nor checked. A page that begins with
`<!-- needs: transformers torch -->` is run where these modules are installed.

An output after `<!-- sample -->` is a real one, whose numbers, dates and identifiers differ from
run to run (tests.support.doc_samples); `<!-- sample: AMD EPYC; modelled -->` names texts in it that
differ from machine to machine. `python -m tests.support.refresh_samples` writes them anew.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace
from typing import Literal

from tests.support.doc_samples import alike

RUN = ("python", "console", "bash", "sh")
_FENCE = re.compile(
    r"^(?P<margin> *)(?P<fence>```+)(?P<language>[\w.+-]*)(?P<rest>[^\n]*)\n"
    r"(?P<body>.*?)^(?P=margin)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]+)"')
_NEEDS = re.compile(r"\A<!-- needs:((?: [\w.]+)+) -->\n")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_SAMPLE = re.compile(r"<!-- sample(?::(?P<free>(?:(?!-->).)*))? -->\s*\Z", re.DOTALL)
_EXCUSE = re.compile(r"<!-- not run:(?P<reason>(?:(?!-->).)*)-->\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One code block of a page.

    Attributes:
        line: where it begins, counted from 1.
        expected: what it prints; None where the page does not show it.
        excuse: why it is not run; None where it is.
        sample: the texts that differ from machine to machine, if its output is a sample.
        output_at: where in the page the text begins and ends that holds the output.
        margin: what each of its lines begins with.
    """

    line: int
    language: str
    body: str
    title: str | None = None
    expected: str | None = None
    excuse: str | None = None
    sample: tuple[str, ...] | None = None
    output_at: tuple[int, int] = (0, 0)
    margin: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do when a page is run."""

    line: int
    kind: Literal["python", "shell", "write"]
    text: str
    expected: str | None = None
    path: str | None = None
    sample: tuple[str, ...] | None = None

    def shows(self, printed: str) -> bool:
        """Whether the page shows what was printed, as far as it shows anything."""
        if self.expected is None:
            return True
        if self.sample is None:
            return matches(self.expected, printed)
        return alike(self.expected, printed, self.sample)


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, each with what it prints."""
    found: list[Block] = []
    last_end = 0
    for match in _FENCE.finditer(page):
        title = _TITLE.search(match["rest"])
        before = page[: match.start()]
        excuse = _EXCUSE.search(before)
        sample = _SAMPLE.search(before)
        block = Block(
            line=page.count("\n", 0, match.start()) + 1,
            language=match["language"],
            body=textwrap.dedent(match["body"]),
            title=title[1] if title else None,
            excuse=excuse["reason"].strip() if excuse else None,
            sample=_free_texts(sample["free"] or "") if sample else None,
            output_at=match.span("body"),
            margin=match["margin"],
        )
        between = page[last_end : sample.start() if sample else match.start()]
        follows = bool(found) and not between.strip()
        last_end = match.end()
        if follows and block.language == "text" and found[-1].language == "python":
            found[-1] = replace(
                found[-1],
                expected=block.body,
                sample=block.sample,
                output_at=block.output_at,
                margin=block.margin,
            )
        else:
            found.append(block)
    return found


def _free_texts(listed: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in listed.split(";") if text.strip())


def cut_outputs_of(page: str) -> list[tuple[int, str]]:
    """The lines of outputs that a reader sees with an ellipsis in them, where a real one belongs.

    Outputs are the blocks of `text`, and in those of `console` what is not a command. The code of
    other blocks, and of what an HTML comment hides, may have one.
    """
    page = _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), page)
    return [
        (page.count("\n", 0, match.start("body")) + 1 + number, line)
        for match in _FENCE.finditer(page)
        if match["language"] in {"text", "console"} and not _TITLE.search(match["rest"])
        for number, line in enumerate(match["body"].splitlines())
        if "…" in line and not line.lstrip().startswith(("$ ", "> "))
    ]


def needs_of(page: str) -> list[str]:
    """The modules without which the code of a page cannot run."""
    match = _NEEDS.match(page)
    return match[1].split() if match else []


def steps_of(blocks: list[Block]) -> list[Step]:
    """What to do for the blocks of a page, in order."""
    steps: list[Step] = []
    for block in blocks:
        if block.excuse is not None:
            continue
        if block.title is not None:
            steps.append(Step(block.line, "write", block.body, path=block.title))
        elif block.language == "python":
            steps.append(
                Step(block.line, "python", block.body, block.expected, sample=block.sample)
            )
        elif block.language in {"bash", "sh"}:
            steps.append(Step(block.line, "shell", block.body))
        elif block.language == "console":
            steps += _commands(block)
    return steps


def _commands(block: Block) -> list[Step]:
    steps = []
    for part in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
        # the lines of an output may end in a backslash as well, as those of a table in LaTeX
        written = re.match(r"(?:.*\\\n)*.*\n?", part)
        assert written is not None
        command = re.sub(r"\\\n(> )?", " ", written[0]).rstrip("\n")
        rest = part[written.end() :]
        shown = rest if rest.strip() else None
        steps.append(Step(block.line, "shell", command, shown, sample=block.sample))
    return steps


def matches(expected: str, printed: str) -> bool:
    """Whether a page shows what was printed; line breaks and spaces count as one space."""
    pieces = (re.escape(" ".join(piece.split())) for piece in expected.split("…"))
    pattern = r"\s*(?:.*?)\s*".join(pieces)
    return re.fullmatch(pattern, " ".join(printed.split()), re.DOTALL) is not None
