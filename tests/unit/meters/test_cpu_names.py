"""Names of processors are resolved rightly or refused, never to a neighbour."""

import csv
import re
import runpy
from pathlib import Path

import pytest

from carbontrack.meters.cpu_info import TABLE, find_part, plain_name, spellings
from carbontrack.system.files import package_text

NAMES = Path(__file__).parents[2] / "data" / "cpu_names.tsv"
TOOL = runpy.run_path(str(Path(__file__).parents[3] / "docs" / "tools" / "extend_cpu_table.py"))
PAIRS = [
    tuple(line.split("\t"))
    for line in NAMES.read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize(("model_name", "expected"), PAIRS)
def test_real_names_are_resolved_rightly_or_refused(model_name, expected):
    """Server, desktop, laptop, cloud, ARM and Apple names, as machines report them."""
    part = find_part(model_name)
    assert (part.name if part else "") == expected


def test_the_list_of_real_names_is_long_enough_to_mean_something():
    """At least 300 names, of which a good part must be refused."""
    assert len(PAIRS) >= 300
    assert sum(not expected for _, expected in PAIRS) >= 70


def test_every_name_of_the_table_finds_its_own_row():
    """What the table spells is found under that very spelling."""
    rows = list(csv.DictReader(package_text(TABLE).splitlines()))
    names = {row["name"] for row in rows}
    assert len(names) == len(rows)
    odd = []
    for name in sorted(names)[::7]:
        part = find_part(name)
        if part is None or part.name not in (name, name.removeprefix("ryzen ")):
            odd.append((name, part and part.name))
    # Names without any digit are families; a few old ones hold "-core" or "APU" in the middle.
    assert len(odd) <= 0.02 * len(names) / 7, odd


def test_every_row_has_watts_a_source_and_a_grade():
    """No row without a source, and no power that no processor has."""
    for row in csv.DictReader(package_text(TABLE).splitlines()):
        assert row["source"], row
        assert row["confidence"] in ("vendor_listing", "aggregated_list", "estimate"), row
        assert 0.0 < float(row["tdp_w"]) <= 1000.0, row
        assert not row["threads"] or 1 <= int(row["threads"]) <= 1024, row


@pytest.mark.parametrize(
    ("model_name", "threads"),
    [
        ("12th Gen Intel(R) Core(TM) i7-12700H", 20),  # 6 + 8 cores
        ("12th Gen Intel(R) Core(TM) i5-12400", 12),  # 6 + 0
        ("13th Gen Intel(R) Core(TM) i9-13900K", 32),  # 8 + 16
        ("13th Gen Intel(R) Core(TM) i3-1305U", 6),  # 1 + 4
        ("Intel(R) Core(TM) Ultra 7 155H", 22),  # 6 + 8 + 2
        ("Intel(R) Core(TM) Ultra 7 265K", 20),  # 8 + 12, one thread each
        ("Intel(R) Core(TM) Ultra 5 225U", 14),  # 2 + 8 + 2, of the older design
        ("Intel(R) Core(TM) Ultra 7 258V", 8),  # 4 + 4, one thread each
        ("Intel(R) N100", 4),
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", 8),
        ("Intel(R) Core(TM) i5-2390T CPU @ 2.70GHz", 4),
        ("Intel(R) Core(TM) i5-9300HF CPU @ 2.40GHz", 8),
        ("Intel(R) Core(TM) i7-9700K CPU @ 3.60GHz", 8),
        ("Intel(R) Xeon(R) CPU E3-1226 v3 @ 3.30GHz", 4),
        ("Intel(R) Xeon(R) CPU D-1541 @ 2.10GHz", 16),
        ("Intel(R) Xeon(R) E-2224 CPU @ 3.40GHz", 4),
        ("AMD EPYC 9R14", 192),
        ("11th Gen Intel(R) Core(TM) i7-1165G7 @ 2.80GHz", None),
    ],
)
def test_threads_of_a_part_are_known_or_unknown(model_name, threads):
    """Where no list and no rule has them, they are unknown."""
    assert find_part(model_name).threads == threads


def test_threads_of_hybrid_processors_are_those_of_their_cores():
    """Each row of the list of cores adds up, and the table of parts has what it says."""
    rows = list(csv.DictReader(package_text("data/cpu_hybrid.csv").splitlines()))
    assert len(rows) >= 250
    for row in rows:
        performance, efficient, low_power, per_core, threads = (
            int(row[name])
            for name in (
                "p_cores", "e_cores", "low_power_e_cores", "threads_per_p_core", "threads"
            )
        )  # fmt: skip
        assert threads == per_core * performance + efficient + low_power, row
        assert find_part(row["name"]).threads == threads
        assert row["grade"] == "C"
        assert row["source"]
        assert row["licence"] in ("facts", "Apache-2.0")


def test_every_derived_count_says_so():
    """Of 2,689 counts 931 are by a rule on the name, 287 of the list of cores, 186 typed."""
    rows = list(csv.DictReader(package_text(TABLE).splitlines()))
    sources = [row["source"] for row in rows if row["threads"]]
    assert len(sources) == 2689
    notes = ("threads by name (D)", "threads of cpu_hybrid.csv (C)", "threads typed (C)")
    assert [sum(note in source for source in sources) for note in notes] == [931, 287, 186]


WITHOUT_HYPER_THREADING = {
    r"xeon e5-2[46]0[379]( v2)?$": 4,
    r"xeon e5-26(03 v[34]|09 v3)$": 6,
    r"xeon e5-2609 v4$": 8,
    r"xeon e5-160[37]( v\d)?$": 4,
    r"xeon e5-4617$": 6,
    r"xeon e5-4627 v2$": 8,
    r"xeon e5-4627 v[34]$": 10,
    r"xeon e7-8837$": 8,
    r"xeon bronze 3[12]04$": 6,
    r"xeon bronze 3(106|206r)$": 8,
    r"xeon e3-122[056]( v\d)?$": 4,
    r"xeon e-2[12]24g?$|xeon e-2314$|xeon e-2324g$|xeon e-2(104g|414)$": 4,
    r"xeon e-2[12]26g?e?$": 6,
    r"xeon w-210[24]$": 4,
}
"""Intel's servers that run one thread on each core, by number, and their cores."""
WITH_HYPER_THREADING = {
    "xeon e5-4603": 8,  # its number ends as those of two-socket parts without
    "xeon e5-4607": 12,
    "xeon e7-4807": 12,
    "xeon e7-4809 v2": 12,
    "xeon silver 4208": 16,
    "xeon e3-1220l": 4,  # two cores, unlike the E3-1220 with four
    "xeon e3-1230": 8,
    "xeon w-2123": 8,
}


def test_parts_without_hyper_threading_have_a_thread_a_core():
    """The rule by name and the table agree; parts with a like name and more threads are listed."""
    rows = {row["name"]: row["threads"] for row in csv.DictReader(package_text(TABLE).splitlines())}
    for line, cores in WITHOUT_HYPER_THREADING.items():
        found = {name: threads for name, threads in rows.items() if re.match(line, name)}
        assert found, line
        assert found == dict.fromkeys(found, str(cores))
    assert {name: int(rows[name]) for name in WITH_HYPER_THREADING} == WITH_HYPER_THREADING


def test_the_tool_of_the_table_gives_what_the_table_has():
    """Typed counts of threads, years by line, and the base power for which lists have turbo's."""
    rows = {row["name"]: row for row in csv.DictReader(package_text(TABLE).splitlines())}
    for name, threads in TOOL["typed"]().items():
        assert name not in rows or rows[name]["threads"] == str(threads), name
    for name, row in rows.items():
        if TOOL["YEAR_BY_LINE"] in row["source"]:
            assert row["year"] == str(TOOL["year_of"](name)), name
        else:
            assert row["year"] or TOOL["year_of"](name) is None, name
    for name, (_turbo_w, base_w) in TOOL["BASE_W"].items():
        assert float(rows[name]["tdp_w"]) == base_w


@pytest.mark.parametrize(
    "family", ["AMD EPYC", "Intel(R) Xeon(R) CPU @ 2.20GHz", "", "Apple processor"]
)
def test_a_family_is_not_a_part(family):
    """A name without a number names no part, whatever the lists hold."""
    assert spellings(family) == ()
    assert find_part(family) is None


def test_versions_are_never_mixed_up():
    """E5-2620, v2, v3 and v4 are four parts with four powers."""
    names = [f"Intel(R) Xeon(R) CPU E5-2620 {v} @ 2.00GHz" for v in ("0", "v2", "v3", "v4")]
    assert [find_part(name).tdp_w for name in names] == [95.0, 80.0, 85.0, 85.0]
    assert find_part("Intel(R) Xeon(R) CPU E5-2620 v9 @ 2.00GHz") is None


def test_the_table_may_lie_anywhere(tmp_path):
    """The last row is found too, with or without a line end behind it."""
    table = tmp_path / "table.csv"
    table.write_text(
        "name,tdp\ncore x1,10,8,12,4,2020,vendor_listing,ark\nepyc 1,99,,,,,estimate,x"
    )
    assert find_part("Intel Core X1", table.read_bytes).tdp_high_w == 12.0
    assert find_part("AMD EPYC 1", table.read_bytes).tdp_low_w == 99.0


def test_plain_names():
    """Trademarks, frequencies, tails and versions are taken off, and nothing else."""
    assert plain_name("Intel(R) Xeon(R) CPU E5-2620 0 @ 2.00GHz") == "xeon e5-2620"
    assert plain_name("AMD EPYC 7763 64-Core Processor") == "epyc 7763"
    assert plain_name("AMD FX(tm)-8350 Eight-Core Processor") == "fx-8350"


def test_lines_from_before_2010_have_a_year_that_says_so():
    """Years are plausible; those by line are old, and no later part of a like name has one."""
    rows = {row["name"]: row for row in csv.DictReader(package_text(TABLE).splitlines())}
    by_line = [row for row in rows.values() if "year by line (D)" in row["source"]]
    assert len(by_line) >= 900
    assert all(int(row["year"]) < 2010 for row in by_line)
    assert all(1990 < int(row["year"]) <= 2026 for row in rows.values() if row["year"])
    for name in ("pentium 4415u", "athlon x2 370k", "opteron x2150", "phenom ii x4 955",
                 "core i7-2600k", "xeon e5620", "xeon x5650", "xeon e5507"):  # fmt: skip
        assert not rows[name]["year"] or int(rows[name]["year"]) >= 2010, name
