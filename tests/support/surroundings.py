"""The surroundings of the tests: what whoever runs them has set changes nothing.

Called once, before anything of the package is imported, for this process and all of its children.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKEN = "TESTS_TOKEN"
"""The variable by which the processes that a test starts are found; see `leftovers`."""

_KEPT = {
    # where programs, libraries and temporary files are
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "TEMP", "TMP"),
    *("VIRTUAL_ENV", "PYENV_ROOT", "CC", "PLAYWRIGHT_BROWSERS_PATH"),
    *("USER", "LOGNAME", "USERNAME", "SHELL"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "NUMBER_OF_PROCESSORS"),
    # the tests' own: how many cases they try
    *("CARBONTRACK_CYCLES", "CARBONTRACK_ENDINGS", "CARBONTRACK_EVERY_POINT"),
    *("CARBONTRACK_SIGNAL_SECONDS", "RANDOM_PROGRAMS"),
    "TRY_FRAMEWORKS",  # and whether every framework has to be there
}
_KEPT_PREFIXES = (
    "HARDWARE_",
    "FAKE_NVML_",
    "PYTEST_XDIST_",
    "COV_CORE_",
    "COVERAGE_",
    "HYPOTHESIS_",
    "OPENBLAS_",
    TOKEN,
)

_home = tempfile.TemporaryDirectory(prefix="carbontrack-tests-")


def kept(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that stay."""
    return {
        name: value
        for name, value in environ.items()
        if name.upper() in _KEPT or name.upper().startswith(_KEPT_PREFIXES)
    }


def is_misled(environ: Mapping[str, str]) -> bool:
    """Whether the interpreter itself was started in a way that tests cannot undo."""
    is_ascii = sys.getfilesystemencoding().lower().replace("-", "") != "utf8"
    return bool(sys.flags.optimize) or (is_ascii and "PYTHONUTF8" not in environ)


def clean() -> None:
    """Forget the surroundings: variables, home, umask, time zone, signals, search path."""
    added = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    strangers = {os.path.abspath(folder) for folder in added} - {str(ROOT)}  # noqa: PTH100
    sys.path[:] = [folder for folder in sys.path if folder not in strangers]
    mine = kept(os.environ)
    os.environ.clear()
    os.environ.update(mine)
    for name in ("COLUMNS", "LINES"):  # readline has set them, past `os.environ`
        os.unsetenv(name)
    home = Path(_home.name)
    home.chmod(0o755)  # programs of other users look into it
    os.environ["HOME"] = os.environ["USERPROFILE"] = str(home)
    # Whoever runs the tests may have journals of killed runs, and a configuration.
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA"):
        os.environ[name] = str(home)
    os.umask(0o022)
    if hasattr(time, "tzset"):
        time.tzset()
    sys.dont_write_bytecode = False
    _restore_signals()


def forget() -> None:
    """Remove the home: another interpreter takes the place of this one, and has its own."""
    _home.cleanup()


def _restore_signals() -> None:
    """Let children have the usual signals: what runs the tests, such as nohup, may ignore some."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCHLD"):
        number = getattr(signal, name)
        if signal.getsignal(number) is signal.SIG_IGN:
            # one that does nothing: a handler is not inherited by a program, what is ignored is
            signal.signal(number, signal.SIG_DFL if name == "SIGCHLD" else _do_nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _do_nothing(*_: object) -> None:
    pass
