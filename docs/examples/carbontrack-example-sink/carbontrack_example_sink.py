"""Records of carbontrack as lines of logfmt, which log collectors such as Loki take apart.

output="logfmt:"                   to stderr, where systemd and container platforms listen
output="logfmt:stdout"             to stdout
output="logfmt:/var/log/co2.log"   to the end of a file
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from carbontrack import ConfigError, Record

COLUMNS = (
    "name",
    "status",
    "duration_s",
    "energy_kwh",
    "emissions_g",
    "basis",
    "region",
    "started_at",
    "record_id",
)
"""What a line shows of a record. `record_id` tells a record that arrives twice."""
STREAMS = {"": 2, "stderr": 2, "stdout": 1}


class LogfmtSink:
    """Writes each record as one line: name=train status=ok duration_s=60.2 energy_kwh=0.0011 …

    One line is one write to the end of the file, so that threads and processes may share it.

    Raises:
        ConfigError: the file's folder is not there.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        """What opens this output again in any directory, for records of killed runs."""
        if address not in STREAMS:
            path = Path(address).expanduser().absolute()
            if not path.parent.is_dir():
                raise ConfigError(f"there is no directory {path.parent}")
            self.address = str(path)

    def write(self, record: Record) -> None:
        """Write a line; an OSError is carbontrack's to deal with."""
        cells = ((column, getattr(record, column)) for column in COLUMNS)
        parts = [f"{column}={text_of(cell)}" for column, cell in cells if cell is not None]
        line = (" ".join(parts) + "\n").encode()
        if self.address in STREAMS:
            os.write(STREAMS[self.address], line)
            return
        handle = os.open(self.address, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def close(self) -> None:
        """Nothing is open."""


def text_of(cell: object) -> str:
    """A value as logfmt has it: quoted where it would fall apart."""
    text = str(cell)
    is_plain = text.isascii() and text.isprintable() and text and not set(text) & set(' ="\\')
    return text if is_plain else json.dumps(text)
