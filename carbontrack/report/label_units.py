"""What one unit of a graded task is, and which other units do not fit it.

The published figures are per 1,000 inferences: one input is processed, and one answer, class or
picture comes out. Tokens or training steps are other amounts of work, so a grade of their energy
would mean nothing.
"""

from __future__ import annotations

import re

from carbontrack.errors import ConfigError

DEFAULT = "inference"
_OTHER_AMOUNTS = {
    "token": "a part of an inference",
    "word": "a part of an inference",
    "character": "a part of an inference",
    "byte": "a part of an inference",
    "pixel": "a part of an inference",
    "frame": "a part of a video",
    "box": "a part of an inference",
    "batch": "several inferences",
    "epoch": "a pass of a training",
    "step": "a part of a run",
    "iteration": "a part of a run",
    "run": "any number of inferences",
    "job": "any number of inferences",
    "user": "any number of inferences",
    "session": "any number of inferences",
    "second": "a time",
    "minute": "a time",
    "hour": "a time",
    "day": "a time",
    "joule": "an energy",
    "kwh": "an energy",
    "wh": "an energy",
    "gram": "an emission",
}
"""Units that are not one inference, and what each of them is instead."""
_PICTURE = frozenset({"image", "picture", "photo"})
_WRITING = frozenset(
    {"text", "sentence", "document", "paragraph", "review", "question", "prompt", "answer", "reply"}
)
_OF_PICTURES = ("image-classification", "object-detection", "image-captioning", "image-generation")
_FROM_PROMPTS = "image-generation"
_ONE = {
    "question-answering": "one question answered",
    "masked-language-modelling": "one text with a masked word",
    "image-captioning": "one image described",
    "image-generation": "one image generated",
    "text-generation": "one prompt answered",
    "summarization": "one text summarised",
}


def one_inference(task: str) -> str:
    """What one inference of a task is, in words: "one image generated"."""
    of = "image" if task in _OF_PICTURES else "text"
    return _ONE.get(task, f"one {of} processed")


def check_unit(task: str, unit: str) -> None:
    """Check that a unit can be one inference of a task.

    Raises:
        ConfigError: it is another amount of work, or work on another kind of data.
    """
    words = [_singular(word) for word in re.split(r"[\s/_().,;:-]+", unit.lower())]
    other = next((word for word in words if word in _OTHER_AMOUNTS), None)
    if other is not None:
        raise _does_not_fit(task, unit, f"{other!r} is {_OTHER_AMOUNTS[other]}")
    if task in _OF_PICTURES:
        fits = task == _FROM_PROMPTS or _PICTURE.intersection(words)
        if _WRITING.intersection(words) and not fits:
            raise _does_not_fit(task, unit, "the task works on images")
    elif _PICTURE.intersection(words):
        raise _does_not_fit(task, unit, "the task works on texts")


def _does_not_fit(task: str, unit: str, why: str) -> ConfigError:
    return ConfigError(
        f"{task} is graded per 1,000 inferences ({one_inference(task)} each), and the unit is "
        f"{unit!r}: {why}. Give the number of inferences with --units N, and leave --unit-name out "
        "or name an inference with it"
    )


def _singular(word: str) -> str:
    if word.endswith(("xes", "ches")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 2 else word


def plural(unit: str, count: float) -> str:
    """The unit behind a number: "1 inference", "5,000 inferences", "2 batches"."""
    if count == 1 or unit.endswith("s"):
        return unit
    if re.search(r"[^aeiou]y$", unit):
        return f"{unit[:-1]}ies"
    return f"{unit}es" if unit.endswith(("x", "ch", "sh")) else f"{unit}s"
