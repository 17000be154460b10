"""The bibliography of a report: carbontrack, and each source of data that the figures rest on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata

from carbontrack.errors import UnknownRegion
from carbontrack.grid import rows
from carbontrack.grid.tables import grid_water, site
from carbontrack.impact.embodied import embodied_item
from carbontrack.meters.gpu_names import find_gpu
from carbontrack.report import codecarbon
from carbontrack.report.facts import Asked, Facts, with_short_texts
from carbontrack.report.method import RECORDED, embodied_of
from carbontrack.report.references import BY_KEY, Reference, of_intensity
from carbontrack.text import visible_latex
from carbontrack.values import NamedTuple

TOOL = "carbontrack"
"""The key of the program itself."""
_RELEASED = 2026
_GRID = re.compile(r" \(the grid of [^)]*\)")
_SHARE = re.compile(r"; | \(\d[\d.]*%\)")
_BY_USER = "given by the user"
_PROVIDERS = {
    "aws": "https://sustainability.aboutamazon.com/",
    "gcp": "https://datacenters.google/efficiency/",
    "azure": "https://datacenters.microsoft.com/",
    "oci": "https://www.oracle.com/cloud/",
    "ibm": "https://www.ibm.com/cloud",
    "alibaba": "https://www.alibabacloud.com/",
    "ovh": "https://www.ovhcloud.com/",
    "scaleway": "https://www.scaleway.com/",
    "hetzner": "https://www.hetzner.com/",
    "digitalocean": "https://www.digitalocean.com/",
}
_CARDS = {
    "gpu:h100": ("nvidia2025", "ademe2026"),
    "gpu:b200": ("nvidia2025", "ademe2026"),
    "gpu:a100": ("ademe2026",),
    "gpu:datacenter": ("davy2021", "ademe2026"),
    "gpu:consumer": ("ecodiag2021",),
}
"""The sources of the embodied emissions of a card, by its item of the table."""


class Use(NamedTuple):
    """A reference, and what it is used for in this report."""

    reference: Reference
    used_for: str


def as_bibtex(facts: Facts, asked: Asked) -> str:
    """An entry for carbontrack, and one for each source of data, each with what it is used for."""
    uses: dict[str, tuple[Reference, list[str]]] = {}
    for reference, used_for in uses_of(facts, asked):
        _, texts = uses.setdefault(reference.key, (reference, []))
        texts.append(used_for)
    return "\n".join(
        _entry(reference, "; ".join(dict.fromkeys(texts))) for reference, texts in uses.values()
    )


def keys_of_intensity(facts: Facts) -> list[str]:
    """The keys of the sources of carbon intensity."""
    return list(dict.fromkeys(use.reference.key for use in _intensities(with_short_texts(facts))))


def uses_of(facts: Facts, asked: Asked) -> Iterator[Use]:
    """The references of a report in order; one may be used for several figures."""
    facts = with_short_texts(facts)
    yield Use(_tool(facts), "Energy and emissions")
    yield from _intensities(facts)
    yield from _models(facts)
    yield from _pues(facts)
    yield from _water(facts)
    yield from _embodied(facts, asked)


def _tool(facts: Facts) -> Reference:
    version = f"Version {facts.versions[0]}" if facts.versions else ""
    title = "carbontrack: energy and emissions of Python programs, with their uncertainty"
    author = "{carbontrack contributors}"
    return Reference(TOOL, author, title, _RELEASED, _address(), version)


def _address() -> str | None:
    """The address that the installed package names; None where it names none."""
    try:
        urls = metadata("carbontrack").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    return next((url.partition(",")[2].strip() for url in urls), None)


def _intensities(facts: Facts) -> Iterator[Use]:
    unknown: dict[str, str] = {}
    for row in facts.grids:
        year = row["intensity_year"]
        data = "" if year is None else f" ({year:.0f})"
        used_for = f"Carbon intensity of {row['region'] or 'an unknown place'}{data}"
        for text in _texts(row["intensity_source"] or ""):
            if text == codecarbon.SOURCE:
                yield _codecarbon()
                continue
            known = of_intensity(text)
            if not known:
                key = unknown.setdefault(text, f"intensity{len(unknown) + 1}")
                known = [_unknown(key, text, None if year is None else int(year))]
            for reference in known:
                yield Use(reference, used_for)


def _codecarbon() -> Use:
    """The tool behind rows of CodeCarbon's files, whatever its release."""
    tool = BY_KEY["codecarbon"]._replace(title="CodeCarbon", year=None, note="")
    return Use(tool, "Energy and emissions of rows in CodeCarbon's files")


