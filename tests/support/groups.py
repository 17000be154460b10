"""How pytest-xdist gives out tests here under `--dist loadgroup`."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_GROUP = re.compile(r'xdist_group\((?:name=)?"(\w+)"')


class Groups(LoadScopeScheduling):
    """Keeps the tests of a group on one worker, and loses only one test with a worker.

    The scheduler of pytest-xdist 3.8 finds the groups in the ids of the tests, where pytest 9.2
    does not put them any more. Here a file that names a group is in it as a whole.
    """

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        self._groups: dict[str, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file not in self._groups:
            found = _GROUP.search((self.config.rootpath / file).read_text(encoding="utf-8"))
            self._groups[file] = "" if found is None else found.group(1)
        return self._groups[file] or nodeid

    def remove_node(self, node: Any) -> str | None:
        """Take back what a worker that has ended did not run, except for the test that ended it.

        The scheduler of pytest-xdist gives that one out again, so that a test which hangs would end
        one worker after the other.
        """
        units = self.assigned_work.pop(node)
        unfinished = [
            (unit, test) for unit in units.values() for test, is_done in unit.items() if not is_done
        ]
        if not unfinished:
            return None
        unit, fatal_test = unfinished[0]
        unit[fatal_test] = True
        self.workqueue.update(
            {scope: unit for scope, unit in units.items() if not all(unit.values())}
        )
        for other in self.assigned_work:
            self._reschedule(other)
        return fatal_test

    def _reschedule(self, node: Any) -> None:
        # one that has just replaced another gets its tests when it has collected them
        if node not in self.registered_collections:
            return
        super()._reschedule(node)
        # a worker begins a test only when it knows the next one, or that there is none
        while self.workqueue and not node.shutting_down and self._waits_for_more(node):
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()

    def _waits_for_more(self, node: Any) -> bool:
        return self._pending_of(self.assigned_work[node]) < 2

    def _assign_work_unit(self, node: Any) -> None:
        # nothing can be sent to one that has ended too; its tests are taken back when xdist says so
        with suppress(OSError):
            super()._assign_work_unit(node)
