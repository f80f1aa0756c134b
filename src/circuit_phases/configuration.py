"""config.yaml: experiments, the runs that they ask for, and the figures that use them."""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from circuit_phases.config_file import merged, read_values
from circuit_phases.figure_data import Moment, Series
from circuit_phases.figures import (
    ASKED_TABLES,
    DRAWINGS_OF_MAPS,
    FINDINGS,
    LLM_FIGURES,
    RUN_DRAWINGS,
    UNTRAINED_TABLES,
    WORLDS,
    tables_of_runs,
)
from circuit_phases.files import KEPT, UserError
from circuit_phases.llm.settings import LlmSettings
from circuit_phases.mistakes import RuleBroken, one_line
from circuit_phases.phases import PhaseSettings
from circuit_phases.schemas import TABLES
from circuit_phases.settings import (
    AttributionSettings,
    Device,
    Positive,
    RunSettings,
    Seed,
    Settings,
    nearest,
)

SEEDS_AT_MOST = 10_000
"""Of one experiment."""
MOST_SERIES = 10_000
"""Of one experiment, by `vary`."""
LONGEST_NAME = 100
"""Of experiments and figures, in letters: names of files hold some 250 bytes."""
RULES = frozenset({
    "all", "animate", "animations", "attribution", "circuits", "claims", "class_frequencies", "dataset",
    "example_attention", "figure", "figures", "finding", "findings", "headline", "llm", "llm_cutting", "llm_dataset",
    "llm_evaluation", "llm_figure", "llm_model", "llm_table", "phases", "report_pages", "table", "tables", "theory",
    "train",
})  # fmt: skip
"""The rules of the workflow; each figure gets one more, of its own name."""
TABLES_SECTION, OTHER_SECTION = "Tables", "Other experiments"
"""The first and the last section of the report: of tables, and of the figures that no section names."""


