"""Names of the environment's variables that are ours; `carbontrack.config` reads them."""

PREFIX = "CARBONTRACK_"
"""Before the name of a setting, in capitals."""
PARENT_ID = f"{PREFIX}PARENT_ID"
"""The record that this process's own records belong to; set for child processes."""
PYTEST = f"{PREFIX}PYTEST_"
"""Before the name of an option of the pytest plugin."""
