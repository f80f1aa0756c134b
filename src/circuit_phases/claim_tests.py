"""The tests that decide the paper's claims, each a pure function of what trained runs show.

A test looks at one run at a time and says whether the claim holds there (None: the run cannot tell),
and by what number. `claims.py` lists the claims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product

import numpy as np
import pandas as pd

from circuit_phases.closed_form import paper_formula
from circuit_phases.evidence import LAST, LEARNED, Trained, path_name
from circuit_phases.heads import head_roles, hidden_scc
from circuit_phases.readings import METRICS, Phase, final_accuracy, step_reaching

CLOSE = 0.02
"""Most distance of accuracy from a value that it should equal: 2.5 standard errors on 4,096 sequences."""
ABOUT = 0.05
"""Most distance from what the paper gives as "about": half the width of its 0.30-0.40 for Phase 1."""
MOVES = 0.05
"""Least rise of a metric that counts: nine standard errors of a rise over 512 sequences (at most 0.0055 here)."""
MOST = 0.5
"""A metric above it: more attention than to all other tokens together."""
JUMP = 0.15
"""Decades of steps within which a change of a metric is a jump; checkpoints are some 0.07 apart."""

Outcome = tuple[bool | None, str]
RunTest = Callable[[Trained], Outcome]


@dataclass(frozen=True)
class Finding:
    """What one run says of a claim: whether it holds there (None: the run cannot tell), and by what number."""

    run: Trained
    held: bool | None
    number: str


Test = Callable[[Sequence[Trained]], Iterable[Finding]]


def each(test: RunTest) -> Test:
    """A test of every run by itself."""
    return lambda runs: [Finding(run, *test(run)) for run in runs]


def both(*tests: RunTest) -> RunTest:
    """All of these hold; the run cannot tell where one of them cannot."""

    def test(run: Trained) -> Outcome:
        held, words = zip(*(one(run) for one in tests), strict=True)
        return None if None in held else all(held), "; ".join(words)

    return test


def has_path(*path: int) -> RunTest:
    """The run went through these phases and no others, and ended by the circuit of the last."""

    def test(run: Trained) -> Outcome:
        if 3 in run.path and answers_without_pairs(run):
            return False, f"{path_name(run.path)} by another circuit"
        return run.path == path, path_name(run.path)

    return test


def skips(*phases: int) -> RunTest:
    """The run had none of these phases; one that came to none beyond them, or to none that can be told, cannot tell."""

    def test(run: Trained) -> Outcome:
        reached, words = max(run.path, default=0), path_name(run.path)
        if 2 in phases and run.ceilings[3] - run.ceilings[2] < ABOUT:
            return None, f"{words}, SCC at best {run.ceilings[2]:.2f}"
        if reached <= max(phases):
            return None, words
        if 2 in phases and answers_without_pairs(run):
            return None, f"{words} by another circuit"
        return not set(phases) & set(run.path), words

    return test


def answers_without_pairs(run: Trained) -> bool:
    """Whether random-label accuracy ends above the SCC's ceiling: then the accuracy of Phase 3 is not the FCC's."""
    return float(run.random_label_accuracy.iloc[-LAST:].median()) > run.ceilings[2] + CLOSE


def learned(run: Trained) -> Outcome:
    """The last accuracy is 0.99 or more; a run whose last step found it still rising to there cannot tell."""
    held = run.last_accuracy >= LEARNED
    return (None, f"{run.last_accuracy:.3f}, rising") if not held and run.rising else (held, f"{run.last_accuracy:.3f}")


def level(phase: int, low: float, high: float) -> RunTest:
    """The plateau of a phase lies between two accuracies; a run without it cannot tell."""

    def test(run: Trained) -> Outcome:
        found = run.phase(phase)
        return (low <= found.accuracy <= high, f"{found.accuracy:.3f}") if found else (None, "no plateau")

    return test


def phase_1_at_one_over_T(run: Trained) -> Outcome:
    """Phase 1 lies about 1/T, by the paper's own tolerance at T = 3 or the same share of a smaller 1/T."""
    chance = 1 / int(run.parameters["T"])
    about = min(ABOUT, 3 * ABOUT * chance)
    return level(1, chance - about, chance + about)(run)


