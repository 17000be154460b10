"""What holds for all tests: no deadlines on examples, and a state folder that is nobody's own."""

from __future__ import annotations

import os
import tempfile

from hypothesis import settings

# How long one example takes says how busy the machine is, and nothing about the code.
settings.register_profile("carbontrack", deadline=None)
settings.load_profile("carbontrack")

# Whoever runs the tests may have journals of killed runs, and a configuration; neither is ours.
_home = tempfile.TemporaryDirectory(prefix="carbontrack-tests-")
for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
    os.environ[name] = _home.name
