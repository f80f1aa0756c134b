"""Every parameter of a run, by the paper's symbols, with the rules that hold across them.

The defaults are the paper's (Sec. 3 and 4); `VARIANTS` lists the departures of its released code.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from math import log10
from typing import Annotated, Any, Literal, NoReturn, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from circuit_phases.mistakes import RuleBroken, one_line

EdgeFamily = Literal["causal", "self", "query_to_self", "query_to_labels", "label_to_item"]

SplitOfClasses = Literal["iid", "random_label", "copy", "novel_task", "conflict", "no_context"]
"""The frozen splits of the world's own classes, which every task has a label for."""

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)

LARGEST_COUNT = 2**31 - 1
"""No count goes above, and what is computed of it stays whole."""
Positive = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Natural = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""As many as a table's column of whole numbers holds."""
LARGEST = 1e6
"""No float goes above: what is computed of it stays finite."""


class Settings(BaseModel):
    """A frozen group of parameters; unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WorldSettings(Settings):
    """The world of In-Context Meta-Learning: classes, labels, tasks and how sequences are drawn."""

    T: Positive = Field(3, description="number of tasks")
    K: Positive = Field(64, description="number of item classes")
    L: Positive = Field(32, description="number of labels")
    N: Positive = Field(4, description="(item, label) pairs in the context")
    D: Positive = Field(63, description="content dimensions of a token")
    P: Positive = Field(65, description="one-hot position dimensions of a token")
    eps: float = Field(0.1, ge=0, le=LARGEST, description="within-class noise")
    p_B: float = Field(
        0.0, ge=0, le=1, description="probability that a sequence is bursty: its query's class is in the context"
    )
    B: Positive = Field(1, description="times that each class of a bursty context appears in it")
    alpha: float = Field(0.0, ge=0, le=LARGEST, description="class frequencies f(k) ~ k^-alpha")
    beta: float = Field(0.0, ge=0, le=LARGEST, description="task frequencies f(tau) ~ tau^-beta")
    label_tables: Literal["independent", "shifted", "balanced", "disjoint"] = Field(
        "independent",
        description=(
            "independent: every label drawn uniformly; shifted: (base label + tau) mod L, as released; "
            "balanced: each label K/L times per task; disjoint: K = L, no label twice in a task, "
            "no pair shared between tasks"
        ),
    )
    positions: Literal["fixed", "random", "pairs"] = Field(
        "fixed",
        description=(
            "fixed: tokens stand at 0..2N; random: from a random offset, as in the paper's text; "
            "pairs: items stand at 0..N and labels carry no position, as released"
        ),
    )
    query: Literal["excluded", "any"] = Field(
        "excluded",
        description=(
            "excluded: the query's class is not in a context that is not bursty; any: it may be, by chance, as released"
        ),
    )
    more_labels_than_classes: bool = Field(False, description="lifts the paper's rule L <= K")
    evaluation_sequences: Positive = Field(4096, description="sequences in the frozen splits iid and random_label")
    ability_sequences: Natural = Field(256, description="sequences in each of the other frozen splits; 0: none of them")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        S = self.S
        if self.L > self.K and not self.more_labels_than_classes:
            _forbid("L", self.L, f"L <= K = {self.K}, or set more_labels_than_classes: true")
        if self.N % self.B:
            _forbid("B", self.B, f"B must divide N = {self.N}")
        if self.positions != "pairs" and self.P < S:
            _forbid("P", self.P, f"P >= 2N + 1 = {S}, one position per token")
        if self.positions == "pairs" and self.P < self.N + 1:
            _forbid("P", self.P, f"P >= N + 1 = {self.N + 1}, one position per item")
        if self.p_B < 1 and self.query == "excluded" and self.N >= self.K:
            _forbid("N", self.N, f"N < K = {self.K} unless p_B = 1, since the query's class stays out of the context")
        if self.p_B < 1 and self.N > self.K:
            _forbid("N", self.N, f"N <= K = {self.K} unless p_B = 1, since the context's classes differ")
        if self.N // self.B > self.K:
            _forbid("N", self.N, f"N / B <= K = {self.K}, since a bursty context holds N / B classes")
        # The rarest classes count in the exact ceilings as differences from 1: about 1e-16 (N + 2)^alpha is lost.
        most = round(8 / log10(self.N + 2), 1)
        if self.alpha > most:
            _forbid("alpha", self.alpha, f"<= {most} with N = {self.N}, up to where ceilings are exact")
        if self.label_tables == "shifted" and self.T > self.L:
            _forbid("T", self.T, f"T <= L = {self.L} with shifted label tables, or tasks coincide")
        if self.label_tables == "balanced" and self.K % self.L:
            _forbid("K", self.K, f"K must be a multiple of L = {self.L} with balanced label tables")
        if self.label_tables == "disjoint":
            if self.K != self.L:
                _forbid("K", self.K, f"K = L = {self.L} with disjoint label tables")
            if self.T > self.L:
                _forbid("T", self.T, f"T <= L = {self.L} with disjoint label tables")
        return self

    @property
    def S(self) -> int:
        """Tokens in a sequence, x1 l1 ... xN lN xq: 2N + 1."""
        return 2 * self.N + 1


def _in_order(edges: tuple[EdgeFamily, ...]) -> tuple[EdgeFamily, ...]:
    return tuple(sorted(set(edges)))


class ForbiddenEdges(Settings):
    """Edges that attention must do without for a stretch of training, from_step <= step < until_step."""

    layer: Positive = Field(description="attention layer, from 1")
    edges: tuple[EdgeFamily, ...] = Field(strict=False, min_length=1, description="edge families")
    from_step: Natural = Field(0, description="first step without them")
    until_step: Positive | None = Field(None, description="first step with them again; null: never")

    @field_validator("edges")
    @classmethod
    def _edges(cls, edges: tuple[EdgeFamily, ...]) -> tuple[EdgeFamily, ...]:
        return _in_order(edges)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.until_step is not None and self.until_step <= self.from_step:
            _forbid("until_step", self.until_step, f"until_step > from_step = {self.from_step}")
        return self


class ModelSettings(Settings):
    """The network (paper, Sec. 3; appendix for the standard transformer)."""

    architecture: Literal["attention_only", "standard_transformer"] = Field(
        "attention_only",
        description="standard_transformer: layer norm after attention and a feed-forward of 4 x width in each layer",
    )
    layers: Positive = Field(2, description="attention layers")
    heads: Positive = Field(1, description="attention heads per layer (the paper's m)")
    head_width: Literal["full", "split"] = Field(
        "full",
        description="full: each head is P + D wide, as in the paper's text; split: heads share that width, as released",
    )
    output_projection: bool = Field(True, description="whether the output matrix W_O follows the heads")
    hidden_layers: Annotated[int, Field(ge=0, le=2)] = Field(
        1, description="hidden ReLU layers of the classifier; 0: a linear read-out"
    )
    label_vectors: Literal["fixed", "learned"] = Field(
        "fixed",
        description="fixed: D random numbers per label; learned: P + D trained numbers per label, as released",
    )
    masks: tuple[tuple[EdgeFamily, ...], ...] | None = Field(
        None, description="per layer, the edge families that attention keeps; null: every causal edge"
    )
    forbidden: tuple[ForbiddenEdges, ...] | None = Field(
        None,
        min_length=1,
        description=(
            "edges that attention must do without, each for a stretch of training: layer, edges, from_step (0), "
            "until_step (null: to the end); null: none"
        ),
    )
    loss: Literal["last_label", "every_label"] = Field(
        "last_label", description="whether only the query's label is predicted in training, or every item's"
    )

    @model_validator(mode="before")
    @classmethod
    def _lists_as_tuples(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        rows = {name: values[name] for name in ("masks", "forbidden") if isinstance(values.get(name), list)}
        return values | {
            name: tuple(tuple(row) if isinstance(row, list) else row for row in those) for name, those in rows.items()
        }

    @field_validator("masks")
    @classmethod
    def _masks(
        cls, masks: tuple[tuple[EdgeFamily, ...], ...] | None, others: ValidationInfo
    ) -> tuple[tuple[EdgeFamily, ...], ...] | None:
        """Equal masks as equal values, however they are written, so that runs with them are one run."""
        if masks is None or (len(masks) == others.data.get("layers") and all("causal" in row for row in masks)):
            return None
        return tuple(("causal",) if "causal" in row else _in_order(row) for row in masks)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.masks is not None and len(self.masks) != self.layers:
            _forbid("masks", f"{len(self.masks)} rows", f"one row of edge families per layer, here {self.layers}")
        for each in self.forbidden or ():
            if each.layer > self.layers:
                _forbid("forbidden", f"layer {each.layer}", f"layers are 1 to {self.layers}")
        if not self.output_projection and self.head_width == "full" and self.heads > 1:
            _forbid(
                "output_projection",
                "false",
                "heads of full width need W_O to fit the residual stream: set head_width: split or heads: 1",
            )
        if self.architecture == "standard_transformer" and self.hidden_layers:
            _forbid("hidden_layers", self.hidden_layers, "0 with the standard transformer: its read-out is linear")
        return self

    @property
    def mask_changes(self) -> tuple[int, ...]:
        """The steps from which on other edges are forbidden than before, in order, the first 0."""
        ends = {step for each in self.forbidden or () for step in (each.from_step, each.until_step)}
        return tuple(sorted({0, *(step for step in ends if step is not None)}))


class TrainingSettings(Settings):
    """Stochastic gradient descent on fresh sequences (paper, Sec. 3)."""

    learning_rate: float = Field(0.01, gt=0, le=1e38, description="step size of plain gradient descent")
    batch_size: Positive = Field(128, description="fresh sequences per step")
    max_steps: Positive = Field(200_000, description="steps of gradient descent (the paper: 1e5 to 1e6)")
    evaluation_interval: Positive = Field(100, description="steps between evaluations")
    checkpoints: Annotated[int, Field(ge=2, le=LARGEST_COUNT)] = Field(
        80, description="saved weights, about, from step 0 to the last"
    )
    checkpoint_spacing: Literal["log", "linear"] = Field("log", description="how the saved steps are spaced")
    checkpoint_megabytes: Positive = Field(
        55, description="most room that saved weights take in all (MB); a bigger model saves fewer: docs/training.md"
    )
    stop_after: Natural = Field(
        20,
        description=(
            "evaluations in a row at accuracy 0.999 or more after which training stops, since nothing is left "
            "to learn; 0: never, as in the paper"
        ),
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.max_steps % self.evaluation_interval:
            _forbid(
                "max_steps",
                self.max_steps,
                f"max_steps must be a multiple of evaluation_interval = {self.evaluation_interval}",
            )
        return self


class AttributionSettings(Settings):
    """How causal attribution is measured."""

    sequences: Annotated[int, Field(ge=2, le=LARGEST_COUNT)] = Field(
        1024, description="sequences that each intervention is made on: the first of a frozen split"
    )
    splits: tuple[SplitOfClasses, ...] = Field(
        ("iid",), strict=False, min_length=1, description="frozen splits that interventions are made on, iid among them"
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if "iid" not in self.splits:
            _forbid("splits", ", ".join(self.splits), "iid must be among them, since figures draw it")
        return self


def _forbid(key: str, value: object, rule: str) -> NoReturn:
    raise RuleBroken(f"{key} = {value} is not allowed ({rule}).")


GROUPS: dict[str, type[Settings]] = {"world": WorldSettings, "model": ModelSettings, "training": TrainingSettings}
PARAMETERS: dict[str, str] = {name: group for group, cls in GROUPS.items() for name in cls.model_fields}

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released_code": {
        "label_tables": "shifted",
        "positions": "pairs",
        "query": "any",
        "head_width": "split",
        "output_projection": False,
        "hidden_layers": 2,
        "label_vectors": "learned",
    },
}


class RunSettings(Settings):
    """One configuration: everything that decides a run but its seed."""

    world: WorldSettings = WorldSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    world_seed: Seed | None = Field(None, description="the world's seed; null: the training's own seed")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        width = self.world.P + self.world.D
        if self.model.head_width == "split" and width % self.model.heads:
            _forbid("heads", self.model.heads, f"split heads must divide P + D = {width}")
        for each in self.model.forbidden or ():
            if each.from_step > self.training.max_steps:
                _forbid(
                    "forbidden", f"from_step {each.from_step}", f"from_step <= max_steps = {self.training.max_steps}"
                )
        return self

    @classmethod
    def from_parameters(cls, variant: str = "paper", **parameters: Any) -> Self:
        """Build from flat parameters over a variant's bundle, e.g. `from_parameters(T=2, heads=2)`.

        Raises:
            RuleBroken: for an unknown variant or parameter, or a value that is not allowed.
        """
        if not isinstance(variant, str) or variant not in VARIANTS:
            raise RuleBroken(f"variant = {variant!r} is not known (choose from {', '.join(VARIANTS)}).")
        merged = VARIANTS[variant] | parameters
        grouped: dict[str, Any] = {group: {} for group in GROUPS}
        for name, value in merged.items():
            if name in PARAMETERS:
                grouped[PARAMETERS[name]][name] = value
            elif name == "world_seed":
                grouped[name] = value
            else:
                raise RuleBroken(
                    f"{name} = {value!r}: there is no such parameter{nearest(name, [*PARAMETERS, 'world_seed'])}."
                )
        try:
            return cls.model_validate(grouped)
        except ValidationError as error:
            raise RuleBroken(one_line(error, unnamed=GROUPS)) from None

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters, flat; `world_seed` is null where it follows the training's seed."""
        groups = self.model_dump()
        seed = groups.pop("world_seed")
        return {name: value for group in groups.values() for name, value in group.items()} | {"world_seed": seed}

    @property
    def name(self) -> str:
        """The name of the configuration: its variant, then what differs from it, e.g. `paper,T=2,heads=2`.

        Equal parameters have equal names and different ones different names.
        """
        variant, differences = min(
            ((variant, self._differences(bundle)) for variant, bundle in VARIANTS.items()),
            key=lambda pair: (len(pair[1]), pair[0] != "paper"),
        )
        return _file_name([variant, *differences])

    def dataset_name(self, seed: int) -> str:
        """The name of the world that the run with this training seed is trained on."""
        differences = self._differences({}, WorldSettings.model_fields)
        return _file_name(["world", *differences, f"seed={self.resolved_world_seed(seed)}"])

    def resolved_world_seed(self, seed: int) -> int:
        """The world's seed for the run with this training seed."""
        return seed if self.world_seed is None else self.world_seed

    def at_seed(self, seed: int) -> Self:
        """The settings that the run with this training seed is named by: a world's seed equal to it goes unsaid.

        So a run is trained once, whether its world's seed was given or follows the training's.
        """
        return self.model_copy(update={"world_seed": None}) if self.world_seed == seed else self

    def _differences(self, bundle: dict[str, Any], among: Any = None) -> list[str]:
        base = DEFAULTS | bundle
        mine = self.parameters
        return [
            f"{key}={_short(value)}"
            for key, value in mine.items()
            if (among is None or key in among) and value != base[key]
        ]


DEFAULTS: dict[str, Any] = RunSettings().parameters


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(_short_forbidden(row) if isinstance(row, dict) else ".".join(row) for row in value)
    if isinstance(value, float):
        # The shortest exact text, with whole numbers and minus zero as people write them.
        return repr(value + 0.0).removesuffix(".0")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short_forbidden(each: dict[str, Any]) -> str:
    stretch = each["from_step"], each["until_step"]
    when = [] if stretch == (0, None) else [f"{stretch[0]}-{stretch[1] or 'end'}"]
    return ".".join([f"layer{each['layer']}", *each["edges"], *when])


def _file_name(parts: list[str]) -> str:
    name = ",".join(parts)
    if len(name) <= 120:
        return name
    # Snakemake hands names on piece by piece, each of which needs its "="; half a number would be read as another.
    kept = re.sub(r",[^=,]*$|,[^=,]*=[-+.\de]*$", "", name[:103])
    return f"{kept}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most like a mistaken one, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""