def bigram_in_both_layers(run: Trained) -> Outcome:
    """Phase 1: the query attends mostly to itself in both layers."""
    found = run.phase(1)
    if not found:
        return None, "no Phase 1"
    values = [run.metric_at("bigram", layer, found.middle) for layer in (1, 2)]
    return all(value > MOST for value in values), " and ".join(f"{value:.2f}" for value in values)


def rises(changes: Mapping[tuple[str, int], Phase], run: Trained, at: Phase) -> Outcome:
    """Whether each (metric, layer) is larger in one phase than in an earlier one, and by how much."""
    values = {
        key: (run.metric_at(*key, before.middle), run.metric_at(*key, at.middle)) for key, before in changes.items()
    }
    words = [f"{METRICS[name]} {layer}: {a:.2f} to {b:.2f}" for (name, layer), (a, b) in values.items()]
    return all(after - before >= MOVES for before, after in values.values()), ", ".join(words)


def layer_1_turns_to_the_labels(run: Trained) -> Outcome:
    """Phase 2: Label Attention of layer 1 rises over Phase 1's, and layer 2 stays with Bigram."""
    before, at = run.phase(1), run.phase(2)
    if not (before and at):
        return None, "not both phases"
    risen, words = rises({("label_attention", 1): before}, run, at)
    bigram = run.metric_at("bigram", 2, at.middle)
    return risen and bigram > MOST, f"{words}, Bigram 2: {bigram:.2f}"


def pairs_are_chunked_then_read(run: Trained) -> Outcome:
    """Phase 3: Chunk Example of layer 1 and Label Attention of layer 2 rise over the phase before."""
    earlier, at = [phase for phase in (run.phase(1), run.phase(2)) if phase], run.phase(3)
    if not (earlier and at):
        return None, "not both phases"
    return rises({("chunk_example", 1): earlier[-1], ("label_attention", 2): earlier[-1]}, run, at)


def jumps_are_the_boundaries(run: Trained) -> Outcome:
    """A jump by dAcc lies between every two plateaus, and none within one."""
    plateaus = [phase for phase in run.plateaus if phase.number]
    if len(plateaus) < 2:
        return None, "no two plateaus"
    between = list(pairwise(plateaus))
    found = sum(any(first <= b.start and last >= a.end for first, last in run.jumps) for a, b in between)
    inside = sum(a.start <= first and last <= a.end for first, last in run.jumps for a in plateaus)
    return found == len(between) and not inside, f"{found} of {len(between)}, {inside} within"


def rla_rises_with_phase_2(run: Trained) -> Outcome:
    """From Phase 1 to Phase 2 random-label accuracy rises by at least half of what accuracy does."""
    before, at = run.phase(1), run.phase(2)
    if not (before and at):
        return None, "not both phases"
    rla = [float(run.random_label_accuracy.loc[phase.start : phase.end].median()) for phase in (before, at)]
    return rla[1] - rla[0] >= (at.accuracy - before.accuracy) / 2, f"{rla[0]:.2f} to {rla[1]:.2f}"


def equals_the_formula(run: Trained) -> Outcome:
    """Accuracy over the last tenth of training is the closed form's (paper, Sec. 4.3)."""
    expected = paper_formula(int(run.parameters["K"]), int(run.parameters["N"]))
    return _equals(run, expected)


def _equals(run: Trained, expected: float) -> Outcome:
    found = final_accuracy(run.accuracy)
    return abs(found - expected) <= CLOSE, f"{found:.3f} for {expected:.3f}"


