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
ONE_THREAD_A_CORE = """
xeon e5-2403:4 xeon e5-2403 v2:4 xeon e5-2407:4 xeon e5-2407 v2:4 xeon e5-2603:4 xeon e5-2603 v2:4
xeon e5-2603 v3:6 xeon e5-2603 v4:6 xeon e5-2609:4 xeon e5-2609 v2:4 xeon e5-2609 v3:6
xeon e5-2609 v4:8 xeon e5-4617:6 xeon e5-4627 v2:8 xeon e5-4627 v3:10 xeon e5-4627 v4:10
xeon e7-8837:8
"""
"""Server parts without hyper-threading, for which lists have twice their cores. Typed from memory,
grade C."""
EMPTY = """
xeon e3-1205 v6:4 xeon e3-1220:4 xeon e3-1220 v2:4 xeon e3-1220 v3:4 xeon e3-1220 v5:4
xeon e3-1220 v6:4 xeon e3-1220l:4 xeon e3-1220l v2:4 xeon e3-1220l v3:4 xeon e3-1225:4
xeon e3-1225 v2:4 xeon e3-1225 v3:4 xeon e3-1225 v5:4 xeon e3-1225 v6:4 xeon e3-1235:8
xeon e3-1235l v5:4 xeon e3-1245:8 xeon e3-1245 v2:8 xeon e3-1245 v3:8 xeon e3-1245 v5:8
xeon e3-1245 v6:8 xeon e3-1265l:8 xeon e3-1265l v2:8 xeon e3-1265l v3:8 xeon e3-1265l v4:8
xeon e3-1270l v4:8 xeon e3-1275:8 xeon e3-1275 v2:8 xeon e3-1275 v3:8 xeon e3-1275 v5:8
xeon e3-1275 v6:8 xeon e3-1275l v3:8 xeon e3-1283l v4:8 xeon e3-1284l v4:8 xeon e3-1285 v2:8
xeon e3-1285 v3:8 xeon e3-1285 v4:8 xeon e3-1285 v6:8 xeon e3-1285l v2:8 xeon e3-1285l v3:8
xeon e3-1285l v4:8
xeon e-2104g:4 xeon e-2254me:8 xeon e-2254ml:8 xeon e-2356g:12 xeon e-2414:4 xeon e-2434:8
xeon e-2436:12 xeon e-2456:12 xeon e-2468:16 xeon e-2478:16 xeon e-2486:12 xeon e-2488:16
xeon e5-1603:4 xeon e5-1603 v3:4 xeon e5-1603 v4:4 xeon e5-1607:4 xeon e5-1607 v2:4
xeon e5-1607 v3:4 xeon e5-1607 v4:4
xeon w-2102:4 xeon w-2104:4 xeon w-2140b:16 xeon w-2150b:20 xeon w-2191b:36
xeon w3-2423:12 xeon w3-2425:12 xeon w3-2435:16 xeon w3-2525:16 xeon w3-2535:20 xeon w5-2445:20
xeon w5-2455x:24 xeon w5-2465x:32 xeon w5-2545:24 xeon w5-3425:24 xeon w5-3435x:32 xeon w5-3525:32
xeon w5-3535x:40 xeon w7-2475x:40 xeon w7-2495x:48 xeon w7-2575x:44 xeon w7-2595x:52
xeon w7-3445:40 xeon w7-3455:48 xeon w7-3465x:56 xeon w7-3545:48 xeon w7-3555:56 xeon w7-3565x:64
xeon w9-3475x:72 xeon w9-3495x:112 xeon w9-3575x:88 xeon w9-3595x:120
xeon e5603:4 xeon e5606:4 xeon e5607:4 xeon e5620:8 xeon e5630:8 xeon e5640:8 xeon e5645:12
xeon e5649:12 xeon l5609:4 xeon l5618:8 xeon l5630:8 xeon l5638:12 xeon l5639:12 xeon l5640:12
xeon l5645:12 xeon x5647:8 xeon x5650:12 xeon x5660:12 xeon x5667:8 xeon x5670:12 xeon x5672:8
xeon x5675:12 xeon x5677:8 xeon x5679:12 xeon x5680:12 xeon x5687:8 xeon x5690:12 xeon x5698:4
core i9-7900x:20 core i9-7920x:24 core i9-7940x:28 core i9-7960x:32 core i9-7980xe:36
core i9-9820x:20 core i9-9900x:20 core i9-9920x:24 core i9-9940x:28 core i9-9960x:32
core i9-9980xe:36 core i9-10900x:20 core i9-10920x:24 core i9-10940x:28 core i9-10980xe:36
core i7-7740x:8 core i7-7800x:12 core i7-7820x:16 core i7-9800x:16 core i5-7640x:4
pentium g4560:4 pentium g4560t:4 pentium g4600:4 pentium g4600t:4 pentium g4620:4
"""
"""Threads of parts that no list and no rule has; typed from memory, grade C."""
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
    (r"core i7-(9[2-6]0|9[67]5)( extreme edition)?$", 2008),
    (r"core i7-(860|870|880|860s|870s|875k|[78][24]0qm|9[24]0xm)$|core i5-7[56]0s?$", 2009),
    (r"phenom fx-|sempron le-|sempron (x2 )?2[123]00$|sempron si-", 2008),
    (r"sempron \d{4}\+", 2006),
    (r"athlon tf-|athlon neo (mv|x2)|turion neo x2|athlon l110", 2009),
    (r"athlon (600|650|700|800|850|900|950|1[0-4]00|1133|1333)$", 2001),
    (r"athlon 2800\+", 2004),
    (r"athlon (1640b|[245]\d{3}[be]$|5000$|5200$|7[4578]50$)", 2009),
    (r"pentium (1\d\d|200)$", 1996),
    (r"pentium (dual |e2|t2|t3)|celeron (e1|t1)|celeron (2[012][05]|4[2-5][05]|5[3-8][05])$", 2008),
    (r"celeron (266|300|333|366|400|433|466|500|533|566|600|633|667|700|733|766|800)$", 2001),
    (r"atom ([23]30|n2[78]0|z5\d\d[pt]*)$", 2009),
    (r"xeon (x32[123]0|l3014)$", 2008),
)
"""Lines first sold in this year, with the same design in all of their parts; typed from memory. A
few came later (Core i7-930, 960 and 880: in the months up to June 2010). Where no list has a year,
this one stands in the table: it tells that a part's design is older than 2010 (`load_curve`)."""


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


def typed() -> dict[str, int]:
    """The threads of each part that are typed here, some of them over what the lists have."""
    pairs = re.findall(r"(\S[^:]*?):(\d+)", ONE_THREAD_A_CORE + EMPTY)
    return {name: int(count) for name, count in pairs} | OTHERS


def main(pack: Path) -> None:
    """Write cpu_tdp.csv again, with the counts that it lacks."""
    threads = rules(pack) | hybrid() | {name: (count, TYPED) for name, count in typed().items()}
    overruled = OTHERS.keys() | {name for name in typed() if f"{name}:" in ONE_THREAD_A_CORE}
    table = DATA / "cpu_tdp.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    added = 0
    for number, line in enumerate(lines):
        cells = line.split(",", 7)
        count, note = threads.get(cells[0], (0, ""))
        if count and (not cells[4] or cells[0] in overruled) and cells[4] != str(count):
            was = f"; lists give {cells[4]} threads" if cells[4] else ""
            cells[4], cells[7] = str(count), f"{cells[7]}{was}; {note}"
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
