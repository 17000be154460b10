"""A plain PyTorch loop: what the workers of a DataLoader use is in the row of the block.

Epochs, ranks and accelerate are tried by the page docs/how-to/pytorch.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.framework, pytest.mark.xdist_group("serial")]
pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, time
import carbontrack
from torch.utils.data import DataLoader, Dataset

class Burns(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, n):
        end_s = time.process_time() + 0.2
        while time.process_time() < end_s:
            sum(range(1000))
        return n

found = {}
for workers in (0, 2):
    with carbontrack.track("epoch", region="FR", output="rows.csv") as run:
        for batch in DataLoader(Burns(), batch_size=2, num_workers=workers):
            pass
    found[workers] = run.record.cpu_kwh
with carbontrack.track("epoch", region="FR", output="rows.csv") as run:
    time.sleep(1.0)
found["idle"] = run.record.cpu_kwh
print(json.dumps(found))
"""


def test_workers_of_a_loader_are_counted_where_they_are_used(tmp_path: Path) -> None:
    """1.6 s of CPU time, in this process or in two children: the same energy, and not little."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "program.py"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "CARBONTRACK_STATE_DIR": str(tmp_path / "state"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert 0.6 < found["2"] / found["0"] < 1.7
    assert found["idle"] < 0.25 * found["2"]
