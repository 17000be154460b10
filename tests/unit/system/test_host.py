"""What the host is called, and which boot of it this is."""

from __future__ import annotations

import pytest

from carbontrack.system.host import boot_id


@pytest.mark.parametrize(("content", "expected"), [(b"3f2a-9c1e\n", "3f2a-9c1e"), (b"\n", None)])
def test_the_boot_id_is_the_kernels(tmp_path, content, expected):
    """It is taken without the end of its line; an empty file says nothing."""
    folder = tmp_path / "sys/kernel/random"
    folder.mkdir(parents=True)
    (folder / "boot_id").write_bytes(content)
    assert boot_id(tmp_path) == expected


def test_an_unreadable_boot_id_is_unknown(tmp_path):
    """Neither a missing file nor one that is no text is an error."""
    assert boot_id(tmp_path) is None
    folder = tmp_path / "sys/kernel/random"
    folder.mkdir(parents=True)
    (folder / "boot_id").write_bytes(b"\xff\xfe")
    assert boot_id(tmp_path) is None
