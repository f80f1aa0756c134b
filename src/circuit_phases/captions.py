"""What a figure's caption in the report is made from."""

from __future__ import annotations

import re
from typing import Any

from circuit_phases.claims import CLAIMS
from circuit_phases.configuration import Configuration
from circuit_phases.figures import LLM_FIGURES


def caption(configuration: Configuration, figure: str) -> dict[str, Any]:
    """What to look at in a figure, the claims that it shows, and whose results it draws: label, settings and seeds.

    `workflow/report/figure.rst` sets it.
    """
    look = next((captions[figure] for captions in configuration.report.values() if figure in captions), "")
    claims = [{"paper": claim.paper, "rule": claim.rule} for claim in CLAIMS if figure in _names(claim.figure)]
    drawn = _evaluations(configuration) if figure in LLM_FIGURES else _series(configuration, figure)
    return {"look": look, "claims": claims, "drawn": drawn}


def _series(configuration: Configuration, figure: str) -> list[dict[str, str]]:
    return [
        {"label": series.label, "settings": series.run.replace(",", ", "), "seeds": ", ".join(map(str, series.seeds))}
        for series, _ in configuration.figure_series(figure)
    ]


def _evaluations(configuration: Configuration) -> list[dict[str, str]]:
    seed = str(configuration.llm.prompts.seed)
    return [
        {"label": model, "settings": f"{model} {revision} on {dataset}", "seeds": seed}
        for model, revision, dataset in configuration.evaluations
    ]


def _names(figures: str) -> list[str]:
    """Names in config.yaml of the paper's figures: `7a, 18` are fig07a and fig18."""
    return [f"fig{int(number):02d}{letter}" for number, letter in re.findall(r"(\d+)(\w?)", figures)]
