"""How often intervals like a model's hold, in words: only where it was counted.

It was counted for servers and whole cloud hosts whose part is known, and for the processor's share
of their power; docs/explanation/accuracy.md has the rates and what they leave out.
"""

from __future__ import annotations

import re
from typing import Final

COUNTED: Final = "the interval holds for about nine in ten servers with such processors"
IN_GUEST: Final = "how often the interval holds in virtual machines is not known"
NO_PART: Final = "how often the interval holds is not known without the exact part"
OTHER_PART: Final = "how often the interval holds for such processors is not known"
_SERVER_PARTS = re.compile(
    r"\bepyc\s+[789]\w{3,}|\bxeon\b.*\b(platinum|gold|silver|bronze|e5-|e7-)", re.IGNORECASE
)
"""Of lines sold since 2010. Not the small Xeons (E3, E-2100, W): few of them lay inside."""


def rate_text(cpu_model: str | None, known: str | None, *, is_guest: bool | None) -> str:
    """How often the interval of a modelled processor holds, or that nobody knows.

    Args:
        cpu_model: the processor's own name.
        known: by what its design power is known, as in `Hardware.cpu_known`.
        is_guest: whether this is a virtual machine; None: not found out.
    """
    if is_guest:
        return IN_GUEST
    if known != "part":
        return NO_PART
    plain = re.sub(r"\((?:r|tm)\)", " ", cpu_model or "", flags=re.I)
    return COUNTED if is_guest is False and _SERVER_PARTS.search(plain) else OTHER_PART
