"""The functions of nvidia-ml-py, whatever they answer: checked values, lenient text, one error.

The package decodes the library's texts strictly, an old `pynvml` does not decode them at all, and
a module of the same name may be anything. Here, and only here, such answers are made sense of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from carbontrack.errors import MeterUnavailable

FUNCTION_NOT_FOUND = 13
"""nvml.h, enum nvmlReturn_enum."""
_NEEDED = (
    *("nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"),
    *("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetUUID"),
)
_CURE = "pip install nvidia-ml-py"


class BindingError(Exception):
    """A function failed, or its answer is none; `code` is NVML's, None where it names none."""

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code


class Binding:
    """A library with the functions of nvidia-ml-py."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._undecodable: dict[str, bytes] = {}

    @classmethod
    def load(cls) -> Binding:
        """That of the installed package.

        Raises:
            MeterUnavailable: there is none, or the module of its name is another one.
        """
        try:
            pynvml = _guarded(_import)
            missing = _guarded(partial(_missing, pynvml))
        except BindingError as error:
            raise MeterUnavailable(f"nvidia-ml-py cannot be imported: {error}", _CURE) from error
        if missing:
            place = getattr(pynvml, "__file__", None) or "a directory of that name"
            reason = f"the module pynvml ({place}) is not nvidia-ml-py: it has no {missing[0]}"
            raise MeterUnavailable(reason, f"# rename it; then: {_CURE}")
        return cls(pynvml)

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a function answers; bytes where it is a text that is no UTF-8.

        Raises:
            BindingError: it fails, in whatever way, or there is no such function.
        """
        call = getattr(self._library, function, None)
        if call is None:  # an older package
            raise BindingError(FUNCTION_NOT_FOUND, f"nvidia-ml-py has no function {function}")
        return _guarded(partial(call, *arguments))

    def number(self, function: str, *arguments: Any) -> float:
        """A function's answer, which is a number, 0 or more.

        Raises:
            BindingError: as for `ask`, or it is none.
        """
        return as_number(self.ask(function, *arguments), function)

    def text(self, function: str, *arguments: Any) -> str:
        """A function's answer, which is a text; what is no UTF-8 in it is replaced.

        Raises:
            BindingError: as for `ask`, or it is none.
        """
        found = self.ask(function, *arguments)
        text = _decoded(found) if isinstance(found, bytes) else found
        if not isinstance(text, str) or not text.strip():
            raise BindingError(None, f"{function} answered with {_kind(found)} instead of text")
        if isinstance(found, bytes):
            self._undecodable[text] = found
        return text

    def by_uuid(self, uuid: str) -> Any:
        """The handle of the board, or slice, of which `text` gave this UUID.

        Raises:
            BindingError: there is none.
        """
        asked = self._undecodable.get(uuid)
        if asked is not None:
            return self.ask("nvmlDeviceGetHandleByUUID", asked)
        try:
            return self.ask("nvmlDeviceGetHandleByUUID", uuid)
        except BindingError as error:
            if error.code is not None:
                raise
            return self.ask("nvmlDeviceGetHandleByUUID", uuid.encode())  # an old pynvml


def _missing(library: Any) -> list[str]:
    return [name for name in _NEEDED if not callable(getattr(library, name, None))]


def _import() -> Any:
    import pynvml

    return pynvml


def _guarded(work: Callable[[], Any]) -> Any:
    """What `work` returns. What it calls may be anything, and raise anything."""
    try:
        return work()
    except UnicodeDecodeError as error:
        return error.object
    except (Exception, SystemExit) as error:
        raise BindingError(_code_of(error), _told(error)) from error


def as_number(found: Any, what: str) -> float:
    """A number from the library, 0 or more.

    Raises:
        BindingError: it is none.
    """
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise BindingError(None, f"{what} answered with {_kind(found)} instead of a number")
    if not 0 <= found < float("inf"):
        raise BindingError(None, f"{what} answered with {found!r}")
    return float(found)


def _kind(found: Any) -> str:
    return "nothing" if found is None or found == "" else f"a {type(found).__name__}"


def _decoded(text: bytes) -> str:
    return text.split(b"\0", 1)[0].decode("utf-8", "replace")


def _code_of(error: BaseException) -> int | None:
    if type(error).__name__ == "NVMLLibraryMismatchError":  # the package is newer than the driver
        return FUNCTION_NOT_FOUND
    code = getattr(error, "value", None)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _told(error: BaseException) -> str:
    """The error's text, which the library may be asked for in turn."""
    try:
        return str(error) or type(error).__name__
    except UnicodeDecodeError as undecodable:
        return _decoded(undecodable.object)
    except (AttributeError, TypeError, ValueError):
        return type(error).__name__
