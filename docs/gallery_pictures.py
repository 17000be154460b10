"""Draw the pictures of docs/gallery.md: `python docs/gallery_pictures.py [DIRECTORY [PICTURE…]]`.

The records are made by a formula, so that these pictures change only when what they show does. The
summary of a command is measured on the machine that draws it.
"""

from __future__ import annotations

import base64
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from html import escape
from math import hypot, sin
from pathlib import Path
from typing import Any, NamedTuple

from carbontrack.cli import main
from carbontrack.grid.tables import lookup
from carbontrack.interval import Interval, product
from carbontrack.record import Record
from carbontrack.report.totals import USUAL_UNCERTAINTY
from carbontrack.sinks.csv_file import HEADER, record_line
from carbontrack.sinks.timelines import TimelineFiles
from carbontrack.tracking.timeline import Timeline, timeline_object

DOCS = Path(__file__).parent
FOLDER = DOCS / "gallery"


class Shot(NamedTuple):
    """A picture of a page.

    Attributes:
        runs: the runs that the page is of.
        width: of the window, in pixels.
        height: of the picture at most, in pixels; None for the whole page.
        look: light, dark or print.
        part: the only element that is shown.
    """

    runs: int
    width: int = 1280
    height: int | None = None
    look: str = "light"
    part: str | None = None


SHOTS = {
    "one.png": Shot(1),
    "one-phone.png": Shot(1, 390, 1800),
    "one-dark.png": Shot(1, height=1120, look="dark"),
    "one-print.png": Shot(1, 794, 1123, "print"),
    "power.png": Shot(1, part="section:has(#c-power-0)"),
    "runs-30.png": Shot(30),
    "runs-1000.png": Shot(1000, height=1500),
    "runs-1000-table.png": Shot(1000, height=1000, part="#runs"),
    "runs-1000-phone.png": Shot(1000, 390, 1800),
    "runs-1000-dark.png": Shot(1000, height=1120, look="dark"),
    "runs-1000-print.png": Shot(1000, 794, 1123, "print"),
}
COLUMNS = (80, 120)
TERMINALS = tuple(
    f"{command}-{columns}.png" for command in ("run", "report") for columns in COLUMNS
)
PICTURES = (*TERMINALS, *SHOTS, "label.svg")
STYLE = (
    "font: 14px/1.35 monospace; background: #14201b; color: #e4efe9; padding: 16px; margin: 0; "
    "width: {columns}ch; white-space: pre-wrap; word-break: break-all; display: inline-block"
)
WORK = """
import time
for part in range(4):
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        sum(range(10_000))
    time.sleep(0.8)
"""
"""Works four times for a second, and is idle in between."""
MOST_COLOURS = 256
LIKE = 40
"""The square of the distance of two colours, of 0 to 255 a channel, that are drawn as one."""
# keeps the most frequent colours that differ enough, and gives each pixel the nearest of them
PALETTE = """async ([address, most, like]) => {
  const image = new Image();
  image.src = address;
  await image.decode();
  const { naturalWidth: width, naturalHeight: height } = image;
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
  const times = new Map();
  for (const pixel of pixels) times.set(pixel, (times.get(pixel) || 0) + 1);
  const colours = [...times.keys()].sort((a, b) => times.get(b) - times.get(a));
  const kept = [], nearest = new Map();
  for (const colour of colours) {
    const [r, g, b] = [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
    const far = kept.map(([x, y, z]) => (x - r) ** 2 + (y - g) ** 2 + (z - b) ** 2);
    const least = Math.min(...far);
    const differs = kept.length < most && least > like;
    nearest.set(colour, differs ? kept.push([r, g, b]) - 1 : far.indexOf(least));
  }
  const places = Uint8Array.from(pixels, (pixel) => nearest.get(pixel));
  let text = "";
  for (let at = 0; at < places.length; at += 32768) {
    text += String.fromCharCode(...places.subarray(at, at + 32768));
  }
  return [width, height, kept.flat(), btoa(text)];
}"""


def records(count: int = 240) -> list[Record]:
    """Runs of four jobs in three regions over four weeks."""
    return [_record(n, count) for n in range(count)]


