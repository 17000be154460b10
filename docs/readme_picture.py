"""Draw README's picture: `python docs/readme_picture.py [--epochs N] [FILE]`.

A terminal and a report page side by side: a command that is measured on the machine that draws
them, and the page that its record makes. The ground is transparent and both windows have a border,
so that the picture looks the same on a light and on a dark page.
"""

from __future__ import annotations

import argparse
import base64
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "gallery" / "readme.png"
RUN = "carbontrack run --region FR --timeline -- python train.py"
REPORT = "carbontrack report --html run.html"
COLUMNS = 80
TALLEST_PX = 900
PAGE_PX = 780
SHOWN_PX = 540

TRAIN = """
import sys, time
import numpy as np

random = np.random.default_rng(0)
x, truth = random.normal(size=(2_000, 400)), random.normal(size=400)
y, weights = x @ truth + random.normal(size=2_000), np.zeros(400)
for epoch in range(1, int(sys.argv[1]) + 1):
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        weights -= 0.02 * x.T @ (x @ weights - y) / len(x)
    loss = float(np.mean((x @ weights - y) ** 2))
    print(f"epoch {epoch}  loss {loss:.2f}", flush=True)
    time.sleep(0.6)  # what waiting for the next batch of data looks like
"""
STYLE = f"""
body {{ margin: 0; }}
main {{ padding: 3px; width: max-content; display: flex; gap: 12px;
  font: 13px "DejaVu Sans", sans-serif; }}
figure {{ margin: 0; border: 1px solid #8a9a92; border-radius: 9px; overflow: hidden;
  display: flex; flex-direction: column; }}
figcaption {{ padding: 7px 12px; background: #2a3a33; color: #b9c9c1; text-align: center; }}
pre {{ margin: 0; padding: 14px 16px; flex: 1; background: #14201b;
  color: #e4efe9; font: 13px/1.45 "DejaVu Sans Mono", monospace; min-width: {COLUMNS}ch; }}
pre b {{ color: #7fd6a4; }}
.page figcaption {{ background: #e3eae6; color: #33443c; }}
img {{ width: {SHOWN_PX}px; flex: 1 1 0; min-height: 0; object-fit: cover; object-position: top; }}
"""


def draw(target: Path, chromium: str, epochs: int) -> None:
    """Measure the training, report it, and draw both into a PNG with this browser."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        folder = Path(scratch)
        (folder / "train.py").write_text(TRAIN, encoding="utf-8")
        commands = {RUN: [str(epochs)], REPORT: []}
        shown = [
            f"<b>$ {escape(command)}</b>\n{escape(_printed(command, more, folder).strip())}"
            for command, more in commands.items()
        ]
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = _screenshot(browser, folder / "run.html")
        _compose(browser, "\n\n".join(shown), page, target)
        browser.close()


def _printed(command: str, more: list[str], folder: Path) -> str:
    """What a command prints on a terminal of this width, both streams as they come."""
    program, *given = shlex.split(command)
    given = [sys.executable if word == "python" else word for word in given]
    settings = {name: text for name, text in os.environ.items() if "CARBONTRACK" not in name}
    done = subprocess.run(
        [sys.executable, "-m", program, *given, *more],
        cwd=folder,
        env={**settings, "PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"failed: {command}\n{done.stdout}")
    return done.stdout


def _screenshot(browser: Any, source: Path) -> bytes:
    """The upper part of a report page, once its charts are drawn."""
    page = browser.new_context(
        offline=True,
        color_scheme="light",
        viewport={"width": PAGE_PX, "height": TALLEST_PX},
        device_scale_factor=2 * SHOWN_PX / PAGE_PX,
    ).new_page()
    page.goto(source.as_uri())
    page.wait_for_selector("html[data-charts]", state="attached", timeout=60_000)
    drawn: bytes = page.screenshot()
    return drawn


def _compose(browser: Any, terminal: str, page: bytes, target: Path) -> None:
    """Both windows on a transparent ground."""
    view = browser.new_page(viewport={"width": 1400, "height": 700}, device_scale_factor=2)
    image = base64.b64encode(page).decode()
    view.set_content(
        f"<!doctype html><style>{STYLE}</style><main>"
        f"<figure><figcaption>Terminal</figcaption><pre>{terminal}</pre></figure>"
        f"<figure class=page><figcaption>run.html</figcaption>"
        f"<img src='data:image/png;base64,{image}'></figure></main>"
    )
    view.locator("img").evaluate("image => image.decode()")
    target.parent.mkdir(parents=True, exist_ok=True)
    view.locator("main").screenshot(path=target, omit_background=True)


def main() -> None:
    """Draw the picture where the command line says."""
    parser = argparse.ArgumentParser(description="Draw README's picture.")
    parser.add_argument("target", nargs="?", type=Path, default=TARGET)
    parser.add_argument("--epochs", type=int, default=8, help="of 2.1 s each")
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    draw(given.target, chromium, given.epochs)


if __name__ == "__main__":
    main()
