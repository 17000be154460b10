"""Programs run as a user of whom the system knows nothing, in a folder that this user may enter."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
STRANGER = 47110
"""A uid without a line in /etc/passwd."""
_IMPORTS = "import carbontrack; carbontrack.track; print(carbontrack.__file__)"


def as_stranger() -> list[str]:
    """What makes a command of root's one of the stranger's; nothing where we are not root."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]


def can_be_stranger() -> bool:
    """Whether a program can be run as a plain user: we are one, or may become one."""
    return os.geteuid() != 0 or (shutil.which("setpriv") is not None and interpreter() is not None)


@functools.cache
def interpreter() -> str | None:
    """A Python of our version that the stranger can start; None where there is none."""
    usual = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (sys.executable, usual):
        # the shell starts it: what setpriv itself starts it finds with the rights of root
        command = [*as_stranger(), "sh", "-c", 'exec "$@"', "sh", python, "-c", _IMPORTS]
        environ = {"PATH": os.defpath, "PYTHONPATH": package()}
        try:
            done = subprocess.run(command, cwd="/", env=environ, capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.decode().startswith(package()):
            return python
    return None


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that everybody may use; pytest closes its own to all others, again and again."""
    folder = Path(tempfile.mkdtemp(prefix="carbontrack-public-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def package() -> str:
    """A folder with package and tests that everybody may read: the checkout, or a copy of it."""
    if all(folder.stat().st_mode & 0o005 == 0o005 for folder in (ROOT, *ROOT.parents)):
        return str(ROOT)
    copy = tempfile.mkdtemp(prefix="carbontrack-package-")
    for name in ("carbontrack", "tests"):
        shutil.copytree(ROOT / name, Path(copy, name), ignore=shutil.ignore_patterns("__pycache__"))
    for path in (Path(copy), *Path(copy).rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def public_interpreter(folder: Path, libraries: Path | None = None) -> str:
    """A Python that the stranger can start, and that finds the package without a variable.

    It is in a virtual environment of its own, which is made in `folder`. The libraries are those of
    this process by default.
    """
    import requests

    python = interpreter()
    assert python is not None
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    place = next(folder.glob("lib/python*/site-packages"))
    libraries = libraries or Path(str(requests.__file__)).parents[1]
    (place / "carbontrack.pth").write_text(f"{package()}\n{libraries}\n")
    return str(folder / "bin" / "python")