class Experiment(Settings):
    """One entry of `experiments`: fixed parameters, named series, varied ones, and seeds."""

    variant: str | None = Field(None, description="paper or released_code; null: the one under defaults")
    set: dict[str, Any] = Field({}, description="parameters of all its runs")
    series: dict[str, dict[str, Any]] = Field(
        {}, description="series by name, each with its own parameters; every combination with `vary` is run"
    )
    vary: dict[str, list[Any]] = Field({}, description="parameters to vary; every combination is run")
    seeds: tuple[Seed, ...] = Field((0,), description="training seeds: a number n (0 to n - 1) or a list")

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, seeds: Any) -> Any:
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            if not 1 <= seeds <= SEEDS_AT_MOST:
                raise RuleBroken(f"seeds = {seeds} is not allowed (1 to {SEEDS_AT_MOST}, or a list of seeds).")
            return tuple(range(seeds))
        if isinstance(seeds, list):
            if not seeds or len(set(map(str, seeds))) < len(seeds):
                raise RuleBroken(f"seeds = {seeds} is not allowed (a list without repeats, not empty).")
            return tuple(seeds)
        return seeds

    @field_validator("vary")
    @classmethod
    def _vary(cls, vary: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, values in vary.items():
            if not values:
                raise RuleBroken(f"vary.{name} = [] is not allowed (at least one value).")
            if any(value in values[:place] for place, value in enumerate(values)):
                raise RuleBroken(f"vary.{name} = {values} is not allowed (a list without repeats).")
        if (count := math.prod(map(len, vary.values()))) > MOST_SERIES:
            raise RuleBroken(f"vary = {count:,} combinations is not allowed (<= {MOST_SERIES:,}).")
        return vary

    @model_validator(mode="after")
    def _a_parameter_is_set_once(self) -> Self:
        for name, parameters in {"set": self.set, "vary": self.vary}.items():
            if self.variant is not None and "variant" in parameters:
                raise RuleBroken(f"variant = {self.variant} is not allowed ({name} sets variant too).")
        fixed = {"set": self.set} | {f"series.{name}": own for name, own in self.series.items()}
        for name, parameters in fixed.items():
            for key in self.vary.keys() & parameters.keys():
                raise RuleBroken(f"{name}: {key} = {parameters[key]} is not allowed (vary sets {key} too).")
        return self

    def combinations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The label of each configuration, empty if there is but one, and all of its own parameters.

        A parameter with one value under `vary` tells no series from another, so no label names it.
        """
        shared = ({"variant": self.variant} if self.variant else {}) | self.set
        for (name, own), values in itertools.product(
            self.series.items() or [("", {})], itertools.product(*self.vary.values())
        ):
            varied = dict(zip(self.vary, values, strict=True))
            told = [f"{key} = {written(value)}" for key, value in varied.items() if len(self.vary[key]) > 1]
            label = ", ".join([name] * bool(name) + told)
            yield label, shared | own | varied


def written(value: Any) -> str:
    """A value as config.yaml writes it: `true`, `null`, `[[self], [self, query_to_labels]]`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


class FigureEntry(Settings):
    """One entry of `figures`."""

    experiment: str = Field(description="the experiment that it is drawn from")
    draw: str | None = Field(None, description="the drawing; if it is left out, the figure's own name")
    maps: dict[str, tuple[Moment, ...]] = Field(
        {},
        description=(
            "drawings sweep_maps and maps: the series whose attention maps are shown, and when: "
            "early (on the first plateau), full (at 0.99 of its highest accuracy)"
        ),
    )

    @field_validator("maps", mode="before")
    @classmethod
    def _maps(cls, maps: Any) -> Any:
        if not isinstance(maps, dict):
            return maps
        return {name: tuple(moments) if isinstance(moments, list) else moments for name, moments in maps.items()}

    @field_validator("maps")
    @classmethod
    def _moments(cls, maps: dict[str, tuple[Moment, ...]]) -> dict[str, tuple[Moment, ...]]:
        for name, moments in maps.items():
            if not moments:
                raise RuleBroken(f"maps.{name}: [] is not allowed (early, full or both). Name one, or leave it out.")
            if len(set(moments)) < len(moments):
                raise RuleBroken(f"maps.{name}: [{', '.join(moments)}] is not allowed (a list without repeats).")
        return maps


class Configuration(Settings):
    """The whole of config.yaml."""

    results: str = Field("results", min_length=1, description="folder of all outputs; ~ is your home")
    scope: Literal["all", "headline"] = Field("all", description="all figures, or only those under headline")
    seeds_limit: Positive | None = Field(None, description="at most this many seeds of each experiment")
    device: Device = Field("auto", description="device to train on; auto: a CUDA card if any")
    seeds_together: Positive = Field(
        1,
        description="seeds of a configuration trained in one job as one batched model, for a GPU: docs/training.md",
    )
    analysis_sequences: Positive | None = Field(
        None,
        description=(
            "evaluation sequences that attention is averaged over; null: all. A mean over n has a standard error of "
            "at most 0.5 / sqrt(n)"
        ),
    )
    seconds_between_saves: float = Field(
        30, ge=0, allow_inf_nan=False, description="what a training job that dies can lose, in seconds"
    )
    defaults: dict[str, Any] = Field({}, description="variant and parameters of every run")
    experiments: dict[str, Experiment] = Field(description="the experiments, by name")
    figures: dict[str, FigureEntry] = Field(description="the figures, by name")
    headline: tuple[str, ...] = Field((), description="the figures of the target headline")
    report: dict[str, dict[str, str]] = Field(
        {},
        description="sections of the report, in order: their figures, and in reStructuredText what to look at in each",
    )
    phases: PhaseSettings = Field(PhaseSettings(), description="how phases are told apart")
    attribution: AttributionSettings = Field(AttributionSettings(), description="how causal attribution is measured")
    llm: LlmSettings = Field(LlmSettings(), description="the circuits in language models")

    @field_validator("results")
    @classmethod
    def _results(cls, results: str) -> str:
        if {"{", "}"} & set(results):
            raise RuleBroken(f"results = {results!r} is not allowed (Snakemake reads braces as wildcards).")
        if "\0" in results:
            raise RuleBroken(f"results = {results!r} is not allowed (no path holds a null).")
        try:
            folder = str(Path(results).expanduser())
        except RuntimeError:
            raise RuleBroken(f"results = {results!r} is not allowed (there is no such home).") from None
        if ("results", KEPT) in itertools.pairwise(Path(os.path.normpath(folder)).parts):
            raise RuleBroken(
                f"results = {results} is not allowed (no rule writes to what is kept). Set another folder."
            )
        return folder

    @field_validator("headline", mode="before")
    @classmethod
    def _headline(cls, names: Any) -> Any:
        return tuple(names) if isinstance(names, list) else names

    @field_validator("experiments", "figures")
    @classmethod
    def _names(cls, entries: dict[str, Any]) -> dict[str, Any]:
        for name in entries:
            if not re.fullmatch(r"\w[\w.=-]*", name):
                raise RuleBroken(f"{name!r} is not allowed as a name (letters, digits, _ and, within, . = -).")
            if len(name) > LONGEST_NAME:
                raise RuleBroken(f"{name} is not allowed as a name (at most {LONGEST_NAME} letters). Shorten it.")
        return entries

    @model_validator(mode="after")
    def _figures_are_known(self) -> Self:
        for name, figure in self.figures.items():
            if figure.experiment not in self.experiments:
                hint = nearest(figure.experiment, self.experiments)
                raise RuleBroken(f"figures.{name}: experiment = {figure.experiment} is not in experiments{hint}.")
            draw = figure.draw or name
            if draw not in RUN_DRAWINGS:
                choices = ", ".join(RUN_DRAWINGS)
                raise RuleBroken(f"figures.{name}: draw = {draw} is not a drawing (choose from {choices}).")
            if draw in DRAWINGS_OF_MAPS and not figure.maps:
                raise RuleBroken(
                    f"figures.{name}: maps is missing, which draw: {draw} shows. Add it by series, such as "
                    "maps: {T = 2: [full]}, or choose another drawing."
                )
            if figure.maps and draw not in DRAWINGS_OF_MAPS:
                raise RuleBroken(f"figures.{name}: maps needs draw: {' or '.join(sorted(DRAWINGS_OF_MAPS))}.")
        named = {figure.experiment for figure in self.figures.values()}
        for name in self.experiments:
            if name in self.figures and name not in named:
                raise RuleBroken(f"experiments.{name}: a figure of another experiment has this name. Rename one.")
        for name in (*self.figures, *self.experiments):
            if name in LLM_FIGURES:
                raise RuleBroken(f"{name}: a figure of the language models has this name. Rename it.")
        for name, figure in self.whole.figures_in_scope.items():
            if name in RULES or re.fullmatch(r"train_together_\d+", name):
                raise RuleBroken(
                    f"{name}: a rule of the workflow has this name, which a figure cannot have. Rename it."
                )
            if self.whole.drawing(name) in FINDINGS and name in TABLES:
                raise RuleBroken(f"figures.{name}: a table has this name, and {figure.draw} keeps one too. Rename it.")
        for name in self.headline:
            if name not in self.figures:
                drawn = f"{name}: {{experiment: {name}, draw: curves}}"
                way = f". Add it there: {drawn}" if name in self.experiments else nearest(name, self.figures)
                raise RuleBroken(f"headline: {name} is not in figures{way}.")
        return self

    @model_validator(mode="after")
    def _the_report_is_of_figures(self) -> Self:
        known = {*self.figures, *self.experiments, *LLM_FIGURES}
        places: dict[str, str] = {}
        for section, captions in self.report.items():
            for name in captions:
                if name not in known:
                    raise RuleBroken(f"report.{section}: {name} is not in figures{nearest(name, known)}.")
                if name in places:
                    raise RuleBroken(f"report.{section}: {name} stands in {places[name]!r} too. Remove one.")
                places[name] = section
        return self

    @model_validator(mode="after")
    def _experiments_are_valid(self) -> Self:
        try:
            RunSettings.from_parameters(**self.defaults)
        except RuleBroken as error:
            raise RuleBroken(f"defaults: {error}") from error
        for name in self.experiments:
            label_of_runs: dict[frozenset[tuple[str, int]], str] = {}
            for member, settings in self.series(name):
                runs = frozenset((settings.at_seed(seed).name, seed) for seed in member.seeds)
                if runs in label_of_runs:
                    same = f"{label_of_runs[runs]!r} and {member.label!r}"
                    raise RuleBroken(f"experiments.{name}: the series {same} are the same run. Remove one.")
                label_of_runs[runs] = member.label
                interval = settings.training.evaluation_interval
                if self.phases.dt % interval:
                    raise RuleBroken(
                        f"phases.dt = {self.phases.dt} is not allowed (a multiple of evaluation_interval = {interval}, "
                        f"as experiments.{name} has it)."
                    )
        for name, figure in self.figures.items():
            draw = figure.draw or name
            series = self.series(figure.experiment)
            labels = [each.label for each, _ in series]
            for (key, value), (_, settings) in itertools.product(WORLDS.get(draw, {}).items(), series):
                if (found := getattr(settings.world, key)) != value:
                    raise RuleBroken(
                        f"figures.{name}: draw = {draw} needs {key} = {value}, and experiments.{figure.experiment} has "
                        f"{key} = {found}. Set it there, or choose another drawing."
                    )
            for label in figure.maps.keys() - set(labels):
                raise RuleBroken(
                    f"figures.{name}: maps.{label} is not a series of it (choose from {', '.join(labels)})."
                )
        return self

    @property
    def whole(self) -> Self:
        """The same with all figures and all seeds."""
        return self.model_copy(update={"scope": "all", "seeds_limit": None})

    def series(self, experiment: str) -> list[tuple[Series, RunSettings]]:
        """The configurations of an experiment, in order, with the label of each."""
        entry = self.experiments[experiment]
        seeds = entry.seeds[: self.seeds_limit]
        found = []
        for label, parameters in entry.combinations():
            try:
                settings = RunSettings.from_parameters(**self.defaults | parameters)
            except RuleBroken as error:
                raise RuleBroken(f"experiments.{experiment}: {error}") from error
            found.append((Series(label or experiment, settings.name, seeds), settings))
        return found

    def kept_series(self, experiment: str) -> list[tuple[Series, RunSettings]]:
        """The same, apart by the name that runs are kept under: two where a seed is its world's too (`at_seed`)."""
        found = []
        for series, settings in self.series(experiment):
            seeds: dict[str, list[int]] = {}
            for seed in series.seeds:
                seeds.setdefault(settings.at_seed(seed).name, []).append(seed)
            found += [(replace(series, run=name, seeds=tuple(each)), settings) for name, each in seeds.items()]
        return found

    def runs_of(self, experiment: str) -> list[RunSeed]:
        """The runs of an experiment, one for each seed of each series."""
        return [
            RunSeed(settings.at_seed(seed), seed)
            for series, settings in self.series(experiment)
            for seed in series.seeds
        ]

    def figure_series(self, figure: str) -> list[tuple[Series, RunSettings]]:
        """The configurations that a figure draws."""
        entry = self.figures_in_scope[figure]
        return [
            (replace(series, maps=entry.maps.get(series.label, ())), settings)
            for series, settings in self.series(entry.experiment)
        ]

    def drawing(self, figure: str) -> str:
        """The drawing that a figure uses."""
        return self.figures_in_scope[figure].draw or figure

    def section(self, figure: str) -> str:
        """The section of the report that a figure stands in, with its number."""
        return self.numbered_section(
            next((title for title, captions in self.report.items() if figure in captions), OTHER_SECTION)
        )

    def numbered_section(self, title: str) -> str:
        """The title of a section with its number, by which the report sorts."""
        titles = [TABLES_SECTION, *self.report, OTHER_SECTION]
        return f"{titles.index(title):0{len(str(len(titles) - 1))}d}. {title}"

    @property
    def figures_in_scope(self) -> dict[str, FigureEntry]:
        """The figures to make; an experiment that no figure names gets its curves drawn under its own name."""
        if self.scope == "headline":
            return {name: self.figures[name] for name in self.headline}
        named = {figure.experiment for figure in self.figures.values()}
        curves = {name: FigureEntry(experiment=name, draw="curves") for name in self.experiments if name not in named}
        return curves | self.figures

    @property
    def evaluations(self) -> list[tuple[str, str, str]]:
        """(model, revision, data set) of every evaluation in scope: the headline has none."""
        if self.scope == "headline":
            return []
        return [
            (each.model, revision, each.dataset)
            for each in self.llm.evaluate
            for revision in self.llm.models[each.model].names
        ]

    @property
    def cuts_in_scope(self) -> bool:
        """Whether attention is cut: where there are demonstrations, and metrics to cut."""
        return bool(self.evaluations) and max(self.llm.prompts.shots) > 0 and bool(self.llm.cuts.metrics)

    @property
    def llm_figures(self) -> list[str]:
        """The figures of the language models that have something to show."""
        several = any(len(self.llm.models[each.model].names) > 1 for each in self.llm.evaluate)
        shown = {"llm_cuts": self.cuts_in_scope, "llm_revisions": several}
        return [name for name in LLM_FIGURES if self.evaluations and shown.get(name, True)]

    def run_seeds(self, table: str) -> list[RunSeed]:
        """Every run and seed, once, whose rows of a table some figure in scope needs.

        `runs` is needed by every figure of trained runs, and so is all else but the tables made when asked for.
        """
        needed: dict[tuple[str, int], RunSeed] = {}
        for name, figure in self.figures_in_scope.items():
            tables = tables_of_runs(figure.draw or name)
            everywhere = table not in UNTRAINED_TABLES | ASKED_TABLES
            if table in tables or (everywhere and not UNTRAINED_TABLES.issuperset(tables)):
                for each in self.runs_of(figure.experiment):
                    needed[each.settings.name, each.seed] = each
        return list(needed.values())

    def seed_groups(self, run_seeds: Iterable[RunSeed]) -> list[tuple[str, list[int]]]:
        """Each configuration's seeds in groups of at most `seeds_together`."""
        seeds: dict[str, list[int]] = {}
        for each in run_seeds:
            seeds.setdefault(each.settings.name, []).append(each.seed)
        size = self.seeds_together
        return [
            (run, of_run[first : first + size])
            for run, of_run in seeds.items()
            for first in range(0, len(of_run), size)
        ]


@dataclass(frozen=True)
class RunSeed:
    """One training: a configuration and a seed."""

    settings: RunSettings
    seed: int

    @property
    def world_seed(self) -> int:
        """The seed of its world."""
        return self.settings.resolved_world_seed(self.seed)

    @property
    def dataset(self) -> str:
        """The name of its world."""
        return self.settings.dataset_name(self.seed)


def load_configuration(path: Path | str, /, *overlays: Path | str, **changes: Any) -> Configuration:
    """Read and check a config file, with overlays and then changes of top-level values over it, as Snakemake does.

    Raises:
        UserError: one line with the key, the value and the way out.
    """
    paths = path, *overlays
    return parse_configuration(
        functools.reduce(merged, [*map(read_values, paths), changes]), ", ".join(map(str, paths))
    )


def parse_configuration(values: dict[str, Any], source: str = "config.yaml") -> Configuration:
    """Check the values of a config file.

    Raises:
        UserError: one line with the key, the value and the way out.
    """
    try:
        return Configuration.model_validate(values)
    except ValidationError as error:
        raise UserError(" ".join(f"{source}: {one_line(error)}".split())) from error
