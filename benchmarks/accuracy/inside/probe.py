"""One tool on one simulated machine: `probe.py TOOL PLAN OUT`; runs in the tool's environment.

The plan is JSON: the part ("cpu" or "gpu"), the lengths of the spans in the order of running, the
instant after which none begins, the library of the simulated machine, the refresh of its counter,
and whether the body of a span holds the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLOCK = time.monotonic


def load(name: str) -> Any:
    """A file beside this one, by path: its folder must not shadow a tool's modules."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Truth:
    """What the simulated machine used, and what its counter showed of it."""

    def __init__(self, library: str, refresh_s: float) -> None:
        made = ctypes.CDLL(library)
        made.simulated_joules.argtypes = [ctypes.c_double]
        made.simulated_joules.restype = ctypes.c_double
        made.simulated_shown_joules.argtypes = [ctypes.c_double, ctypes.c_double]
        made.simulated_shown_joules.restype = ctypes.c_double
        self._made, self._refresh_s = made, refresh_s

    def used_j(self, start_s: float, end_s: float) -> float:
        """The truth."""
        joules = self._made.simulated_joules
        return float(joules(end_s) - joules(start_s))

    def shown_j(self, start_s: float, end_s: float) -> float:
        """What someone had seen who reads the counter at both instants, for nothing."""
        shown, refresh_s = self._made.simulated_shown_joules, self._refresh_s
        return float(shown(end_s, refresh_s) - shown(start_s, refresh_s))


def body_of(plan: dict[str, Any]) -> Callable[[float], None]:
    """What a span holds: sleep, with or without the interpreter's lock."""
    if not plan["holds_gil"]:
        return time.sleep
    library = ctypes.PyDLL(None)  # PyDLL keeps the lock, as much C code does
    return lambda length_s: library.usleep(int(length_s * 1e6)) and None


def spans(tool: str, plan: dict[str, Any], out: dict[str, Any]) -> None:
    """Measure the spans; a failure of one is noted, three failures end it."""
    truth, body = Truth(plan["library"], plan["refresh_s"]), body_of(plan)
    times: list[float] = []
    with getattr(load("windows"), tool)(plan["part"]) as measure:
        begun_s = CLOCK()
        for number, length_s in enumerate(plan["lengths_s"]):
            if CLOCK() + length_s > plan["until_s"] or len(out["errors"]) >= 3:
                break

            def act(length_s: float = length_s) -> None:
                times.append(CLOCK())
                body(length_s)
                times.append(CLOCK())

            before_s = CLOCK()
            try:
                found = measure(act)
                after_s = CLOCK()
                found_j, (start_s, end_s) = found(), times[-2:]
            except Exception as error:  # whatever it is, it is the tool's answer
                out["errors"].append(f"{type(error).__name__}: {error}"[:200])
                continue
            if found_j is None:
                out["unknown"] += 1
                continue
            out["spans"].append(
                {
                    "length_s": length_s,
                    "first": number == 0,
                    "flagged": getattr(measure, "flagged", bool)(),
                    "found_j": found_j,
                    "inner_j": truth.used_j(start_s, end_s),
                    "outer_j": truth.used_j(before_s, after_s),
                    "shown_j": truth.shown_j(start_s, end_s),
                    "overhead_s": after_s - before_s - (end_s - start_s),
                }
            )
        if hasattr(measure, "so_far"):
            found_j, ended_s = measure.so_far(), CLOCK()
            out["whole_percent"] = (found_j / truth.used_j(begun_s, ended_s) - 1.0) * 100.0


if __name__ == "__main__":
    result: dict[str, Any] = {"spans": [], "errors": [], "unknown": 0}
    try:
        spans(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), result)
    except Exception as failure:
        result["errors"].append(f"{type(failure).__name__}: {failure}"[:200])
    Path(sys.argv[3]).write_text(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # a tool may leave threads and processes behind
