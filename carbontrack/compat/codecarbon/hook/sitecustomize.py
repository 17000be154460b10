"""Each Python below `carbontrack run --as-codecarbon` runs this at its start.

The directory of this file is the first in PYTHONPATH there. It waits for the first import of
`codecarbon`, and loads nothing before. A `sitecustomize` of the program is run as usual. This file
is for any version of Python, because any may be started there.
"""

import os
import sys


class _Door:
    """Finds `codecarbon`: replaced by carbontrack's, if that is installed."""

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002
        """The spec of `codecarbon`.

        None for everything else, and if carbontrack is not installed.
        """
        if name != "codecarbon":
            return None
        sys.meta_path.remove(self)
        try:
            from carbontrack.compat.codecarbon import aliases
        except ImportError as error:
            sys.stderr.write(
                "carbontrack: codecarbon is not replaced in this program, because carbontrack "
                "cannot be imported by " + str(sys.executable) + ": " + str(error) + "\n"
            )
            return None
        return aliases.put_in_front().find_spec(name)


def _run_the_own_one():
    """Run the program's `sitecustomize`, if it has one, as if this one were not there."""
    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    sys.path[:] = [one for one in sys.path if one != folder]
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if getattr(error, "name", "sitecustomize") != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = ours


if sys.version_info >= (3, 10):
    sys.meta_path.insert(0, _Door())
_run_the_own_one()
