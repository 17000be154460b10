"""Which directories are on file systems that machines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbontrack.report.read import iter_records
from carbontrack.sinks.csv_file import CsvSink
from carbontrack.sinks.files import remote_filesystem
from tests.support.records import a_record

MOUNTINFO = """\
25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 25 0:40 / /home rw,relatime shared:9 - nfs4 server:/home rw,vers=4.2
32 31 0:41 / /home/local rw - xfs /dev/vdb rw
33 25 0:42 / /mnt/my\\040share rw - cifs //server/share rw
34 25 0:43 / /scratch rw - lustre mds:/scratch rw
35 25 0:44 / /remote rw - fuse.sshfs user@server: rw
broken line
36 25 0:45 / /homestead rw - ext4 /dev/vdc rw
"""


def proc_with(root: Path, mountinfo: str) -> Path:
    """A /proc with this table of mounts and a boot id."""
    (root / "self").mkdir(parents=True)
    (root / "self/mountinfo").write_text(mountinfo)
    (root / "sys/kernel/random").mkdir(parents=True)
    (root / "sys/kernel/random/boot_id").write_text("3f2a9c1e-0000-0000-0000-000000000000\n")
    return root


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/var/tmp", None),
        ("/home/ada", "nfs4"),
        ("/home", "nfs4"),
        ("/home/local/ada", None),
        ("/homestead", None),
        ("/mnt/my share/x", "cifs"),
        ("/scratch/job", None),
        ("/remote", "fuse.sshfs"),
    ],
)
def test_the_innermost_mount_decides(tmp_path: Path, directory: str, kind: str | None) -> None:
    """A directory belongs to the mount nearest above it, and only unsafe types are named."""
    procfs = proc_with(tmp_path, MOUNTINFO)

    assert remote_filesystem(Path(directory), procfs=procfs) == kind


def test_without_a_table_all_is_local(tmp_path: Path) -> None:
    """A system without /proc gets the benefit of the doubt."""
    assert remote_filesystem(Path("/home"), procfs=tmp_path / "absent") is None


def test_no_file_is_shared_over_a_network(tmp_path: Path) -> None:
    """On NFS each machine writes to a file with its own name, and that is said."""
    procfs = proc_with(
        tmp_path / "proc",
        f"1 0 8:1 / / rw - ext4 x rw\n2 1 0:2 / {tmp_path} rw - nfs server:/ rw\n",
    )
    with pytest.warns(UserWarning, match=r"is on nfs.*runs\.boot-3f2a9c1e\.csv"):
        sink = CsvSink(tmp_path / "runs.csv", procfs=procfs)
    sink.write(a_record())

    assert not (tmp_path / "runs.csv").exists()
    assert list(iter_records(tmp_path / "runs.boot-3f2a9c1e.csv")) == [a_record()]


def test_a_link_does_not_hide_a_network(tmp_path: Path) -> None:
    """A link on a local disk to a file elsewhere: what is written would go elsewhere."""
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "runs.csv").symlink_to(share / "all.csv")
    procfs = proc_with(
        tmp_path / "proc",
        f"25 1 8:1 / / rw - ext4 /dev/vda rw\n26 25 0:4 / {share} rw - nfs s:/ rw\n",
    )
    with pytest.warns(UserWarning, match=rf"{share} is on nfs.*runs\.boot-3f2a9c1e\.csv"):
        sink = CsvSink(tmp_path / "runs.csv", procfs=procfs)
    sink.write(a_record())
    sink.close()

    assert len(list(iter_records(tmp_path / "runs.boot-3f2a9c1e.csv"))) == 1
    assert list(share.iterdir()) == []