def _record(n: int, count: int) -> Record:
    job = ("train resnet", "fine-tune bert", "evaluate", "preprocess")[n % 4]
    size = (4.0, 2.0, 0.6, 0.3)[n % 4] * (1.2 + sin(n))
    day, hour = 1 + n * 28 // count, 6 + n % 12
    return _filled(
        {"cpu": 0.12 * size, "gpu": 0.7 * size if n % 4 < 3 else None, "ram": 0.03 * size},
        {"cpu": "measured", "gpu": "measured", "ram": "modelled"},
        ("FR", "DE", "US-CA")[n // 7 % 3],
        record_id=f"gallery-{n}",
        name=job,
        labels={"model": job.rpartition(" ")[2], "seed": n % 3} if n % 4 < 2 else {"seed": n % 3},
        started_at=f"2026-10-{day:02d}T{hour:02d}:00:00Z",
        ended_at=f"2026-10-{day:02d}T{hour:02d}:50:00Z",
        duration_s=3000.0 * size / 4,
        calls=1000,
        embodied_g=9.0 * size,
        abiotic_kg_sb=1.1e-6 * size,
        meters="rapl:package-0;nvml:GPU-0;model:ram",
        host_id=f"node-{n % 2}",
    )


def _filled(kwh: dict[str, float | None], bases: dict[str, str], zone: str, **facts: Any) -> Record:
    """The record of these parts: its energy and emissions with the intervals that follow."""
    grid, pue = lookup(zone), 1.1
    known = {part: amount for part, amount in kwh.items() if amount is not None}
    whole = sum(known.values())
    usual = [
        [amount * end for end in USUAL_UNCERTAINTY[p][bases[p]]] for p, amount in known.items()
    ]
    below, above = (hypot(*ends) for ends in zip(*usual, strict=True))
    energy = Interval(*(pue * kwh for kwh in (whole, whole - below, whole + above)))
    ends = Interval(grid.g_per_kwh, grid.low_g_per_kwh, grid.high_g_per_kwh)
    grams, low_g, high_g = product(energy, ends)
    return Record(
        run_id="gallery",
        **{f"{part}_kwh": amount for part, amount in kwh.items()},
        **{f"{part}_basis": basis for part, basis in bases.items() if part in known},
        energy_kwh=energy.best,
        energy_low_kwh=energy.low,
        energy_high_kwh=energy.high,
        emissions_g=grams,
        emissions_low_g=low_g,
        emissions_high_g=high_g,
        region=grid.zone,
        region_basis="argument",
        intensity_g_per_kwh=grid.g_per_kwh,
        intensity_low_g_per_kwh=grid.low_g_per_kwh,
        intensity_high_g_per_kwh=grid.high_g_per_kwh,
        intensity_source=grid.source,
        intensity_year=grid.year,
        pue=pue,
        basis="modelled",
        coverage=1.0,
        scope="process",
        cpu_model="AMD EPYC 7763 64-Core Processor",
        gpu_models="NVIDIA A100-SXM4-80GB",
        **facts,
    )


def one_run() -> tuple[Record, Timeline]:
    """A training of fifty minutes that evaluates its model every ten, and its power over time."""
    edges_s = tuple(10.0 * n for n in range(301))
    watts = [_watts(n) for n in range(300)]
    energy_j = {}
    for place, part in enumerate(("cpu", "gpu", "ram")):
        sums = [0.0]
        for bin_w in watts:
            sums.append(sums[-1] + 10.0 * bin_w[place])
        energy_j[part] = tuple(sums)
    timeline = Timeline(edges_s, energy_j, dict.fromkeys(energy_j, (10.0,) * 300))  # type: ignore[arg-type]
    record = _filled(
        {part: joules[-1] / 3.6e6 for part, joules in energy_j.items()},
        {"cpu": "modelled", "gpu": "measured", "ram": "modelled"},
        "FR",
        record_id="gallery-one",
        name="fine-tune bert",
        labels={"model": "bert-base", "epochs": 5, "batch": 32},
        started_at="2026-10-05T09:30:00Z",
        ended_at="2026-10-05T10:20:00Z",
        duration_s=3000.0,
        embodied_g=21.0,
        abiotic_kg_sb=2.6e-6,
        meters="model:cpu;nvml:GPU-0;model:ram",
        host_id="node-0",
    )
    return record, timeline


def _watts(n: int) -> tuple[float, float, float]:
    evaluates = n % 60 >= 52
    ripple = 6.0 * sin(1.7 * n) + 4.0 * sin(0.31 * n)
    return (34.0 if evaluates else 58.0) + ripple / 2, (120.0 if evaluates else 305.0) + ripple, 9.0


def draw(folder: Path, chromium: str, names: Sequence[str] = PICTURES) -> None:
    """Draw the named pictures into a directory with this browser."""
    from playwright.sync_api import sync_playwright

    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        scratch = Path(name)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for count in {240, *(SHOTS[name].runs for name in names if name in SHOTS)}:
            _write(scratch, count)
        for picture in [name for name in SHOTS if name in names]:
            png = _page_png(browser, scratch, picture)
            (folder / picture).write_bytes(_small(browser, png))
        for picture in [name for name in TERMINALS if name in names]:
            png = _terminal_png(browser, scratch, picture)
            (folder / picture).write_bytes(_small(browser, png))
        browser.close()
        if "label.svg" in names:
            source = str(scratch / "runs-240.csv")
            given = ["label", source, "--task", "text-generation", "--only", "evaluate"]
            target = str(folder / "label.svg")
            _done([*given, "--units", "1000000", "--model", "my-model", "--output", target])


def _write(scratch: Path, count: int) -> None:
    """The file of so many runs; that of one has a power curve."""
    target = scratch / f"runs-{count}.csv"
    if count == 1:
        record, timeline = one_run()
        TimelineFiles([target]).write(timeline_object(record, timeline))
        target.write_bytes(HEADER + record_line(record.to_row()))
    else:
        target.write_bytes(HEADER + b"".join(record_line(r.to_row()) for r in records(count)))


def _page_png(browser: Any, scratch: Path, picture: str) -> bytes:
    shot = SHOTS[picture]
    with _page_of(browser, scratch, shot) as page:
        if picture == "power.png":
            page.locator("#c-power-0 .mark-rect path").nth(133).hover()
            page.locator("#vg-tooltip-element", has_text="GPU").wait_for()
        if picture == "runs-1000-table.png":
            page.click("td.name .label:text-is('seed=2') >> nth=0")
            page.click("td.name > button >> nth=0")
        if shot.part is not None:
            box = page.locator(shot.part).bounding_box()
            box["y"] += page.evaluate("scrollY")  # the box is in the window, the clip in the page
            box["height"] = min(box["height"], shot.height or box["height"])
            return bytes(page.screenshot(clip=box, full_page=True))
        whole = page.evaluate("document.documentElement.scrollHeight")
        height = min(whole, shot.height or whole)
        page.set_viewport_size({"width": shot.width, "height": height})
        return bytes(page.screenshot())


@contextmanager
def _page_of(browser: Any, scratch: Path, shot: Shot) -> Iterator[Any]:
    source = scratch / f"runs-{shot.runs}.csv"
    target = source.with_suffix(".html")
    if not target.exists():
        with _inside(scratch):
            _done(["report", source.name, "--html", target.name])
    scheme = "dark" if shot.look == "dark" else "light"
    viewport = {"width": shot.width, "height": 900}
    context = browser.new_context(offline=True, viewport=viewport, color_scheme=scheme)
    page = context.new_page()
    page.goto(target.as_uri())
    # a selector: a function that has to wait is evaluated by the page, whose policy forbids it
    page.wait_for_selector("html[data-charts]", state="attached", timeout=60_000)
    if shot.look == "print":
        page.emulate_media(media="print")
        # a screenshot has no paper, whose margins are in the page's @page
        page.add_style_tag(content="body { padding: 14mm; }")
        page.evaluate("dispatchEvent(new Event('resize'))")
    yield page
    context.close()


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """In this directory, so that what is shown names no path of this machine."""
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


def _terminal_png(browser: Any, scratch: Path, picture: str) -> bytes:
    name, _, columns = picture.removesuffix(".png").partition("-")
    if name == "run":
        (scratch / "work.py").write_text(WORK, encoding="utf-8")
        given = ["run", "--timeline", "--interval", "0.2", "--region", "FR"]
        shown = ["carbontrack", *given, "--", "python", "work.py"]
        command = [*given, "--", sys.executable, "work.py"]
    else:
        shutil.copy(scratch / "runs-240.csv", scratch / "runs.csv")
        command = ["report", "runs.csv"]
        shown = ["carbontrack", *command]
    said = in_terminal([sys.executable, "-m", "carbontrack", *command], int(columns), scratch)
    page = browser.new_page(viewport={"width": 1400, "height": 320})
    text, style = f"$ {' '.join(shown)}\n{said}", STYLE.format(columns=columns)
    page.set_content(f"<pre style='{style}'>{escape(text)}</pre>")
    png = bytes(page.locator("pre").screenshot())
    page.close()
    return png


def in_terminal(command: list[str], columns: int, folder: Path) -> str:
    """What a command prints in a terminal of so many columns, without colours.

    Raises:
        SystemExit: the command failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {name: text for name, text in os.environ.items() if "CARBONTRACK" not in name}
    settings |= {"TERM": "dumb", "PYTHONPATH": str(DOCS.parent), "PYTHONIOENCODING": "utf-8"}
    running = subprocess.Popen(
        command, cwd=folder, env=settings, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    parts = []
    with suppress(OSError):  # Linux says so when the other end is closed
        while part := os.read(ours, 65536):
            parts.append(part)
    os.close(ours)
    said = b"".join(parts).decode().replace("\r\n", "\n")
    if running.wait() != 0:
        raise SystemExit(f"failed: {command}\n{said}")
    return re.sub(r"^.*\r", "", said, flags=re.MULTILINE).strip()


def _small(browser: Any, png: bytes) -> bytes:
    """The same picture with a palette, which takes a third of the bytes."""
    page = browser.new_page()
    address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    width, height, colours, encoded = page.evaluate(PALETTE, [address, MOST_COLOURS, LIKE])
    page.close()
    places = base64.b64decode(encoded)
    rows = b"".join(b"\0" + places[y * width : (y + 1) * width] for y in range(height))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content)
        for kind, content in (
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            (b"PLTE", bytes(colours)),
            (b"IDAT", zlib.compress(rows, 9)),
            (b"IEND", b""),
        )
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _done(command: list[str]) -> None:
    if main(command) != 0:
        raise SystemExit(f"failed: {command}")


def find_chromium(which: Callable[[str], str | None] = shutil.which) -> str | None:
    """The browser of this machine, if there is one."""
    return which("chromium") or which("chromium-browser")


if __name__ == "__main__":
    found = find_chromium()
    if found is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, found, sys.argv[2:] or PICTURES)
