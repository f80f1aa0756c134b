"""What a rule's code is: a digest that changes when the code of its modules does something else."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "circuit_phases"
ROOT = Path(__file__).parent

PLUMBING = frozenset(
    {
        "checkpoints",
        "code_digest",
        "configuration",
        "datasets",
        "files",
        "interruption",
        "llm.retrieval",
        "llm.settings",
        "llm.stages",
        "logs",
        "paths",
        "run_in_progress",
        "settings",
        "stages",
        "tables",
    }
)
"""Modules that move numbers and decide none; settings enter a rule as values, not as code."""


def code_digest(*modules: str) -> str:
    """Digest of modules of this package and of all that they import from it, plumbing left out.

    Comments, docstrings and layout do not count.
    """
    digest = hashlib.blake2b(digest_size=8)
    for module in sorted(dependencies(*modules)):
        digest.update(module.encode())
        digest.update(_meaning(module).encode())
    return digest.hexdigest()


def dependencies(*modules: str) -> set[str]:
    """The modules themselves and all that they import from this package, plumbing left out."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found and module not in PLUMBING:
            found.add(module)
            waiting += imports(module)
    return found


@cache
def imports(module: str) -> tuple[str, ...]:
    """The modules of this package that a module imports, by name without the package's."""
    names: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            names.append((node.module or "").removeprefix(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names += [alias.name for alias in node.names]
    return tuple(name for name in names if _file(name).exists())


@cache
def _meaning(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)


def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text())


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
