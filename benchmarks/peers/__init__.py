"""One adapter a tool: how it is installed, imported, started, and what it offers."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def load(tool: str) -> ModuleType:
    """The tool's adapter; each is loaded alone, as its environment has no other tool."""
    path = Path(__file__).with_name(f"{tool}_tool.py")
    spec = spec_from_file_location(f"{tool}_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
