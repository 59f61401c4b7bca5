"""Imports point down only, the second layer's packages never import each other, and the bottom stays light."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO

LAYERS = [
    {"types", "config", "recipes", "errors", "rundir", "seeds"},
    {"formats", "matching", "difficulty", "selection", "corpus", "intervals", "json_schema", "chat", "models", "nano"},
    {"datasets", "engines", "training", "benchmarks"},
    {"rollout", "refine", "evaluate", "benchmarking", "curate"},
    {"loop", "ablation", "calibration", "doctor", "server"}
    | {"report", "results", "scoreboard", "summary", "show", "progress"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted((REPO / "toolrefine").rglob("*.py"))


def imports(path: Path, *, at_top: bool) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "toolrefine":
            yield from (f"toolrefine.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(REPO / "toolrefine").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imports(path, at_top=False):
        other = part_of(module) if module.startswith("toolrefine.") else ""
        if other and other != own:
            assert LEVEL[other] <= LEVEL[own], f"{own} imports {other}, which is above it"
            assert not (LEVEL[other] == LEVEL[own] == 2), f"{own} imports its sibling {other}"
    if LEVEL[own] <= 1:
        outside = {module.split(".")[0] for module in imports(path, at_top=True)}
        assert outside <= {*sys.stdlib_module_names, "pydantic", "toolrefine"}
