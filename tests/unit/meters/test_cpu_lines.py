"""What a processor's name says of its machine: a client, one socket, several, or nothing."""

import csv

import pytest

from carbontrack.meters.cpu_info import TABLE
from carbontrack.meters.cpu_lines import line_of
from carbontrack.system.files import package_text


@pytest.mark.parametrize(
    ("line", "names"),
    [
        (
            "client",
            (
                "Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz",
                "Intel(R) Core(TM)2 Duo CPU     E8400  @ 3.00GHz",
                "Intel(R) Core(TM) Ultra 7 258V",
                "Intel(R) N100",
                "Intel(R) U300",
                "Intel(R) Celeron(R) J4125 CPU @ 2.00GHz",
                "AMD FX(tm)-8350 Eight-Core Processor",
                "AMD A10-7850K Radeon R7, 12 Compute Cores 4C+8G",
                "AMD 3020e with Radeon Graphics",
                "AMD Ryzen Threadripper PRO 5995WX 64-Cores",
                "Snapdragon(R) X Elite - X1E78100 - Qualcomm(R) Oryon(TM) CPU",
                "VirtualApple @ 2.50GHz",
                "Apple M2",
            ),
        ),
        (
            "one-socket server",
            (
                "Intel(R) Xeon(R) E-2136 CPU @ 3.30GHz",
                "Intel(R) Xeon(R) CPU E3-1230 v5 @ 3.40GHz",
                "Intel(R) Xeon(R) CPU E5-1650 v4 @ 3.60GHz",
                "Intel(R) Xeon(R) W-2295 CPU @ 3.00GHz",
                "Intel(R) Xeon(R) w9-3495X",
                "Intel(R) Xeon(R) D-1541 CPU @ 2.10GHz",
                "AMD EPYC 7402P 24-Core Processor",
                "AMD EPYC 8324P 32-Core Processor",
                "Intel(R) Atom(TM) CPU C3758 @ 2.20GHz",
            ),
        ),
        (
            "server",
            (
                "AMD EPYC",
                "AMD EPYC 7763 64-Core Processor",
                "Intel(R) Xeon(R) CPU @ 2.20GHz",
                "Intel(R) Xeon(R) CPU E5-2620 0 @ 2.00GHz",
                "Intel(R) Xeon(R) Platinum 8473C",
                "Intel(R) Xeon(R) 6975P-C",
                "Dual-Core AMD Opteron(tm) Processor 2212",
                "Hygon C86 7285 32-core Processor",
            ),
        ),
        (
            None,
            (
                None,
                "",
                "QEMU Virtual CPU version 2.5+",
                "Common KVM processor",
                "Intel Core Processor (Haswell, no TSX)",
                "Frobnicator 9000",
            ),
        ),
    ],
)
def test_a_line_is_known_or_unknown(line, names):
    """QEMU's \"Intel Core Processor\" is any processor, mostly a server's."""
    assert {name: line_of(name) for name in names} == dict.fromkeys(names, line)


def test_every_part_of_the_table_has_a_line():
    """No row says nothing of its machine."""
    names = [row["name"] for row in csv.DictReader(package_text(TABLE).splitlines())]
    assert [name for name in names if line_of(name) is None] == []
    # a fifth of them are servers
    assert 0.15 < sum("server" in line_of(name) for name in names) / len(names) < 0.4
