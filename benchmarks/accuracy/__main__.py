"""How right carbontrack and its peers are: `python benchmarks/accuracy [--smoke] [--out DIR]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

import summary  # noqa: E402 - after the path is set
from inside.windows import REQUIREMENTS  # noqa: E402
from machine import compiled, run, works  # noqa: E402
from plan import Job, jobs  # noqa: E402

VERSION = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"


def install(tool: str, cache: Path) -> tuple[Path, str]:
    """The Python of a tool's own environment, made where it is missing, and its version.

    Raises:
        subprocess.SubprocessError: it cannot be installed.
    """
    if tool == "carbontrack":
        from carbontrack.system.version import VERSION as OURS

        return Path(sys.executable), OURS
    python, name = cache / tool / "bin" / "python", REQUIREMENTS[tool]
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / tool)], check=True)
        command = [str(python), "-m", "pip", "install", "-q", name]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    command = [str(python), "-c", VERSION, name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return python, done.stdout.strip()


class Runner:
    """Runs jobs side by side until the time is over."""

    def __init__(self, pythons: dict[str, Path], folder: Path, until_s: float) -> None:
        self._pythons = pythons
        self._folder = folder
        self._until_s = until_s
        self._library, _ = compiled(folder)
        self._lock = threading.Lock()
        self.results: list[dict[str, Any]] = []

    def run(self, job: Job) -> None:
        """One job; what it found is kept."""
        left_s = self._until_s - time.monotonic()
        if left_s < 1.0:
            found: dict[str, Any] = {
                "spans": [],
                "unknown": 0,
                "errors": ["not begun: the time was over"],
            }
        else:
            found = run(
                job.machine,
                job.plan,
                tool=job.tool,
                python=self._pythons[job.tool],
                folder=self._folder / f"{job.group}-{job.tool}-{id(job)}",
                library=self._library,
                limit_s=min(job.limit_s, left_s),
            )
        about = {"group": job.group, "case": job.case, "tool": job.tool}
        found["spans"] = [span | about for span in found["spans"]]
        with self._lock:
            self.results.append(found | about)
        print(job.group, job.case, job.tool, len(found["spans"]), *found["errors"][:1],
              file=sys.stderr)  # fmt: skip

    def run_all(self, chosen: list[Job], workers: int) -> None:
        """The long jobs all at once, beside the others, of which so many run at a time."""
        long = [job for job in chosen if job.group == "long"]
        short = [job for job in chosen if job.group != "long"]
        with ThreadPoolExecutor(max(1, len(long))) as beside, ThreadPoolExecutor(workers) as pool:
            waiting = [beside.submit(self.run, job) for job in long]
            waiting += [pool.submit(self.run, job) for job in short]
            for one in waiting:
                one.result()


def facts(versions: dict[str, str], began: tuple[float, ...], took_s: float) -> dict[str, Any]:
    """When, where, with what."""
    return {
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "took_s": round(took_s),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_before": [round(load, 1) for load in began],
        "load_after": [round(load, 1) for load in os.getloadavg()],
        "versions": versions,
    }


def grouped(spans: list[summary.Span]) -> list[dict[str, Any]]:
    """The errors of each group, case, tool and length, for the JSON."""
    keys = ("group", "case", "tool", "length_s")
    groups: dict[tuple[Any, ...], list[summary.Span]] = {}
    for span in spans:
        groups.setdefault(tuple(span[key] for key in keys), []).append(span)
    return [
        dict(zip(keys, key, strict=True))
        | summary.errors_of(same)
        | {"sum_error_percent": summary.sum_error_percent(same)}
        | {"floor_median_percent": summary.errors_of(same, "shown_j")["median_percent"]}
        for key, same in sorted(groups.items())
    ]


def page(about: dict[str, Any], results: list[dict[str, Any]], tools: list[str]) -> str:
    """All tables."""
    everything = [span for result in results for span in result["spans"]]
    spans = [span for span in everything if not span["first"]]
    shown = {key: value for key, value in about.items() if key != "versions"}
    parts = [
        "; ".join(f"{key}: {value}" for key, value in shown.items()),
        "versions: " + ", ".join(f"{k} {v}" for k, v in about["versions"].items()),
        "## Error by length, %: median (95th percentile), all curves",
        summary.by_length(spans, tools),
        "## Error by curve, spans of 50 ms and longer, %: median; error of the sum",
        summary.by_case(spans, tools, "curves", from_s=0.05),
        "## With faults, spans of 50 ms and longer, %: median; error of the sum",
        summary.by_case(spans, tools, "faults", from_s=0.05),
        "## carbontrack with faults: what each span says of itself, and what the whole run adds to",
        summary.own_words(results),
        "## GPU, counter changing each 100 ms, spans of 250 ms and longer, %: median; sum",
        summary.by_case(spans, tools, "gpu", from_s=0.25),
        "## GPU, spans of 50 ms, shorter than the counter's step, %: median; sum",
        summary.by_case(spans, tools, "gpu", from_s=0.0, below_s=0.1),
        "## The first span of a process, %: median; worst; what the tool takes for a span, ms",
        summary.firsts(everything, tools),
        "## Not measured",
        "\n".join(summary.failures(results)) or "Nothing.",
        "## The promise",
        "; ".join(f"{key}: {value}" for key, value in summary.promise(spans).items()),
    ]
    return "\n\n".join(parts) + "\n"


def write(
    out: Path, about: dict[str, Any], results: list[dict[str, Any]], tools: list[str]
) -> None:
    """Tables, figures and plot into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    spans = [span for result in results for span in result["spans"] if not span["first"]]
    (out / "accuracy.md").write_text(page(about, results, tools))
    failed = [{k: v for k, v in r.items() if k != "spans"} for r in results if r["errors"]]
    about |= {"promise": summary.promise(spans), "errors": grouped(spans), "failures": failed}
    (out / "accuracy.json").write_text(json.dumps(about, indent=1) + "\n")
    try:
        import vl_convert
    except ImportError:
        print("no plot: pip install vl-convert-python", file=sys.stderr)
    else:
        svg = vl_convert.vegalite_to_svg(summary.plot(spans, tools))
        (out / "accuracy.svg").write_text(svg)


def main() -> int:
    """Install, measure, write."""
    everyone = ["carbontrack", *REQUIREMENTS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, carbontrack only")
    parser.add_argument("--limit-s", type=float, default=600.0, help="no span ends later")
    parser.add_argument("--workers", type=int, default=3, help="jobs side by side")
    parser.add_argument("--only", nargs="*", choices=everyone)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--cache", type=Path, default=home / "carbontrack-peers")
    options = parser.parse_args()
    tools = options.only or (["carbontrack"] if options.smoke else everyone)
    pythons, versions, failed = {}, {}, []
    for tool in tools:
        try:
            pythons[tool], versions[tool] = install(tool, options.cache)
        except (subprocess.SubprocessError, OSError) as error:
            about = {"group": "install", "case": "install", "tool": tool}
            failed.append({"spans": [], "unknown": 0, "errors": [str(error)[:200]]} | about)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        reason = works(Path(folder) / "test")
        if reason is not None:
            print(f"no machine can be simulated here: {reason}", file=sys.stderr)
            return 1
        began, load = time.monotonic(), os.getloadavg()
        runner = Runner(pythons, Path(folder), began + options.limit_s)
        runner.run_all(list(jobs(list(pythons), smoke=options.smoke)), options.workers)
        about = facts(versions, load, time.monotonic() - began)
        results = [*failed, *runner.results]
        print(page(about, results, tools))
        write(options.out, about, results, tools)
    return 0


if __name__ == "__main__":
    sys.exit(main())
