"""The pages of the report: what came out, what is possible, what it took and where it comes from, as HTML."""

from __future__ import annotations

import os
import platform
import subprocess
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

import circuit_phases

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222 }}
table {{ border-collapse: collapse }}
th, td {{ text-align: left; vertical-align: top; padding: 0.3em 0.7em; border-bottom: 1px solid #ddd }}
thead th {{ position: sticky; top: 0; background: #fff }}
img {{ max-width: 100% }}
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""
VERDICTS = {"reproduced": "#d7ecd9", "not reproduced": "#f6d5d0", "unclear": "#f3eecb"}
"""The colour behind each verdict, which is written out too."""


def claims_page(claims: pd.DataFrame) -> str:
    """The table `claims`, a row per claim."""
    counts = claims["verdict"].value_counts()
    told = ", ".join(f"{counts.get(name, 0)} {name}" for name in VERDICTS)
    shown = claims.assign(
        verdict=claims["verdict"].where(claims["reason"].isna(), claims["verdict"] + " (" + claims["reason"] + ")"),
        runs=[f"{row.runs_held} of {row.runs_decided}" for row in claims.itertuples()],
    )[["figure", "paper", "rule", "verdict", "runs", "numbers"]]
    names = {"paper": "the paper", "rule": "what must hold in a run", "numbers": "numbers, by series and seed"}
    colours = [f"background: {VERDICTS[verdict]}" for verdict in claims["verdict"]]
    styler = shown.rename(columns=names).style.apply(lambda _: colours, subset=["verdict"])
    return _page("Claims", f"<p>Of {len(claims)} claims: {told}.</p>", _table(styler))


def ceilings_page(theory: pd.DataFrame) -> str:
    """The table `theory`, a row per run and a column per circuit."""
    shown = [
        f"{accuracy:.3f}" + (f" ± {error:.3f}" if error else "")
        for accuracy, error in zip(theory["accuracy"], theory["standard_error"], strict=True)
    ]
    wide = theory.assign(shown=shown).pivot_table(
        index=["run", "seed"], columns="circuit", values="shown", aggfunc="first", sort=False
    )
    wide.columns = [str(circuit).upper() for circuit in wide.columns]
    return _page("Ceilings", _table(wide.reset_index().style))


def run_times_page(runs: pd.DataFrame) -> str:
    """Steps, time and speed of every training in the table `runs`, slowest first, and all of it together."""
    told = f"<p>{len(runs)} trainings took {runs['seconds'].sum() / 3600:.1f} hours in all.</p>"
    shown = pd.DataFrame(
        {
            "run": runs["run"],
            "seed": runs["seed"],
            "steps": runs["steps"],
            "minutes": runs["seconds"].astype(float) / 60,
            "steps a second": (runs["steps"] / runs["seconds"].where(runs["seconds"] > 0)).astype(float),
        }
    ).sort_values("minutes", ascending=False, kind="stable")
    formats: dict[Any, Any] = {"steps": "{:,}", "minutes": "{:.1f}", "steps a second": "{:.0f}"}
    return _page("Run times", told, _table(shown.style.format(formats, na_rep="-")))


def provenance_page(configuration: Mapping[str, Any], folder: Path) -> str:
    """The code in a folder, this machine, the libraries, and the whole configuration."""
    libraries = {each.name: each.version for each in distributions()}
    config = yaml.safe_dump(dict(configuration), sort_keys=False, allow_unicode=True, width=100)
    facts = provenance(folder)
    return _page(
        "Provenance",
        _table(pd.DataFrame({"of": list(facts), "is": list(facts.values())}).style),
        f"<h2>Libraries</h2><p>{escape(', '.join(f'{name} {libraries[name]}' for name in sorted(libraries)))}</p>",
        f"<h2>Configuration</h2><pre>{escape(config)}</pre>",
    )


def film_page(gif: Path) -> str:
    """A page that plays a film."""
    data = b64encode(gif.read_bytes()).decode()
    return _page("Film", f'<img alt="{escape(gif.stem)}" src="data:image/gif;base64,{data}">')


def provenance(folder: Path) -> dict[str, str]:
    """Version, commit and machine: the code is that of `folder`."""
    return {
        "circuit-phases": circuit_phases.__version__,
        "commit": _commit(folder),
        "machine": f"{processor()}, {os.cpu_count()} processors, {psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": platform.platform(),
        "Python": platform.python_version(),
    }


def _commit(folder: Path) -> str:
    try:
        commit, changes = (
            subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "not known (no git checkout)"
    return commit + (" with changes that are not committed" if changes else "")


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _page(title: str, *parts: str) -> str:
    return PAGE.format(title=escape(title), body="\n".join(parts))


def _table(styler: Any) -> str:
    """A table without its index, every text escaped."""
    # A name of its own would be random, and equal tables make equal pages.
    table: str = styler.hide(axis="index").format_index(escape="html", axis="columns").to_html(uuid="table")
    return table