def _texts(source: str) -> list[str]:
    """The sources that a record names; those of the table have semicolons in their texts."""
    whole = _GRID.sub("", source)
    if any(row["text"] == whole for row in rows.rows("sources")):
        return [whole]
    return [text for text in _SHARE.split(whole) if text]


def _unknown(key: str, text: str, year: int | None) -> Reference:
    """A reference to a source that is not one of the table: its text is the title."""
    if text.endswith(_BY_USER):
        note = "Replace this entry by the source of the figure"
        title = f"Carbon intensity of electricity, {_BY_USER}"
        return Reference(key, "{The authors}", title, year, None, note)
    published = re.search(r"\b(20\d\d)\b", text)
    author = text.partition(" (")[0].partition(",")[0] or text
    year = int(published.group(1)) if published else year
    return Reference(key, f"{{{visible_latex(author)}}}", text, year, None)


def _models(facts: Facts) -> Iterator[Use]:
    if any(meter.startswith("model:cpu") for meter in facts.meters):
        yield Use(BY_KEY["specpower2008"], "CPU power model, power by load")
        for key in ("codecarbon", "eco2ai2022", "greenalgorithms2021"):
            yield Use(BY_KEY[key], "CPU power model, design power unless given by the user")
    if any(meter.startswith("model:ram") for meter in facts.meters):
        for key in ("specpower2008", "davy2021"):
            yield Use(BY_KEY[key], "Memory power model")


def _pues(facts: Facts) -> Iterator[Use]:
    """The cloud providers whose published PUE is in these figures."""
    providers = {row["provider"]: row for row in rows.rows("cloud_providers")}
    for code in dict.fromkeys(row["region"] for row in facts.grids if row["region"]):
        try:
            found = site(code)
        except UnknownRegion:
            continue
        provider = providers.get(code.partition(":")[0])
        if found is None or provider is None or found.pue not in facts.pues:
            continue
        text = rows.source(provider["pue_source"])
        yield Use(
            Reference(
                f"pue{provider['provider']}",
                f"{{{provider['name']}}}",
                "Power usage effectiveness of data centres",
                found.pue_year,
                _PROVIDERS.get(provider["provider"]),
                "Figure of the region" if found.pue_basis == "region" else text,
            ),
            f"PUE of {code}",
        )


def _water(facts: Facts) -> Iterator[Use]:
    if not facts.summary.total.water_l:
        return
    for code in dict.fromkeys(row["region"] for row in facts.grids if row["region"]):
        try:
            found = grid_water(code)
        except UnknownRegion:
            continue
        if found is not None:
            for key in ("ember2026", "macknick2012"):
                yield Use(BY_KEY[key], f"Water consumption of electricity in {code}")


def _embodied(facts: Facts, asked: Asked) -> Iterator[Use]:
    if embodied_of(facts, asked).origin != RECORDED:
        return
    used_for = "Embodied emissions of the hardware, unless given by the user"
    for key in ("boavizta2021", "davy2021"):
        yield Use(BY_KEY[key], used_for)
    for name in dict.fromkeys(name for machine in facts.machines for name, _ in machine.gpus):
        card = find_gpu(name)
        item = None if card is None else embodied_item(card.name, card.kind)
        for key in _CARDS.get(item or "", ()):
            yield Use(BY_KEY[key], used_for)


def _entry(reference: Reference, used_for: str) -> str:
    fields = {
        "author": reference.author,
        "title": f"{{{visible_latex(reference.title)}}}",
        "year": None if reference.year is None else str(reference.year),
        "url": reference.url,
        "doi": reference.doi,
        "note": ". ".join(
            visible_latex(text) for text in (reference.note, f"Used for: {used_for}") if text
        ),
    }
    known = {name: text for name, text in fields.items() if text}
    lines = [f"  {name} = {{{text}}}," for name, text in known.items()]
    return "\n".join([f"@misc{{{reference.key},", *lines, "}", ""])
