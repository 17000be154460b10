"""The fault codes that the package can write into a record, found in its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "carbontrack"
_WRITERS = ("api", "attribution", "meters", "sampling", "tracking")
_COUNTS = {"fault_counts", "faults"}


def written_codes() -> set[str]:
    """Every code that is counted, or given to a refusal, in the rooms that make records."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for room in _WRITERS
             for file in sorted((PACKAGE / room).rglob("*.py"))]  # fmt: skip
    constants = {name: text for tree in trees for name, text in _constants(tree)}
    found = (part for tree in trees for node in ast.walk(tree) for part in _codes_in(node))
    codes = set[str]()
    for expression in found:
        # "a" if … else "b" is either; the condition may name other text
        for branch in _branches(expression):
            if isinstance(branch, ast.Constant) and isinstance(branch.value, str):
                codes.add(branch.value)
            elif isinstance(branch, ast.Name) and branch.id in constants:
                codes.add(constants[branch.id])
    return codes


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target: ast.AST = node.targets[0]
        elif isinstance(node, ast.AnnAssign):
            target = node.target
        else:
            continue
        text = node.value.value if isinstance(node.value, ast.Constant) else None
        if isinstance(text, str) and isinstance(target, ast.Name):
            yield target.id, text


def _codes_in(node: ast.AST) -> Iterator[ast.AST | None]:
    """The expressions of a node that stand for codes."""
    if isinstance(node, ast.Call):
        yield from _codes_of_call(node)
    elif isinstance(node, ast.Subscript) and _name(node.value) in _COUNTS:
        yield node.slice
    elif isinstance(node, ast.Assign) and _name(node.targets[0]) == "fault":
        yield node.value
    elif isinstance(node, ast.Assign) and _name(node.targets[0]) == "codes":
        yield from (part for one in _branches(node.value) for part in getattr(one, "elts", ()))
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
        yield from node.value.keys if _name(node.targets[0]) in _COUNTS else ()
    elif isinstance(node, ast.FunctionDef) and node.name == "_code":
        yield from (
            one.value for one in ast.walk(node) if isinstance(one, ast.Return) and one.value
        )


def _codes_of_call(call: ast.Call) -> Iterator[ast.AST | None]:
    name = _name(call.func)
    yield from (keyword.value for keyword in call.keywords if keyword.arg == "fault")
    if name == "with_fault":
        yield from call.args[1:2]
    elif name == "Refusal":
        yield from call.args[3:4]
    elif name == "_note":
        yield from call.args
    elif name == "_add_faults" and isinstance(call.args[0], ast.Dict):
        yield from call.args[0].keys
    elif name == "get" and _name(getattr(call.func, "value", call)) in _COUNTS:
        yield from call.args[:1]


def _branches(node: ast.AST | None) -> Iterator[ast.AST | None]:
    if isinstance(node, ast.IfExp):
        yield from _branches(node.body)
        yield from _branches(node.orelse)
    else:
        yield node


def _name(node: ast.AST) -> str | None:
    return getattr(node, "id", getattr(node, "attr", None))