def one_plateau(run: Trained) -> Outcome:
    """The run has one plateau, wherever it lies, and ends at 0.99 or more."""
    held = len(run.plateaus) == 1 and run.last_accuracy >= LEARNED
    return held, ", ".join(f"{phase.accuracy:.2f}" for phase in run.plateaus) or "none"


def induction_head(run: Trained) -> Outcome:
    """At the end layer 1's labels attend to their items, and layer 2's query to the labels."""
    end = run.parameters["steps"]
    values = run.metric_at("chunk_example", 1, end), run.metric_at("label_attention", 2, end)
    return all(value > MOST for value in values), f"{values[0]:.2f} and {values[1]:.2f}"


def ends_at_its_ceiling(phase: int) -> RunTest:
    """Accuracy over the last tenth of training is the ceiling of a phase's circuit."""
    return lambda run: _equals(run, run.ceilings[phase])


def climbs_in_time(run: Trained) -> Outcome:
    """About 0.5 at step 10,000, 0.99 or more by step 100,000; one that ended before, not learned, cannot tell."""
    end = int(run.accuracy.index[-1])
    if end < 10_000 or (end < 100_000 and run.last_accuracy < LEARNED):
        return None, f"{end:,} steps"
    early, late = (float(run.accuracy.loc[:step].iloc[-1]) for step in (10_000, 100_000))
    return abs(early - 0.5) <= 2 * ABOUT and late >= LEARNED, f"{early:.2f}, {late:.2f}"


def heads_part(run: Trained) -> Outcome:
    """At the end, in the last layer, one head's role is NCC and another's FCC (`heads.head_roles`)."""
    circuits = run.circuits
    last = int(circuits["layer"].max())
    roles = head_roles(circuits, int(circuits["step"].max()))
    found = [roles[last, head] for head in range(1, run.heads + 1)]
    apart = any("NCC" in a and "FCC" in b for a, b in permutations(found, 2))
    words = " and ".join("+".join(names) or "none" for names in found)
    return apart if run.last_accuracy >= LEARNED else None, words


def hidden_scc_shows(run: Trained) -> Outcome:
    """Until accuracy is at its highest, the hidden SCC is strongest at step 15,000 to 60,000 (`heads.hidden_scc`)."""
    found = hidden_scc(run.circuits, until=step_reaching(run.accuracy))
    return (15_000 <= found.step <= 60_000, f"step {found.step:,}") if found else (False, "never shows")


def against_one_head(quantity: Callable[[Trained], float], holds: Callable[[float, float], bool], text: str) -> Test:
    """A test of the runs with several heads against the run with one head and the same seed."""

    def findings(runs: Sequence[Trained]) -> Iterable[Finding]:
        single = {run.seed: quantity(run) for run in runs if run.heads == 1}
        for run in runs:
            value = quantity(run)
            compared = run.heads > 1 and run.seed in single
            yield Finding(run, holds(value, single[run.seed]) if compared else None, format(value, text))

    return findings


def stops(run: Trained) -> float:
    """How many of Phases 1 and 2 the run went through."""
    return len({1, 2} & set(run.path))


def largest_jump(run: Trained) -> float:
    """The largest change within `JUMP` decades of any metric of any layer and head, once the first plateau began.

    Before it the largest jump of all is Bigram's, as the first circuit forms: it says nothing of those that follow.
    """
    start = run.plateaus[0].start if run.plateaus else 0
    layers_and_heads = product(METRICS, range(1, int(run.parameters["layers"]) + 1), range(1, run.heads + 1))
    return max(_largest_change(run.metric(*place).loc[start:]) for place in layers_and_heads)


def _largest_change(curve: pd.Series[float]) -> float:
    decades = np.log10(curve.index.to_numpy(dtype=float))
    near = np.abs(decades[:, None] - decades) <= JUMP
    values = curve.to_numpy()
    return float(np.abs(values[:, None] - values)[near].max(initial=0))
