"""Write the pages that follow from the code and from the tables of the finished runs (`make docs`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic.fields import FieldInfo

from circuit_phases import schemas, stages, tables
from circuit_phases.claims import TABLES as CLAIM_TABLES
from circuit_phases.claims import claims_table
from circuit_phases.configuration import Configuration, Experiment, FigureEntry, load_configuration
from circuit_phases.llm.settings import (
    CutSettings,
    DatasetSource,
    Evaluation,
    LlmSettings,
    ModelSource,
    PromptSettings,
)
from circuit_phases.phases import PhaseSettings
from circuit_phases.settings import GROUPS, VARIANTS, AttributionSettings, ForbiddenEdges, RunSettings, Settings

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
REFERENCE = ROOT / "results" / "reference" / "tables"
MADE_BEGIN, MADE_END = "<!-- made by `make docs` -->\n", "<!-- end -->\n"
"""Around the part of a page that is made anew."""


def tables_page() -> str:
    """Every table: where it lies, and each column."""
    parts = [
        "# Tables\n\n",
        "Every table is tidy Parquet; each field's meaning also stands in the file's own schema metadata.\n"
        "Tasks, classes, labels, layers, heads and token positions count from 1.\n"
        "Tokens stand in the order x1 l1 ... xN lN xq.\n\n",
        "`results/tables/` holds each of these over all runs, `class_frequencies` only when it is asked for\n"
        "(`snakemake results/tables/class_frequencies.parquet`);\n"
        "`results/runs/RUN/seed-SEED/` the rows of one run (there `runs` is called `run.parquet`).\n",
    ]
    for name, schema in schemas.RUN_TABLES.items():
        parts.append(_table(f"{name}.parquet", schema))
    parts.append(
        "\n## Over many runs\n\nThese lie in `results/tables/` alone, but for the comparison, which lies where\n"
    )
    parts.append(
        "`circuit-phases compare` is told. Each but `claims` is kept for every figure with that drawing, under\n"
    )
    parts.append("the figure's name: `abilities_T.parquet` has the columns of `abilities`.\n")
    findings = {"claims": schemas.CLAIMS, **schemas.FINDING_TABLES}
    parts += [_table(f"{name}.parquet", schema, level=3) for name, schema in findings.items()]
    parts.append(_table("the comparison", schemas.COMPARISON, level=3))
    parts.append("\n# Tables of the language models\n\n`results/tables/` holds them over all models.\n")
    parts += [_table(f"{name}.parquet", schema) for name, schema in schemas.LLM_TABLES.items()]
    parts.append("\nOf every shard, below `results/llm/evaluations/MODEL/REVISION/DATASET/`:\n")
    shards = {"answers.parquet, cuts.parquet": schemas.LLM_ANSWERS, "sums.parquet": schemas.LLM_SUMS}
    parts += [_table(name, schema, level=3) for name, schema in shards.items()]
    parts.append("\n# Worlds\n\nOne folder a world, `results/datasets/WORLD/`.\n")
    parts += [_table(f"{name}.parquet", schema) for name, schema in schemas.WORLD_TABLES.items()]
    return "".join(parts)


def parameters_page() -> str:
    """Every key of config.yaml with its default and meaning."""
    parts = ["# Parameters\n\nWhat can stand in `config.yaml`; `docs/configuration.md` shows how it fits together.\n"]
    parts.append(_keys("Top level", Configuration.model_fields))
    parts.append(_keys("One experiment", Experiment.model_fields))
    parts.append(_keys("One figure", FigureEntry.model_fields))
    parts.append(
        "\n# Parameters of a run\n\nThey stand under `defaults`, or in an experiment under `set`, `series`, `vary`.\n"
    )
    titles = {"world": "World (paper, Sec. 3)", "model": "Model", "training": "Training"}
    parts += [_keys(titles[group], cls.model_fields) for group, cls in GROUPS.items()]
    parts.append(_keys("Seed of the world", {"world_seed": RunSettings.model_fields["world_seed"]}))
    parts.append(_keys("Edges that are forbidden", ForbiddenEdges.model_fields))
    parts.append(_keys("Phases", PhaseSettings.model_fields))
    parts.append(_keys("Causal attribution", AttributionSettings.model_fields))
    parts.append("\n# Language models\n\nWhat can stand under `llm`; `docs/llm.md` shows how it fits together.\n")
    sections = {
        "The section": LlmSettings,
        "One model": ModelSource,
        "One data set": DatasetSource,
        "One evaluation": Evaluation,
        "Prompts": PromptSettings,
        "Cuts": CutSettings,
    }
    parts += [_keys(title, cls.model_fields) for title, cls in sections.items()]
    parts.append("\n# Variants\n\n")
    for variant, bundle in VARIANTS.items():
        changes = ", ".join(f"`{key}: {_value(value)}`" for key, value in bundle.items()) or "the defaults above"
        parts.append(f"- `{variant}`: {changes}\n")
    return "".join(parts)


def seeds_page() -> str:
    """Each seed of the reference run: which phases came, when, at what accuracy, how near to the ceiling."""
    phases, runs, theory, training = (
        tables.read_frame(REFERENCE / f"{name}.parquet", schemas.RUN_TABLES[name])
        for name in ("phases", "runs", "theory", "training")
    )
    phases = phases[phases["rule"] == "plateau"]
    training = training[(training["split"] == "iid") & training["task"].isna()]
    accuracy = training.set_index(["run", "seed", "step"])["accuracy"]
    parts = [
        "# Seed by seed\n\n",
        "Made by `make docs` from [results/reference/tables](../results/reference/tables): the phases of every\n"
        "training run, as steps from-to at the median accuracy, with the distance to the circuit's exact ceiling.\n"
        "Phases 1, 2, 3 are plateaus at the ceilings of NCC, SCC and FCC; a dash means that there was none.\n"
        "Plateaus at no ceiling are not listed: they stand in phases.parquet without a phase.\n",
    ]
    for name, group in runs.groupby("run", sort=True):
        parts.append(f"\n## {name}\n\n| seed | ceilings NCC / SCC / FCC | Phase 1 | Phase 2 | Phase 3 | ")
        parts.append("steps | last accuracy |\n|---|---|---|---|---|---|---|\n")
        for row in group.sort_values("seed").itertuples():
            mine = (phases["run"] == name) & (phases["seed"] == row.seed)
            best = theory[(theory["run"] == name) & (theory["seed"] == row.seed)].set_index("circuit")["accuracy"]
            cells = [_phase_cell(phases[mine & (phases["phase"] == phase)]) for phase in (1, 2, 3)]
            ceilings = " / ".join(f"{best[circuit]:.3f}" for circuit in ("ncc", "scc", "fcc"))
            last = accuracy[name, row.seed, row.steps]
            parts.append(f"| {row.seed} | {ceilings} | {' | '.join(cells)} | {row.steps:,} | {last:.4f} |\n")
    return "".join(parts)


def reproduction_page() -> str:
    """The page as it is written, with the table of claims made anew."""
    return _made_anew("reproduction.md", _claims())


def training_page() -> str:
    """The page as it is written, with the table of what a step costs made anew."""
    return _made_anew("training.md", _costs())


def _made_anew(page: str, part: str) -> str:
    before, _, rest = (FOLDER / page).read_text().partition(MADE_BEGIN)
    return before + MADE_BEGIN + part + MADE_END + rest.partition(MADE_END)[2]


def _costs() -> str:
    folder = ROOT / "results" / "reference" / "benchmarks"
    table = pd.read_csv(folder / "table.csv", index_col=0)
    columns = {
        "textbook": "textbook (ms)",
        "fast": "fast, eager (ms)",
        "compiled": "fast, compiled (ms)",
        "data": "of it data (ms)",
        "bound": "bound (ms)",
        "textbook / compiled": "textbook / compiled",
        "bound / compiled": "bound / compiled",
        "evaluation share": "evaluation, share of all",
    }
    forms = {"data": "{:.2f}", "bound / compiled": "{:.2f}", "evaluation share": "{:.0%}"}
    lines = [f"| | {' | '.join(columns.values())} |\n", "|---" * (1 + len(columns)) + "|\n"]
    for name, row in table.iterrows():
        cells = [forms.get(column, "{:.1f}").format(row[column]) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
    return "".join([*lines, f"\nMachine: {(folder / 'machine.txt').read_text().strip()}.\n"])


def _claims() -> str:
    configuration = load_configuration(ROOT / "config.yaml")
    experiments = {
        name: [(series, settings.parameters) for series, settings in configuration.kept_series(name)]
        for name in configuration.experiments
    }
    found = claims_table(
        experiments, stages.claim_evidence({name: REFERENCE / f"{name}.parquet" for name in CLAIM_TABLES})
    )
    counts = found["verdict"].value_counts()
    told = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("reproduced", "not reproduced", "unclear"))
    lines = [f"\nOf {len(found)} claims: {told}.\n\n"]
    lines.append("| figure | the paper | what must hold in a run | came out | runs | numbers, by series and seed |\n")
    lines.append("|---|---|---|---|---|---|\n")
    for row in found.itertuples():
        verdict = f"{row.verdict} ({row.reason})" if row.verdict == "unclear" else row.verdict
        runs = f"{row.runs_held} of {row.runs_decided}"
        lines.append(f"| {row.figure} | {row.paper} | {row.rule} | {verdict} | {runs} | {row.numbers or '-'} |\n")
    return "".join([*lines, "\n"])


def _phase_cell(rows: pd.DataFrame) -> str:
    return (
        "; ".join(
            f"{row.start_step:,} to {row.end_step:,} at {row.accuracy:.3f} ({row.accuracy - row.ceiling:+.3f})"
            for row in rows.itertuples()
        )
        or "-"
    )


def _table(name: str, schema: pa.Schema, level: int = 2) -> str:
    heading = f"\n{'#' * level} {name}\n\n{schema.metadata[b'description'].decode()}.\n"
    lines = [heading, "\n| column | type | meaning |\n|---|---|---|\n"]
    lines += [f"| {field.name} | {field.type} | {field.metadata[b'description'].decode()} |\n" for field in schema]
    return "".join(lines)


def _keys(title: str, fields: dict[str, FieldInfo]) -> str:
    lines = [f"\n## {title}\n\n| key | default | meaning |\n|---|---|---|\n"]
    for name, field in fields.items():
        default = "required" if field.is_required() else f"`{_value(field.default)}`"
        if isinstance(field.default, Settings):
            default = "see below"
        lines.append(f"| `{name}` | {default} | {field.description} |\n")
    return "".join(lines)


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value).replace("\n", "\\n")


PAGES = {
    "tables.md": tables_page,
    "parameters.md": parameters_page,
    "seeds.md": seeds_page,
    "reproduction.md": reproduction_page,
    "training.md": training_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
