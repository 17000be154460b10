"""Extend cpu_tdp.csv: threads from a data pack and from cpu_hybrid.csv, years of lines before 2010.

    python docs/tools/extend_cpu_table.py PACK

For maintainers; nothing in carbontrack imports it. What the table has is left as it is,
save turbo power that lists have as design power; running this a second time changes nothing. The
README of `carbontrack/data` has the grades.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import carbontrack

DATA = Path(carbontrack.__file__).with_name("data")
BY_NAME = "threads by name (D)"
TYPED = "threads typed (C)"
HYBRID = "threads of cpu_hybrid.csv (C)"

TWO_A_CORE = """
core i3-8140u core i5-1145gre core i5-2390t core i5-2510e core i5-2515e core i5-3470t core i5-4400e
core i5-4402e core i5-4402ec core i5-4410e core i5-4422e core i5-4570t core i5-4570te core i5-7y54
core i5-7y57 core i5-9300hf
"""
ONE_A_CORE = (
    "core i5+8400 includes optane memory",
    "core i5+8500 includes optane memory",
    "xeon e3-1226 v3",
    "xeon e3-1501l v6",
    "xeon e3-1501m v6",
)
NOT_SURE = "xeon bronze 3408u"
"""Parts for which the rule by name is wrong; typed from memory, grade C."""
OTHERS = {"threadripper pro 7945wx": 24, "threadripper pro 7955wx": 32, "epyc 9r14": 192}
"""Typed from memory, grade C. An EPYC 9R14 has 96 cores; its two threads a core are switched off
where it is used, and the model takes account of that (`cpu_power`)."""
BASE_W = {
    "core i5-1240u": (29, 9),
    "core i5-12400t": (74, 35),
    "core i5-1335u": (55, 15),
    "core i7-1270p": (64, 28),
    "core ultra 5 225t": (65, 35),
}
"""Turbo power that the lists have as design power, and the base power of the part and its siblings,
typed from memory."""
YEAR_BY_LINE = "year by line (D)"
OLD_LINES = (
    (r"pentium (mmx|ii) ", 1998),
    (r"pentium iii ", 2001),
    (r"mobile (pentium|celeron|athlon|sempron) ", 2003),
    (r"pentium 4[ -]|pentium extreme |athlon xp", 2004),
    (r"pentium (d|m) |celeron (d|m) ", 2006),
    (r"core (duo|solo) ", 2006),
    (r"core 2 ", 2008),
    (r"xeon (\d\.|mp |lv |mv )", 2005),
    (r"xeon (30|50|51|53|70|71)\d\d", 2006),
    (r"xeon [exl](31|33|52|53|54|72|73|74)\d\d$", 2008),
    (r"xeon ([exl]55(?!03|07)\d\d|w55\d\d|w35(?!30)\d\d|x34(?!80)\d\d)$", 2009),
    (r"athlon 64 ", 2006),
    (r"athlon x2 (?!\d{3}[a-z]?$)|athlon le-", 2008),
    (r"opteron (12|22|82)\d\d", 2007),
    (r"opteron (13|23|83)\d\d", 2008),
    (r"opteron (24|84)\d\d", 2009),
    (r"opteron ([128]\d\d\b|x2 )", 2006),
    (r"phenom (x3|x4|\d)", 2008),
    (r"turion ?(64|x2|rm|zm)", 2008),
)
"""Lines of which every part was sold first in this year or before, typed from memory. Where no list
has a year, this one stands in the table: it tells that a part is older than 2010 (`load_curve`)."""


def year_of(name: str) -> int | None:
    """The year by which every part of this name's line was sold, for lines older than 2010."""
    return next((year for line, year in OLD_LINES if re.match(line, name)), None)


def rules(pack: Path) -> dict[str, tuple[int, str]]:
    """The threads of each part that a rule on its name gives, corrected."""
    two = {f"core {name.strip()}" for name in TWO_A_CORE.replace("\n", " ").split("core ")[1:]}
    found: dict[str, tuple[int, str]] = {}
    with (pack / "hardware" / "cpu_threads.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            cores, threads = int(row["cores"]), int(row["threads"])
            if row["name"] in two or row["name"] in ONE_A_CORE:
                found[row["name"]] = (cores * (2 if row["name"] in two else 1), TYPED)
            elif row["name"] != NOT_SURE:
                found[row["name"]] = (threads, BY_NAME)
    return found


def hybrid() -> dict[str, tuple[int, str]]:
    """The threads of each part in the list of performance and efficiency cores."""
    with (DATA / "cpu_hybrid.csv").open(encoding="utf-8", newline="") as lines:
        return {row["name"]: (int(row["threads"]), HYBRID) for row in csv.DictReader(lines)}


def main(pack: Path) -> None:
    """Write cpu_tdp.csv again, with the counts that it lacks."""
    threads = rules(pack) | hybrid() | {name: (count, TYPED) for name, count in OTHERS.items()}
    table = DATA / "cpu_tdp.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    added = 0
    for number, line in enumerate(lines):
        cells = line.split(",", 7)
        count, note = threads.get(cells[0], (0, ""))
        if count and (not cells[4] or cells[0] in OTHERS) and cells[4] != str(count):
            cells[4], cells[7] = str(count), f"{cells[7]}; {note}"
            added += 1
        if cells[0] in BASE_W and cells[1] == str(BASE_W[cells[0]][0]):
            turbo_w, base_w = BASE_W[cells[0]]
            cells[1:4] = [str(base_w), "", ""]
            cells[7] += f"; lists give turbo power {turbo_w} W; base power {base_w} W (C)"
        if number and cells[5] and int(cells[5]) < 1990:
            cells[5] = ""  # a misread date
        if not cells[5] and (year := year_of(cells[0])):
            cells[5] = str(year)
            cells[7] += f"; {YEAR_BY_LINE}"
        lines[number] = ",".join(cells)
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{added} counts added to {table}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
