"""`python -m carbontrack` is the command `carbontrack`."""

from __future__ import annotations

import sys

from carbontrack.cli import main

if __name__ == "__main__":
    sys.exit(main())
