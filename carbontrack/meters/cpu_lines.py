"""The kind of machine by its processor's line: a client, or a server with one socket or several.

From the makers' product lines; a name of an unknown line has no result.
"""

from __future__ import annotations

from typing import Literal

from carbontrack.meters.cpu_info import plain_name

Line = Literal["client", "one-socket server", "server"]

_CLIENTS = (
    "core ", "core-", "pentium ", "celeron ", "mobile ", "ryzen ", "threadripper ", "athlon",
    "phenom ", "sempron ", "turion", "fx-", "fx ", "a4-", "a6-", "a8-", "a9-", "a10-", "a12-",
    "e-", "e1-", "e2-", "pro a", "3015e", "3015ce", "3020e", "c-30", "c-50", "c-60", "c-70", "z-",
    "v105", "v120", "v140", "v160", "embedded ", "g-t", "gx-", "rx-", "atom ", "n50", "n95", "n97",
    "n100", "n150", "n200", "n250", "i3-n", "u300", "quark ", "apple ", "virtualapple",
    "virtual apple", "snapdragon ", "microsoft ", "cortex-", "via ",
)  # fmt: skip
_CLIENT_CORES = ("n640", "n660", "n870", "n960")
_ONE_SOCKET = (
    "xeon e-", "xeon e3-", "xeon e5-14", "xeon e5-16", "xeon d-", "xeon w-", "xeon w3-",
    "xeon w5-", "xeon w7-", "xeon w9-", "xeon phi", "xeon 30", "xeon 32", "xeon x32", "xeon x33",
    "xeon l33", "xeon e31", "xeon l31", "xeon x34", "xeon l34", "xeon w35", "xeon w36",
    "epyc 3", "epyc 4", "epyc 8", "epyc embedded 3", "opteron 1", "opteron 3", "opteron x1",
    "opteron x2 1", "opteron x21", "opteron x3", "opteron a", "atom c", "atom p",
)  # fmt: skip
"""Of Xeon E3, E, W and D, EPYC 3000, 4000 and 8000, and their like there are no boards with two."""
_SERVERS = ("xeon", "epyc", "opteron", "itanium", "hygon ", "pentium iii xeon", "ampere ",
            "aws graviton")  # fmt: skip


def line_of(model_name: str | None) -> Line | None:
    """The line of the part with this name, as a machine or the table has it; None is unknown."""
    name = plain_name(model_name or "")
    if name.startswith("core ("):
        return None  # "Intel Core Processor (Haswell)" is what QEMU calls any such processor
    if name.startswith(_ONE_SOCKET) or (name.startswith("epyc ") and name.endswith("p")):
        return "one-socket server"
    if name.startswith(_SERVERS):
        return "server"
    return "client" if name.startswith(_CLIENTS) or name in _CLIENT_CORES else None
