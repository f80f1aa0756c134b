"""The paper's claims, what it takes to see them, and what the tables say of each.

To add a claim, add an entry to `CLAIMS`; its test stands in `claim_tests.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from circuit_phases import claim_tests as tests
from circuit_phases.claim_tests import Finding, Test, each
from circuit_phases.evidence import Trained, trained
from circuit_phases.figure_data import FigureData, Series

AGREEMENT = 0.8
"""Share of the runs that must agree: the paper shows averages over seeds, where one in five does not show."""
TOLD = 0.5
"""Least share of the runs asked for that must be there and able to tell."""
TABLES = ("runs", "training", "circuits", "phases", "theory")
"""The tables that the tests read."""
SPLITS = ("iid", "random_label")
"""The splits that the tests read: the paper's."""


Parameters = Mapping[str, Any]

MASKS = {
    1: ({"self"}, {"self"}),
    2: ({"query_to_labels", "query_to_self"}, {"query_to_self"}),
    3: ({"label_to_item", "self"}, {"query_to_labels", "query_to_self"}),
}
"""The edges of each phase's circuit in layers 1 and 2."""


def everything(_: Parameters) -> bool:
    """All series of the experiments."""
    return True


def only(**values: object) -> Callable[[Parameters], bool]:
    """The series whose parameters have these values."""
    return lambda parameters: all(parameters[name] == value for name, value in values.items())


def at_least(**values: float) -> Callable[[Parameters], bool]:
    """The series whose parameters have these values or more."""
    return lambda parameters: all(parameters[name] >= value for name, value in values.items())


def only_edges(phase: int) -> Callable[[Parameters], bool]:
    """The series whose masks leave exactly the edges of one phase's circuit."""
    return lambda parameters: tuple(map(set, parameters["masks"] or ())) == MASKS[phase]


def several_heads(parameters: Parameters) -> bool:
    """One head, to compare with, and four or more."""
    return bool(parameters["heads"] == 1 or parameters["heads"] >= 4)


@dataclass(frozen=True)
class Claim:
    """One claim: what the paper says, and what decides it.

    `experiments` are those of config.yaml that it needs, `where` picks their series by parameters,
    `rule` says in words what `test` asks of each run.
    """

    name: str
    figure: str
    paper: str
    experiments: tuple[str, ...]
    rule: str
    test: Test
    where: Callable[[Parameters], bool] = everything


