"""Names of processors are resolved rightly or refused, never to a neighbour."""

import csv
from pathlib import Path

import pytest

from carbontrack.meters.cpu_info import TABLE, find_part, plain_name, spellings
from carbontrack.system.files import package_text

NAMES = Path(__file__).parents[2] / "data" / "cpu_names.tsv"
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
    """At least 150 names, of which a good part must be refused."""
    assert len(PAIRS) >= 150
    assert sum(not expected for _, expected in PAIRS) >= 30


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
