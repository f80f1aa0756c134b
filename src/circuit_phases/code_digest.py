"""What a rule's code is: a digest that changes when the code of its modules does something else."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "circuit_phases"
ROOT = Path(__file__).parent

PLUMBING = frozenset(
    {
        "checkpoints",
        "code_digest",
        "configuration",
        "figures",
        "files",
        "interruption",
        "llm.retrieval",
        "llm.settings",
        "llm.stages",
        "logs",
        "memory",
        "paths",
        "run_in_progress",
        "schemas",
        "settings",
        "stages",
        "tables",
    }
)
"""Modules that move numbers and decide none; settings enter a rule as values, not as code."""


LIBRARIES = {
    "imageio_ffmpeg": "imageio-ffmpeg",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "PIL": "pillow",
    "scipy": "scipy",
    "seaborn": "seaborn",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
}
"""Imported names of the libraries that can decide a number or the look of a figure, and their distributions."""


def code_digest(*modules: str, script: Path | None = None) -> str:
    """Digest of modules of this package and of all that they import from it, plumbing left out, and of a script.

    Comments, docstrings and layout do not count; a file beside a module that it names does, such as a style sheet.
    """
    digest = hashlib.blake2b(digest_size=8)
    for module in sorted(dependencies(*modules)):
        digest.update(module.encode())
        digest.update(_meaning(_file(module)).encode())
    if script is not None:
        digest.update(_meaning(script).encode())
    return digest.hexdigest()


def library_versions(*modules: str) -> dict[str, str]:
    """The versions of those `LIBRARIES` that modules and their dependencies import, builds for a device left out."""
    imported = {name for module in dependencies(*modules) for name in _libraries(module)}
    return {LIBRARIES[name]: _version(LIBRARIES[name]) for name in sorted(imported)}


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
    for node in ast.walk(_tree(_file(module))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
            names.append((node.module or "").removeprefix(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            names += [alias.name for alias in node.names]
    return tuple(name for name in names if _file(name).exists())


@cache
def _libraries(module: str) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(_tree(_file(module))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return frozenset(name.split(".")[0] for name in found) & LIBRARIES.keys()


@cache
def _version(distribution: str) -> str:
    try:
        return version(distribution).split("+")[0]
    except PackageNotFoundError:
        return "not installed"


@cache
def _meaning(file: Path) -> str:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
    return ast.dump(tree) + "".join(path.read_text() for path in _files_named(tree, file.parent))


def _files_named(tree: ast.Module, folder: Path) -> list[Path]:
    """The files beside a module that it names, such as a style sheet."""
    names = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return sorted(path for path in folder.iterdir() if path.name in names and path.is_file())


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
