"""The multi-process mode of prometheus_client, and what it cannot add up."""

from __future__ import annotations

from prometheus_client import values

from carbontrack.errors import ConfigError


def is_multi_process() -> bool:
    """Whether counters of this process are kept in files that another process may export."""
    return bool(values.ValueClass._multiprocess)


def check_scope(scope: str) -> None:
    """Refuse to measure the whole machine if the counters of several processes are added up.

    Raises:
        ConfigError: both apply.
    """
    if is_multi_process() and scope == "machine":
        raise ConfigError(
            "in multi-process mode (PROMETHEUS_MULTIPROC_DIR) the counters of all processes are "
            "added up, and in scope 'machine' each of them would count the whole machine; use "
            "scope='process'"
        )
