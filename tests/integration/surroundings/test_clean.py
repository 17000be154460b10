"""What the tests find, whatever whoever runs them has set."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import surroundings
from tests.support.surroundings import TOKEN

CHILD = """
import json, locale, os, signal, sys, time
umask = os.umask(0o077)
ignored = [name for name in ("SIGINT", "SIGHUP", "SIGTERM") if hasattr(signal, name)
           and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN]
print(json.dumps({
    "names": sorted(os.environ), "umask": umask, "ignored": ignored, "zone": time.tzname[0],
    "encoding": sys.getfilesystemencoding(), "optimize": sys.flags.optimize,
    "path": sys.path,
}))
"""


def test_a_child_finds_nothing_of_whoever_runs_the_tests() -> None:
    """No setting, rank, proxy or colour; the usual umask and signals, and a home of the tests'."""
    printed = subprocess.check_output([sys.executable, "-c", CHILD], text=True)
    found = json.loads(printed)
    own = {"HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", TOKEN, "PYTEST_CURRENT_TEST"}
    own |= {"XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "LC_CTYPE", "PYTEST_VERSION"}
    strange = [name for name in found["names"] if name not in surroundings.kept({name: ""})]
    assert set(strange) <= own
    assert (found["umask"], found["ignored"], found["optimize"]) == (0o022, [], 0)
    assert found["encoding"] == "utf-8"
    assert found["zone"] == time.tzname[0]
    assert not any("strangers" in folder for folder in found["path"] + sys.path)
    assert Path(os.environ["HOME"]).is_dir()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX")
def test_asserts_hold() -> None:
    """A helper's assert is not compiled away, and a lone letter keeps its case in any language."""
    with pytest.raises(AssertionError):
        assert not __debug__
    assert "I".lower() == "i"