CLAIMS = (
    Claim("three_phases", "2", "Accuracy rises in three phases with plateaus between them", ("base",),
          "plateaus at the ceilings of NCC, SCC and FCC, the last by the FCC", each(tests.has_path(1, 2, 3))),
    Claim("phase_1_accuracy", "2", "Phase 1 lies at 0.30-0.40", ("base",),
          "its plateau lies there", each(tests.level(1, 0.30, 0.40))),
    Claim("phase_2_accuracy", "2", "Phase 2 lies at about 0.75", ("base",),
          "its plateau lies within 0.05", each(tests.level(2, 0.70, 0.80))),
    Claim("phase_3_accuracy", "2", "Phase 3 reaches 1.00", ("base",),
          "last accuracy >= 0.99, where it is not still rising", each(tests.learned)),
    Claim("dAcc", "3", "dAcc > 0.025 marks the boundaries of the phases", ("base",),
          "a jump by this rule between every two plateaus, none within one", each(tests.jumps_are_the_boundaries)),
    Claim("phase_1_circuit", "4", "Phase 1 (NCC): Bigram in both layers", ("base",),
          "Bigram > 0.5 in both layers in the middle of Phase 1", each(tests.bigram_in_both_layers)),
    Claim("phase_2_circuit", "4", "Phase 2 (SCC): Label Attention in layer 1, Bigram in layer 2", ("base",),
          "from Phase 1 to Phase 2, Label Attention of layer 1 rises by 0.05; Bigram of layer 2 > 0.5",
          each(tests.layer_1_turns_to_the_labels)),
    Claim("phase_3_circuit", "4", "Phase 3 (FCC): Chunk Example in layer 1, Label Attention in layer 2", ("base",),
          "both rise by 0.05 over the phase before", each(tests.pairs_are_chunked_then_read)),
    Claim("masked_scc_formula", "5", "Masked-SCC training agrees with the formula for K = 8, 16, 32", ("fig05",),
          "accuracy over the last tenth of training within 0.02 of the formula", each(tests.equals_the_formula)),
    Claim("rla", "6", "Random-label accuracy rises with Phase 2", ("base",),
          "from Phase 1 to Phase 2 it rises by at least half of what accuracy does",
          each(tests.rla_rises_with_phase_2)),
    Claim("one_task_one_phase", "7a", "T = 1 has one phase", ("fig07a",),
          "one plateau; last accuracy >= 0.99", each(tests.one_plateau), only(T=1)),
    Claim("more_tasks_three_phases", "7a", "T >= 2 has three phases", ("fig07a",),
          "plateaus of Phases 1, 2 and 3, the last by the FCC", each(tests.has_path(1, 2, 3)), at_least(T=2)),
    Claim("one_over_T", "7a, 18", "Phase 1 lies at about 1/T", ("fig07a", "fig18"),
          "for T >= 2 its plateau lies within 0.05 and within 15 % of it",
          each(tests.phase_1_at_one_over_T), at_least(T=2)),
    Claim("few_classes", "7b", "Small K skips Phase 1", ("fig07b",),
          "K = 32: Phase 2 or 3, but not Phase 1", each(tests.skips(1)), only(K=32)),
    Claim("many_classes", "7b", "Large K skips Phase 2", ("fig07b",),
          "K = 1024: Phase 3, but not Phase 2", each(tests.skips(2)), only(K=1024)),
    Claim("much_noise", "7c", "Large eps skips Phases 1 and 2", ("fig07c",),
          "eps = 1: Phase 3, but neither Phase 1 nor 2", each(tests.skips(1, 2)), only(eps=1)),
    Claim("skewed_classes", "7d", "Large alpha skips Phases 1 and 2", ("fig07d",),
          "alpha >= 1: Phase 3, but neither Phase 1 nor 2; no telling where the SCC comes within 0.05 of the FCC",
          each(tests.skips(1, 2)), at_least(alpha=1)),
    Claim("heads_part", "8", "Of two heads one becomes NCC, one FCC", ("fig08",),
          "at the end, in the last layer, Bigram of one head and Label Attention of the other lead the heads' mean by "
          "0.05; last accuracy >= 0.99", each(tests.heads_part), only(heads=2)),
    Claim("hidden_scc", "9", "With two heads a hidden SCC shows about step 30,000", ("fig09",),
          "the rise of Label Attention in layer 1 times Bigram of layer 2 is largest, and 0.05 or more, "
          "at step 15,000 to 60,000", each(tests.hidden_scc_shows), only(heads=2)),
    Claim("induction_phase", "12", "T = 1, p_B = 1, B = 1 has one phase", ("fig12",),
          "one plateau; last accuracy >= 0.99; with too many classes to learn by heart", each(tests.one_plateau)),
    Claim("induction_head", "12", "T = 1, p_B = 1, B = 1 ends with an induction head", ("fig12",),
          "at the end, Chunk Example of layer 1 and Label Attention of layer 2 > 0.5", each(tests.induction_head)),
    Claim("phase_1_mask", "13", "A mask of Phase 1's circuit plateaus at its accuracy", ("fig13",),
          "accuracy over the last tenth of training within 0.02 of the NCC's ceiling",
          each(tests.ends_at_its_ceiling(1)), only_edges(1)),
    Claim("phase_2_mask", "13", "A mask of Phase 2's circuit plateaus at its accuracy", ("fig13",),
          "accuracy over the last tenth of training within 0.02 of the SCC's ceiling",
          each(tests.ends_at_its_ceiling(2)), only_edges(2)),
    Claim("phase_3_mask", "13", "A mask of Phase 3's circuit reaches 1.0 without stopping at Phase 2", ("fig13",),
          "Phase 3, but no plateau of Phase 2; last accuracy >= 0.99", each(tests.both(tests.skips(2), tests.learned)),
          only_edges(3)),
    Claim("phase_3_mask_steps", "13", "It has about 0.5 at step 1e4 and 1.0 at 1e5", ("fig13",),
          "0.4 to 0.6 at step 10,000, >= 0.99 at step 100,000", each(tests.climbs_in_time), only_edges(3)),
    Claim("heads_smooth", "16", "More heads smooth the curve", ("fig16",),
          "with 4 heads or more, fewer of Phases 1 and 2 than with one and the same seed",
          tests.against_one_head(tests.stops, lambda many, one: many < one, ".0f"), several_heads),
    Claim("heads_jump", "16", "More heads: the metrics still jump", ("fig16",),
          "with 4 heads or more, the largest change of a metric within 0.15 decades of steps, once the first plateau "
          "began, is at least half of what it is with one and the same seed",
          tests.against_one_head(tests.largest_jump, lambda many, one: many >= one / 2, ".2f"), several_heads),
    Claim("contexts_learned", "19", "The task is learned with N = 2, 4, 8, 16 and 32", ("fig19",),
          "last accuracy >= 0.99, where it is not still rising", each(tests.learned)),
    Claim("standard_transformer", "20", "A standard transformer learns the task", ("fig20",),
          "last accuracy >= 0.99, where it is not still rising",
          each(tests.learned), only(architecture="standard_transformer", learning_rate=0.001)),
    Claim("every_label", "21", "Training on every label reaches 1.0 too", ("fig21",),
          "last accuracy >= 0.99, where it is not still rising", each(tests.learned), only(loss="every_label")),
    Claim("more_layers", "22, 23", "3, 4 and 5 layers reach full accuracy", ("fig22",),
          "last accuracy >= 0.99, where it is not still rising", each(tests.learned), at_least(layers=3)),
)  # fmt: skip


