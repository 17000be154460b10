"""Train a classifier of handwritten digits for about twenty seconds.

The 1,797 scans of 8 x 8 pixels ship inside scikit-learn, so nothing is downloaded. A third of them
are kept back for the test and never trained on. Each pass over the rest moves every scan by a pixel
in a random direction, so there is something new to learn each time. Time, not the number of passes,
ends the training: a fast machine makes more passes, a slow one fewer.

Nothing in here knows that it is measured:

    carbontrack run -- python docs/examples/train_digits.py
"""

from __future__ import annotations

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

TRAIN_S = 21.0
REPORT_S = 3.0


def moved(images: np.ndarray, by: np.random.Generator) -> np.ndarray:
    """The same images, each one a pixel further up, down, left, right, or where it was."""
    steps = by.integers(-1, 2, size=(len(images), 2))
    pairs = zip(images, steps, strict=True)
    return np.stack([np.roll(image, step, axis=(0, 1)) for image, step in pairs])


def train() -> None:
    """Train until the time is over, and tell how well it went."""
    digits = load_digits()
    images = digits.images / 16.0
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, digits.target, test_size=1 / 3, random_state=0, stratify=digits.target
    )
    test_pixels = test_images.reshape(len(test_images), -1)
    model = MLPClassifier(hidden_layer_sizes=(256, 128), learning_rate_init=5e-4, random_state=0)
    by = np.random.default_rng(0)

    print(f"training on {len(train_images)} digits for {TRAIN_S:.0f} s", flush=True)
    started_s = time.monotonic()
    passes, report_at_s = 0, REPORT_S
    while (elapsed_s := time.monotonic() - started_s) < TRAIN_S:
        pixels = moved(train_images, by).reshape(len(train_images), -1)
        model.partial_fit(pixels, train_labels, classes=digits.target_names)
        passes += 1
        if elapsed_s >= report_at_s:
            report_at_s += REPORT_S
            print(f"{elapsed_s:5.1f} s  pass {passes:4d}  loss {model.loss_:.4f}", flush=True)

    right = int((model.predict(test_pixels) == test_labels).sum())
    print(
        f"{passes} passes in {time.monotonic() - started_s:.1f} s; "
        f"{right} of {len(test_labels)} digits never seen before are right "
        f"({right / len(test_labels):.1%})"
    )


if __name__ == "__main__":
    train()
