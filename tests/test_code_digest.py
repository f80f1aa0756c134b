"""The digest of a rule's code: what changes it and what does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuit_phases import code_digest as module
from circuit_phases.code_digest import code_digest, dependencies, library_versions


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two modules, the second importing the first and some plumbing."""
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "model.py").write_text('"""The model."""\n\ndef logits(x):\n    """Double."""\n    return 2 * x\n')
    (tmp_path / "files.py").write_text("A = 1\n")
    (tmp_path / "training.py").write_text(
        "from circuit_phases.files import A\nfrom circuit_phases.model import logits\n"
    )
    (tmp_path / "census.py").write_text("B = 1\n")
    return tmp_path


def digest(*modules: str) -> str:
    for function in (module.imports, module._meaning, module._tree):
        function.cache_clear()
    return code_digest(*modules)


def test_what_a_module_imports_counts_and_plumbing_does_not(package: Path) -> None:
    before = digest("training")
    (package / "files.py").write_text("A = 2\n")
    (package / "census.py").write_text("B = 2\n")
    assert digest("training") == before
    (package / "model.py").write_text("def logits(x):\n    return 3 * x\n")
    assert digest("training") != before


def test_comments_docstrings_and_layout_do_not_count(package: Path) -> None:
    before = digest("training")
    remarks = '# A remark.\ndef logits(\n    x,\n):\n    """Twice."""\n    return (2 * x)\n"""Of logits."""\n'
    (package / "model.py").write_text(remarks)
    assert digest("training") == before


def test_a_file_beside_a_module_counts_if_the_module_names_it(package: Path) -> None:
    (package / "model.py").write_text('SHEET = "look.mplstyle"\n')
    (package / "look.mplstyle").write_text("font.size: 7\n")
    (package / "other.mplstyle").write_text("font.size: 7\n")
    before = digest("training")
    (package / "other.mplstyle").write_text("font.size: 8\n")
    assert digest("training") == before
    (package / "look.mplstyle").write_text("font.size: 8\n")
    assert digest("training") != before


def test_a_script_counts_by_what_it_does(package: Path) -> None:
    script = package / "script.py"
    digests = []
    for text in ("train(1)\n", "# A remark.\ntrain( 1 )\n", "train(2)\n"):
        script.write_text(text)
        module._meaning.cache_clear()
        digests.append(code_digest("training", script=script))
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] != digest("training")


def test_versions_are_those_of_the_libraries_that_decide_numbers(package: Path) -> None:
    (package / "model.py").write_text("import json\nimport pandas\nfrom numpy.random import default_rng\n")
    for function in (module.imports, module._tree, module._libraries):
        function.cache_clear()
    assert library_versions("training") == {"numpy": np.__version__}


def test_the_real_rules_depend_on_what_decides_their_numbers() -> None:
    module.imports.cache_clear()
    module._tree.cache_clear()
    trainer = {
        "trainer",
        "compilation",
        "evaluation",
        "fast",
        "embedded_stream",
        "streams",
        "products",
        "model",
        "sequences",
        "splits",
        "abilities",
        "world",
    }
    assert dependencies("trainer") == trainer
    assert dependencies("training") == trainer | {"training", "training_run", "checkpoint_schedule", "stopping"}
    assert dependencies("circuits") == {"attention_maps", "circuits", "model", "sequences", "world"}
    assert dependencies("phases") == {"phases", "stopping"}
    assert dependencies("llm.evaluation") == {
        f"llm.{name}" for name in ("evaluation", "circuits", "models", "prompts", "data")
    }
    assert "training" not in dependencies("theory")
    assert not {"figures", "training", "model", "circuits"} & dependencies("figures.fig02", "figures.drawing")