def claims_table(
    experiments: Mapping[str, Sequence[tuple[Series, Parameters]]], tables: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """The rows of `schemas.CLAIMS`: every claim, decided by the runs of its experiments.

    `experiments` maps the names of config.yaml to their series, each with its parameters; `tables` maps
    those of `TABLES` to data frames, which may lack runs.
    """
    return pd.DataFrame([_row(claim, experiments, tables) for claim in CLAIMS])


def verdict(findings: Sequence[Finding], expected: int) -> tuple[str, str | None]:
    """`reproduced`, `not reproduced` or `unclear`, and why it is unclear.

    Of the runs that can tell, at least `AGREEMENT` must agree; at least `TOLD` of the `expected` ones must tell.
    """
    decided = [finding.held for finding in findings if finding.held is not None]
    if not findings:
        return "unclear", "not run"
    if len(decided) < TOLD * expected or not decided:
        return "unclear", f"{len(decided)} of {expected} runs can tell"
    held, against = decided.count(True), decided.count(False)
    if max(held, against) < AGREEMENT * len(decided):
        return "unclear", f"runs disagree: {held} of {len(decided)}"
    return ("reproduced" if held > against else "not reproduced"), None


def _row(
    claim: Claim,
    experiments: Mapping[str, Sequence[tuple[Series, Parameters]]],
    tables: Mapping[str, pd.DataFrame],
) -> dict[str, object]:
    series = _series(claim, experiments)
    findings = list(claim.test([run for run in trained(FigureData(series, dict(tables))) if _complete(run)]))
    decided = [finding for finding in findings if finding.held is not None]
    expected = sum(len(one.seeds) for one in series)
    result, reason = verdict(findings, expected)
    return {
        "claim": claim.name,
        "figure": claim.figure,
        "paper": claim.paper,
        "experiments": ", ".join(claim.experiments),
        "rule": claim.rule,
        "verdict": result,
        "reason": reason,
        "numbers": numbers(findings),
        "seeds": ", ".join(map(str, sorted({finding.run.seed for finding in findings}))),
        "runs_held": sum(bool(finding.held) for finding in decided),
        "runs_decided": len(decided),
        "runs_expected": expected,
    }


def _complete(run: Trained) -> bool:
    """Whether every table that tests read has the run: one that is not analysed yet counts as not run."""
    return all(len(run.data.table(name, run.series.run, run.seed)) for name in TABLES)


def _series(claim: Claim, experiments: Mapping[str, Sequence[tuple[Series, Parameters]]]) -> tuple[Series, ...]:
    """The series that a claim is decided from; one that two experiments share counts once, with the seeds of both."""
    found: dict[str, Series] = {}
    for name in claim.experiments:
        for one, parameters in experiments.get(name, ()):
            if claim.where(parameters):
                held = found.get(one.run, one)
                found[one.run] = replace(held, seeds=tuple(sorted({*held.seeds, *one.seeds})))
    return tuple(found.values())


def numbers(findings: Sequence[Finding]) -> str:
    """What decided, seed by seed in each series: `T = 2: 0.51 / 0.52; T = 3: 0.35 / 0.36`."""
    by_series: dict[str, list[str]] = {}
    for finding in findings:
        by_series.setdefault(finding.run.series.label, []).append(finding.number)
    return "; ".join(f"{label}: {' / '.join(values)}" for label, values in by_series.items())
