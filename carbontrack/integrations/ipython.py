"""IPython and Jupyter: after `%load_ext carbontrack`, `%%carbontrack` measures a cell."""

from __future__ import annotations

import ast
import shlex
from types import CodeType
from typing import Any

from IPython.core.error import UsageError
from IPython.display import display

from carbontrack.api.cell_error import show_own_frames
from carbontrack.api.cell_output import summary
from carbontrack.api.track import Track, track
from carbontrack.config.environment import is_disabled
from carbontrack.errors import CarbontrackError
from carbontrack.system.interrupts import attempt
from carbontrack.text import visible


def load(shell: Any) -> None:
    """Register the cell magic."""

    def carbontrack(line: str, cell: str) -> None:
        """Measure a cell: `%%carbontrack [NAME] [SETTING=VALUE …]`.

        Like `track(NAME, SETTING=VALUE)`: `%%carbontrack train region=FR output=runs.csv`.
        """
        try:
            code = _compiled(shell, cell)
        except SyntaxError as error:
            error.__traceback__ = None  # the compiler's caller is no part of the cell
            attempt(show_own_frames, shell, error)
            raise
        span = _asked_for(line, default_name=f"In[{shell.displayhook.prompt_count}]").open()
        try:
            with span:
                for part in code:
                    exec(part, shell.user_ns)  # noqa: S102 - it is the user's own cell
        except BaseException as error:
            attempt(show_own_frames, shell, error)
            raise
        finally:
            display(summary(span), raw=True)  # type: ignore[no-untyped-call,unused-ignore]

    shell.register_magic_function(carbontrack, "cell")


def _asked_for(line: str, *, default_name: str) -> Track:
    if is_disabled():  # the cell runs, whatever the line says
        return track(default_name)
    try:
        words = shlex.split(line)
        names = [word for word in words if "=" not in word] or [default_name]
        if len(names) > 1:
            raise UsageError(visible(f"a name of several words needs quotes: '{' '.join(names)}'"))
        settings: dict[str, Any] = dict(word.split("=", 1) for word in words if "=" in word)
        return track(names[0], **settings)
    except (CarbontrackError, TypeError, ValueError) as error:
        raise UsageError(visible(f"%%carbontrack: {error}")) from error


def _compiled(shell: Any, cell: str) -> list[CodeType]:
    """The cell's code, and separately its last expression, whose value the shell displays."""
    source = shell.transform_cell(cell)
    name = shell.compile.cache(source, shell.displayhook.prompt_count, raw_code=cell)
    tree = shell.transform_ast(shell.compile.ast_parse(source, filename=name))
    shown: list[ast.stmt] = []
    hidden = shell.displayhook.semicolon_at_end_of_expression(cell)
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not hidden:
        shown = [tree.body.pop()]
    return [
        shell.compile(tree, name, "exec"),
        shell.compile(ast.Interactive(shown), name, "single"),
    ]
