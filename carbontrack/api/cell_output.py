"""The output of a notebook cell for a span: an HTML table, and a line of text without HTML.

A notebook that is exported, or opened without a kernel, has these outputs and no live widget.
"""

from __future__ import annotations

import sys
from typing import Any

from carbontrack.record import emissions_text, energy_text, record_html
from carbontrack.text import visible
from carbontrack.units import format_seconds


def summary(span: Any) -> dict[str, str]:
    """The summary of a span, by MIME type.

    Args:
        span: an open or a closed one.
    """
    record = span.record
    is_open = record is None
    if is_open:
        record = span.snapshot()
    parts = [
        "" if record.duration_s is None else format_seconds(record.duration_s),
        f"energy {energy_text(record)}",
        f"emissions {emissions_text(record)}",
    ]
    line = f"{visible(record.name)}: {', '.join(filter(None, parts))}"
    state = "still open" if is_open else None
    return {"text/plain": line, "text/html": record_html(record, state=state)}


def show_in_notebook(span: Any) -> None:
    """Add the summary to the output of the running cell; does nothing without a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    if getattr(shell, "kernel", None) is not None and span.snapshot().status != "disabled":
        shell.display_pub.publish(data=summary(span))
