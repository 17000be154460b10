"""Draw every picture of docs/gallery.md: `python docs/gallery_pictures.py [FOLDER]`.

The records are made by a formula, so that these pictures change only when what they show does. The
summary and the power curve of a run are measured on the machine that draws them.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from html import escape
from math import sin
from pathlib import Path
from typing import Any

from carbontrack.cli import main
from carbontrack.grid.tables import lookup
from carbontrack.record import Record
from carbontrack.sinks.csv_file import HEADER, record_line

FOLDER = Path(__file__).parent / "gallery"
SCREENS: dict[str, dict[str, Any]] = {
    "page-light.png": {"viewport": {"width": 1200, "height": 1000}, "color_scheme": "light"},
    "page-dark.png": {"viewport": {"width": 1200, "height": 1000}, "color_scheme": "dark"},
    "page-phone.png": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    "page-print.png": {"viewport": {"width": 794, "height": 1123}, "color_scheme": "light"},
}
PICTURES = (*SCREENS, "terminal.png", "run.png", "power.png", "label.svg")
TERMINAL = (
    "font: 14px monospace; background: #14201b; color: #e4efe9; padding: 16px; margin: 0; "
    "width: max-content"
)
WORK = """
import time
for part in range(4):
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        sum(range(10_000))
    time.sleep(0.8)
"""


def records(count: int = 240) -> list[Record]:
    """Runs of four jobs in three regions over four weeks."""
    return [_record(n) for n in range(count)]


def _record(n: int) -> Record:
    job = ("train resnet", "fine-tune bert", "evaluate", "preprocess")[n % 4]
    grid = lookup(("FR", "DE", "US-CA")[n // 7 % 3])
    size = (4.0, 2.0, 0.6, 0.3)[n % 4] * (1.2 + sin(n))
    cpu, gpu, ram = 0.12 * size, (0.7 * size if n % 4 < 3 else None), 0.03 * size
    kwh = 1.1 * (cpu + (gpu or 0.0) + ram)
    day, hour = 1 + n * 28 // 240, 6 + n % 12
    return Record(
        record_id=f"gallery-{n}",
        run_id="gallery",
        name=job,
        calls=1000,
        started_at=f"2026-10-{day:02d}T{hour:02d}:00:00Z",
        ended_at=f"2026-10-{day:02d}T{hour:02d}:50:00Z",
        duration_s=3000.0 * size / 4,
        cpu_kwh=cpu,
        gpu_kwh=gpu,
        ram_kwh=ram,
        energy_kwh=kwh,
        energy_low_kwh=0.93 * kwh,
        energy_high_kwh=1.07 * kwh,
        emissions_g=kwh * grid.g_per_kwh,
        emissions_low_g=0.93 * kwh * grid.low_g_per_kwh,
        emissions_high_g=1.07 * kwh * grid.high_g_per_kwh,
        embodied_g=9.0 * size,
        abiotic_kg_sb=1.1e-6 * size,
        region=grid.zone,
        region_basis="argument",
        intensity_g_per_kwh=grid.g_per_kwh,
        intensity_low_g_per_kwh=grid.low_g_per_kwh,
        intensity_high_g_per_kwh=grid.high_g_per_kwh,
        intensity_source=grid.source,
        intensity_year=grid.year,
        pue=1.1,
        basis="modelled",
        cpu_basis="measured",
        gpu_basis="measured" if gpu else None,
        ram_basis="modelled",
        meters="rapl:package-0;nvml:GPU-0;model:ram",
        coverage=1.0,
        scope="process",
        host_id=f"node-{n % 2}",
        cpu_model="AMD EPYC 7763 64-Core Processor",
        gpu_models="NVIDIA A100-SXM4-80GB",
    )


def draw(folder: Path, chromium: str) -> None:
    """Draw all pictures into a folder with this browser."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        source = Path(scratch, "runs.csv")
        source.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records()))
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        _draw_pages(browser, source, folder)
        _draw_terminal(browser, _said(["report", str(source)]), folder / "terminal.png")
        _draw_run(browser, Path(scratch), folder)
        browser.close()
        evaluated = ["label", str(source), "--task", "text-generation", "--only", "evaluate"]
        target = folder / "label.svg"
        _done([*evaluated, "--units", "1000000", "--model", "my-model", "--output", str(target)])


def _draw_pages(browser: Any, source: Path, folder: Path) -> None:
    for name, screen in SCREENS.items():
        page = _page_of(browser, source, screen)
        if name == "page-print.png":
            page.emulate_media(media="print")
            # a screenshot has no paper, whose margins stand in the page's @page
            page.add_style_tag(content="body { padding: 14mm; }")
        page.screenshot(path=folder / name)


def _draw_run(browser: Any, scratch: Path, folder: Path) -> None:
    """Measure a command on this machine: its summary, and its power over time."""
    Path(scratch, "work.py").write_text(WORK, encoding="utf-8")
    given = ["run", "--timeline", "--interval", "0.2", "--region", "FR", "--"]
    settings = {name: text for name, text in os.environ.items() if "CARBONTRACK" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "carbontrack", *given, sys.executable, "work.py"],
        cwd=scratch,
        env={**settings, "PYTHONPATH": str(FOLDER.parents[1])},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    shown = f"$ carbontrack {' '.join(given)} python work.py\n{done.stderr}"
    _draw_terminal(browser, shown, folder / "run.png")
    page = _page_of(browser, scratch / "emissions.csv", SCREENS["page-light.png"])
    page.locator("section:has(#c-power-0)").screenshot(path=folder / "power.png")


def _page_of(browser: Any, source: Path, screen: dict[str, Any]) -> Any:
    target = source.with_suffix(".html")
    _done(["report", str(source), "--html", str(target)])
    page = browser.new_context(offline=True, **screen).new_page()
    page.goto(target.as_uri())
    # a selector: a function that has to wait is evaluated by the page, whose policy forbids it
    page.wait_for_selector("html[data-charts]", state="attached", timeout=60_000)
    return page


def _draw_terminal(browser: Any, text: str, target: Path) -> None:
    page = browser.new_page(viewport={"width": 760, "height": 320})
    page.set_content(f"<pre style='{TERMINAL}'>{escape(text.strip())}</pre>")
    page.locator("pre").screenshot(path=target)


def _done(command: list[str]) -> None:
    if main(command) != 0:
        raise SystemExit(f"failed: {command}")


def _said(command: list[str]) -> str:
    with redirect_stdout(io.StringIO()) as out:
        _done(command)
    return f"$ carbontrack {command[0]} runs.csv\n{out.getvalue()}"


def find_chromium(which: Callable[[str], str | None] = shutil.which) -> str | None:
    """The browser of this machine, if there is one."""
    return which("chromium") or which("chromium-browser")


if __name__ == "__main__":
    found = find_chromium()
    if found is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, found)
