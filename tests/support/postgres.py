"""A PostgreSQL of the tests' own: a folder in the temporary one, a socket in it, no port.

The fixture `postgres` starts one for the tests of a process, and `postgres_url` gives each test a
schema of its own. Tests that use them belong into the xdist group `postgres`, so that a run of
them all starts one server.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.support.surroundings import TOKEN

_PATIENCE_S = 60.0
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # what the kernel has outlives any process, and no test pulls the plug
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "log_min_messages": "fatal",
}


def trouble() -> str | None:
    """Why no PostgreSQL can be started here; None if one can be."""
    if _programs() is None:
        return "there is no PostgreSQL on this machine"
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or _user() is None):
        return "PostgreSQL does not run as root, and there is no other user to run it as"
    return None


class PostgresServer:
    """A server that can be stopped at once, as a machine that loses its power, and started again.

    Args:
        settings: instead of those of the tests.

    Attributes:
        folder: its own, with its socket.
        pid: of its first process.
    """

    def __init__(self, **settings: str) -> None:
        found = trouble()
        if found is not None:
            raise OSError(found)
        self._bin: Path = _programs()  # type: ignore[assignment]
        self.folder = Path(tempfile.mkdtemp(prefix="carbontrack-pg-"))
        self._as_user: list[str] = []
        user = _user() if os.geteuid() == 0 else None
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
            self._as_user = ["setpriv", *ids]
        options = ("-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
        self._run("initdb", "-D", self.folder / "data", *options)
        self._made = 0
        self._settings = _SETTINGS | settings
        self.start()

    @property
    def pid(self) -> int:
        """The process that starts all others."""
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers."""
        settings = [part for one in self._settings.items() for part in ("-c", "=".join(one))]
        command = [*self._as_user, str(self._bin / "postgres"), "-D", str(self.folder / "data")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-k", str(self.folder), *settings],
                cwd=self.folder,
                env=self._environ(),
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        until_s = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise OSError((self.folder / "log").read_text(errors="replace")[-2000:])
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)

    def stop(self) -> None:
        """Stop it in the midst of whatever it does ("immediate"): no transaction is ended well."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(_PATIENCE_S)

    def remove(self) -> None:
        """Stop it and remove its folder."""
        if self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Where a database of it is."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def new_schema(self) -> str:
        """The URL of a new, empty schema; a new database would take half a second."""
        self._made += 1
        self.execute(f"CREATE SCHEMA test_{self._made}")
        return f"{self.url()}&options=-csearch_path%3Dtest_{self._made}"

    def new_database(self, options: str = "") -> str:
        """The URL of a new, empty database."""
        self._made += 1
        self.execute(f"CREATE DATABASE test_{self._made} {options}")
        return self.url(f"test_{self._made}")

    def execute(self, statement: str) -> None:
        """Run a statement as the server's administrator."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str | Path) -> None:
        subprocess.run(
            [*self._as_user, str(self._bin / program), *map(str, arguments)],
            cwd=self.folder,
            env=self._environ(),
            check=True,
            capture_output=True,
        )

    def _environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in (TOKEN,) if name in os.environ}
        return {"PATH": os.defpath, "LC_ALL": "C", "HOME": str(self.folder)} | kept


def _programs() -> Path | None:
    """The folder with `initdb` and `postgres`: Debian's are on no path; the newest, if several."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    places = Path("/usr/lib/postgresql").glob("*/bin")
    found += sorted(places, key=lambda place: float(place.parent.name), reverse=True)
    return next((folder for folder in found if (folder / "postgres").exists()), None)


def _user() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    return None
