"""BibTeX entries of the data that the figures rest on."""

from __future__ import annotations

import re

from carbontrack.grid import rows
from carbontrack.report.facts import Asked, Facts
from carbontrack.report.formats import latex

_EMBODIED = (
    ("boavizta2021", "Boavizta's bottom-up method for the embodied impacts of hardware", 2021),
    ("teads2021", "Teads EC2 dataset, as used by Cloud Carbon Footprint", 2021),
)
_SHARE = re.compile(r"; | \(\d[\d.]*%\)| \(the grid of [^)]*\)")


def as_bibtex(facts: Facts, _asked: Asked) -> str:
    """An entry for the program and one for each source of intensity, and of embodied emissions."""
    version = facts.versions[0] if facts.versions else None
    entries = [
        _entry(
            "carbontrack",
            "carbontrack: energy and emissions of Python programs, with how each is known",
            None,
            f"Version {version}" if version else "",
            kind="software",
        )
    ]
    years: dict[str, tuple[int | None, list[str]]] = {}
    for row in facts.grids:
        for text in filter(None, _SHARE.split(row["intensity_source"] or "")):
            year = row["intensity_year"]
            _, regions = years.setdefault(text, (None if year is None else int(year), []))
            regions.append(row["region"] or "unknown")
    for number, (text, (year, regions)) in enumerate(sorted(years.items()), 1):
        used = ", ".join(dict.fromkeys(regions))
        data = "" if year is None else f"; data of {year}"
        licence = _licence(text)
        note = f"Carbon intensity of {used}{data}" + (f". {licence}" if licence else "")
        entries.append(_entry(f"intensity{number}", text, _printed(text), note))
    if facts.summary.total.embodied_g is not None:
        note = "Making of the hardware, where no figure of one's own was given"
        entries += [_entry(key, text, year, note) for key, text, year in _EMBODIED]
    return "\n".join(entries)


def _entry(key: str, title: str, year: int | None, note: str, *, kind: str = "misc") -> str:
    lines = [f"@{kind}{{{key},", f"  title = {{{{{latex(title)}}}}},"]
    lines += [f"  year = {{{year}}},"] if year is not None else []
    lines += [f"  note = {{{latex(note)}}},"] if note else []
    return "\n".join([*lines, "}", ""])


def _printed(text: str) -> int | None:
    """The year of publication that a source's text holds: "… Data (2026), …"."""
    found = re.search(r"\b(20\d\d)\b", text)
    return int(found.group(1)) if found else None


def _licence(text: str) -> str | None:
    return next((row["licence"] for row in rows.rows("sources") if row["text"] == text), None)
