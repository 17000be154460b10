"""Record what each epoch of a small training uses, for the test of the forecast.

    python benchmarks/record_epochs.py OUT.json [PASSES]

A network of one hidden layer is trained for 50 epochs with numpy on data that the first epoch
makes, writes as text and reads again, so that it is slower than the others. Joules and grams come
from `carbontrack.track` as the machine has them, shared with whatever else it does. Set
OPENBLAS_NUM_THREADS=1: threads of BLAS that wait for one another spin, the more the busier the
machine's other programs are.
"""

from __future__ import annotations

import io
import json
import platform
import sys
from datetime import date
from pathlib import Path

import carbontrack

EPOCHS, ROWS, COLUMNS, HIDDEN = 50, 12_000, 48, 64
PASSES = 40
"""Over the data in an epoch; about 0.4 s on a free core, and ten times as much on a busy one."""


def load(np):
    """Data through text, as if they had been a file."""
    draw = np.random.default_rng(7)
    inputs = draw.normal(size=(ROWS, COLUMNS))
    text = io.StringIO()
    np.savetxt(text, inputs, delimiter=",")
    text.seek(0)
    inputs = np.loadtxt(text, delimiter=",")
    return inputs, (inputs @ draw.normal(size=(COLUMNS, 1)) > 0).astype(float)


def epoch(np, data, weights):
    """One pass of gradient descent in batches."""
    inputs, answers = data
    for begin in range(0, ROWS, 40):
        given, wanted = inputs[begin : begin + 40], answers[begin : begin + 40]
        hidden = np.tanh(given @ weights[0])
        error = 1.0 / (1.0 + np.exp(-(hidden @ weights[1]))) - wanted
        back = (error @ weights[1].T) * (1.0 - hidden**2)
        weights[1] -= 0.01 * hidden.T @ error / 40
        weights[0] -= 0.01 * given.T @ back / 40


def main(out: Path, passes: int) -> None:
    """Train and write down."""
    rows = []
    with carbontrack.track("epochs", output=None, region="FR", idle="none") as run:
        import numpy as np

        draw = np.random.default_rng(1)
        weights = [draw.normal(size=(COLUMNS, HIDDEN)) * 0.1, draw.normal(size=(HIDDEN, 1)) * 0.1]
        data = None
        for _ in range(EPOCHS):
            data = data or load(np)
            for _ in range(passes):
                epoch(np, data, weights)
            rows.append(run.snapshot())
    how = {
        "recorded_with": "benchmarks/record_epochs.py",
        "on": date.today().isoformat(),
        "machine": f"{run.record.cpu_model}, {run.record.cpu_threads} threads, shared",
        "meters": f"{run.record.meters}; {run.record.basis}",
        "python": platform.python_version(),
        "passes": passes,
        "columns": "seconds, joules and grams of CO2e from the beginning to the end of each epoch",
    }
    epochs = [
        [
            round(row.duration_s, 4),
            round(row.energy_kwh * 3.6e6, 5),
            float(f"{row.emissions_g:.6g}"),
        ]
        for row in rows
    ]
    out.write_text(json.dumps({"how": how, "epochs": epochs}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else PASSES)
