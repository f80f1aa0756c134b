"""The schemas of all tables: columns, types and what they mean."""

from __future__ import annotations

import pyarrow as pa

from circuit_phases.settings import GROUPS


def _schema(description: str, *fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, metadata={"description": meaning}) for name, kind, meaning in fields],
        metadata={"description": description},
    )


_RUN = ("run", pa.string(), "name of the configuration: its variant, then each parameter that differs from it")
_SEED = ("seed", pa.int64(), "seed of the training: weights and batches")
_STEP = ("step", pa.int64(), "gradient steps taken")
_LAYER = ("layer", pa.int64(), "attention layer, from 1")
_HEAD = ("head", pa.int64(), "head, from 1")
_TOKENS = (
    ("query", pa.int64(), "attending token, from 1, in the order x1 l1 ... xN lN xq"),
    ("key", pa.int64(), "token attended to, from 1; only key <= query is listed, all else is 0"),
)


def _parameter_fields() -> list[tuple[str, pa.DataType, str]]:
    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    groups = [GROUPS[group].model_fields for group in GROUPS]
    return [
        (name, kinds.get(type(field.default), pa.string()), field.description or "")
        for fields in groups
        for name, field in fields.items()
    ]


RUNS = _schema(
    "Every run: its parameters and what it took",
    _RUN,
    _SEED,
    ("dataset", pa.string(), "folder of its world under datasets/"),
    *_parameter_fields(),
    ("world_seed", pa.int64(), "seed of the world: class means, label vectors, label tables, evaluation sequences"),
    ("parameters_count", pa.int64(), "trained numbers of the model"),
    ("steps", pa.int64(), "gradient steps taken"),
    (
        "seconds",
        pa.float64(),
        "training time in seconds, evaluation included; seeds trained together share their job's",
    ),
)

TRAINING = _schema(
    "Loss and accuracy over training",
    _RUN,
    _SEED,
    _STEP,
    ("split", pa.string(), "train: the batches since the last evaluation; iid: the frozen evaluation sequences; "
     "random_label, copy, novel_task, conflict, no_context, novel_class: docs/method.md"),
    ("task", pa.int64(), "task tau of the sequences, from 1; null: all tasks together; in conflict: the answer is held "
     "against this task's label, where the context is of another task with another label"),
    ("loss", pa.float64(), "mean cross-entropy in nats, of the query's label (train: of every predicted label)"),
    ("accuracy", pa.float64(), "share of queries whose most likely label is right, 0 to 1"),
    ("memory", pa.float64(), "share of queries whose most likely label is one of their class's labels under the T "
     "tasks, 0 to 1; null where there are none or they are not looked at (train, rows of conflict by task)"),
    ("inference", pa.float64(), "of these, the share that is right, 0 to 1; null where memory is null or 0"),
    ("sequences", pa.int64(), "sequences averaged over"),
)  # fmt: skip

CIRCUITS = _schema(
    "The three circuit metrics at every checkpoint (paper, Sec. 4)",
    _RUN,
    _SEED,
    _STEP,
    _LAYER,
    _HEAD,
    ("metric", pa.string(), "bigram: query to itself; label_attention: query to the labels, summed; "
     "chunk_example: label to its item, averaged over pairs"),
    ("value", pa.float64(), "attention weight, 0 to 1, averaged over the evaluation sequences"),
)  # fmt: skip

ATTENTION = _schema(
    "Attention maps averaged over the evaluation sequences, at every checkpoint",
    _RUN,
    _SEED,
    _STEP,
    _LAYER,
    _HEAD,
    *_TOKENS,
    ("weight", pa.float64(), "mean attention weight, 0 to 1"),
)

EXAMPLE_ATTENTION = _schema(
    "Attention on one sequence, the first evaluation sequence of split iid, at the last checkpoint",
    _RUN,
    _SEED,
    _STEP,
    _LAYER,
    _HEAD,
    *_TOKENS,
    ("weight", pa.float64(), "attention weight, 0 to 1"),
)

ATTRIBUTION = _schema(
    "What every intervention on the attention or the residual stream does, at every checkpoint",
    _RUN,
    _SEED,
    _STEP,
    ("split", pa.string(), "the frozen sequences, as in training.parquet: the first of them"),
    ("intervention", pa.string(), "none; of edges: zero, mean (their mean weight), resample (their weight in another "
     "task's sequence), the row's other edges sharing what is left; interchange: the residual stream of the same items "
     "under another task"),
    ("layer", pa.int64(), "attention layer, from 1; interchange: after which layer, 0 before the first"),
    ("head", pa.int64(), "head of the edges, from 1; null for the residual stream"),
    ("edge", pa.string(), "edges: bigram (query to itself), label_attention (query to labels), chunk_example (label to "
     "its item), item_attention (query to items), rest (every other); null: interchange"),
    ("position", pa.string(), "interchange: at the tokens items (x1 ... xN), labels (l1 ... lN), query (xq)"),
    ("sequences", pa.int64(), "sequences averaged over; interchange: those whose query has another label elsewhere"),
    ("accuracy", pa.float32(), "share of right answers under the intervention, 0 to 1"),
    ("accuracy_change", pa.float32(), "less the accuracy without it, on the same sequences"),
    ("standard_error", pa.float32(), "standard error of accuracy_change, over sequences paired with themselves"),
    ("loss_change", pa.float32(), "change of the cross-entropy, in nats"),
    ("loss_standard_error", pa.float32(), "its standard error, paired"),
    ("logit_change", pa.float32(), "change of the margin: logit of the right label less that of the best wrong one"),
    ("logit_standard_error", pa.float32(), "its standard error, paired"),
    ("logit_estimate", pa.float32(), "logit_change as the gradient of the untouched model's margin foretells it"),
    ("correlation", pa.float32(), "Pearson's, over sequences, of estimate and change; null where one does not vary"),
    ("moved", pa.float32(), "interchange: share of answers that become the other task's label; null for edges"),
)  # fmt: skip

PHASES = _schema(
    "The phases found in each run",
    _RUN,
    _SEED,
    ("rule", pa.string(), "paper: jumps of accuracy above a threshold; plateau: flat stretches on a log-step axis"),
    ("phase", pa.int64(), "paper: stretches between jumps, in order; plateau: the circuit's number, "
     "1 NCC, 2 SCC, 3 FCC (a number that is missing was skipped); null: a plateau at no known ceiling"),
    ("start_step", pa.int64(), "first evaluated step of the phase"),
    ("end_step", pa.int64(), "last evaluated step of the phase"),
    ("accuracy", pa.float64(), "median accuracy on the iid split within the phase, 0 to 1"),
    ("ceiling", pa.float64(), "best accuracy of the phase's circuit in this world; null where none is known"),
)  # fmt: skip

THEORY = _schema(
    "The best accuracy that each circuit can reach in each world, by Bayes' rule",
    _RUN,
    _SEED,
    ("circuit", pa.string(), "ncc: from the query alone; scc: with the multiset of labels; fcc: with everything"),
    ("accuracy", pa.float64(), "best expected accuracy, 0 to 1"),
    ("standard_error", pa.float64(), "standard error of the accuracy; 0 where it is exact"),
    ("method", pa.string(), "enumeration or monte_carlo"),
)

ABILITY_LEVELS = _schema(
    "Where accuracy, memory and inference stand by chance, and at best for each circuit, on every frozen split",
    _RUN,
    _SEED,
    ("split", pa.string(), "frozen split: docs/method.md"),
    ("measure", pa.string(), "accuracy, memory or inference, as in training.parquet"),
    (
        "level",
        pa.string(),
        "chance: any label; constant: the most frequent label; ncc, scc, fcc: the circuit at best",
    ),
    ("value", pa.float64(), "expected value, 0 to 1"),
    ("standard_error", pa.float64(), "standard error of the value; 0 where it is exact"),
    ("method", pa.string(), "enumeration or monte_carlo"),
)

CLASS_FREQUENCIES = _schema(
    "How often each item class comes, in each world",
    _RUN,
    _SEED,
    ("alpha", pa.float64(), "exponent of the class frequencies"),
    ("class", pa.int64(), "item class k, from 1: its rank"),
    ("frequency", pa.float64(), "f(k) ~ k^-alpha, sums to 1 over classes"),
    ("observed", pa.float64(), "share of the frozen evaluation sequences whose query is of this class"),
)

CLAIMS = _schema(
    "Every claim of the paper, the test that decides it, and what came out",
    ("claim", pa.string(), "its name"),
    ("figure", pa.string(), "figure of the paper that shows it"),
    ("paper", pa.string(), "what the paper says"),
    ("experiments", pa.string(), "experiments of config.yaml that it is decided from"),
    ("rule", pa.string(), "what must hold in a run"),
    ("verdict", pa.string(), "reproduced: it holds in at least 80 % of the runs that can tell; "
     "not reproduced: in at most 20 %; unclear: between, or too few runs can tell"),
    ("reason", pa.string(), "why it is unclear; null where it is not"),
    ("numbers", pa.string(), "what decided, by series and seed in the order of config.yaml"),
    ("seeds", pa.string(), "training seeds of the runs looked at"),
    ("runs_held", pa.int64(), "runs in which it holds"),
    ("runs_decided", pa.int64(), "runs that can tell"),
    ("runs_expected", pa.int64(), "runs that config.yaml asks for in the series looked at"),
)  # fmt: skip

CENSUS = _schema(
    "The phase census: every run's outcome and world, and statistics over runs",
    ("configuration", pa.string(), "name of the configuration, without its world's seed"),
    ("run", pa.string(), "name of the run; null: over all runs"),
    ("world_seed", pa.int64(), "seed of the world; null: over all worlds"),
    ("seed", pa.int64(), "seed of the training; null: over all runs"),
    ("quantity", pa.string(), "all_phases, skips_1, skips_2, no_phase_3 (1 if so; skips: Phase 3 came without it); "
     "phase_k_start, phase_k_end, solved_step (first accuracy of 0.99), in steps; ncc_ceiling, scc_ceiling; "
     "scc_gain: SCC's over NCC's; fcc_gain: FCC's over SCC's; labels_per_task, shared_labels, count_distance, "
     "shared_pairs: docs/method.md"),
    ("statistic", pa.string(), "value: of one run; rate: share of runs; median: over runs; quartile_decades: between "
     "the quartiles, log10; variance_between_worlds: share of it; rank_correlation: over worlds, with the predictor"),
    ("predictor", pa.string(), "the world's quantity that a rank correlation is with; null for all else"),
    ("estimate", pa.float64(), "the value; null where it is not defined, as for outcomes that are all the same"),
    ("low", pa.float64(), "lower end of the 95 % interval: Wilson's of a rate, bootstrap of a median or spread"),
    ("high", pa.float64(), "upper end of the 95 % interval"),
    ("p_value", pa.float64(), "by permutation: of runs among worlds, or of outcomes among worlds"),
    ("observations", pa.int64(), "runs, or for a rank correlation worlds, that it rests on"),
)  # fmt: skip

DEPARTING = ("positions", "label_tables", "output_projection", "label_vectors")
"""The axes of the grid of departures from the paper's text."""

DEPARTURES = _schema(
    "The grid of departures from the paper's text: what came of each",
    _RUN,
    _SEED,
    *((name, pa.bool_() if name == "output_projection" else pa.string(), "the run's choice: runs.parquet")
      for name in DEPARTING),
    ("phases", pa.string(), "the phases that the run went through, by the rule plateau; none if there was none"),
    *((f"phase_{number}_{edge}", pa.int64() if edge in ("start", "end") else pa.float64(), f"Phase {number}'s {what}")
      for number in (1, 2, 3)
      for edge, what in {"start": "first step", "end": "last step", "accuracy": "median accuracy",
                         "ceiling": "best accuracy in this world"}.items()),
    ("last_accuracy", pa.float64(), "median of the last ten evaluations"),
    ("solved_step", pa.int64(), "first step with accuracy 0.99 or more; null: never"),
    ("steps", pa.int64(), "gradient steps taken"),
)  # fmt: skip

ABILITIES = _schema(
    "What a run is able to at the end of each phase, on every frozen split",
    _RUN,
    _SEED,
    ("phase", pa.int64(), "phase by the rule plateau: 1 NCC, 2 SCC, 3 FCC"),
    ("step", pa.int64(), "its last evaluated step"),
    ("split", pa.string(), "frozen split: docs/method.md"),
    ("accuracy", pa.float64(), "share of queries whose most likely label is right, 0 to 1"),
    ("memory", pa.float64(), "share whose most likely label is one of their class's T labels; null for new classes"),
    ("inference", pa.float64(), "of these, the share that is right; null where memory is null or 0"),
    ("chance", pa.float64(), "accuracy of a label drawn uniformly"),
    ("ceiling", pa.float64(), "best accuracy of the phase's circuit on the split; null where none is known"),
    ("sequences", pa.int64(), "sequences averaged over"),
)

GRADIENT_ESTIMATES = _schema(
    "How well gradients foretell the effects of interventions, phase by phase",
    _RUN,
    ("phase", pa.int64(), "phase by the rule plateau; null: checkpoints between phases, from the first on"),
    ("intervention", pa.string(), "as in attribution.parquet; null: all together"),
    ("correlation", pa.float64(), "Pearson's, of logit_estimate and logit_change over interventions, checkpoints and "
     "seeds; null: fewer than eight, or all alike"),
    ("rank_correlation", pa.float64(), "Spearman's"),
    ("same_sign", pa.float64(), "share in which both have the same sign"),
    ("observations", pa.int64(), "interventions at checkpoints of seeds, without those that change nothing"),
)  # fmt: skip

PREREQUISITES = _schema(
    "When each phase comes if edges are forbidden, against the free run of the same seed",
    _RUN,
    _SEED,
    ("free_run", pa.string(), "the run of this seed in which nothing is forbidden"),
    ("quantity", pa.string(), "phase_k_start: first step of Phase k; solved_step: of accuracy 0.99 or more"),
    ("step", pa.int64(), "that step; null: it did not come"),
    ("free_step", pa.int64(), "that of the free run; null: it did not come there"),
    ("ratio", pa.float64(), "step over free_step; null where one did not come"),
    ("steps", pa.int64(), "gradient steps that the run took"),
    ("free_steps", pa.int64(), "gradient steps that the free run took"),
)  # fmt: skip

COMPARISON = _schema(
    "Two folders of tables against each other, run by run",
    _RUN,
    _SEED,
    ("quantity", pa.string(), "last_accuracy: median of the last ten evaluations; steps: gradient steps taken; "
     "phase_k_accuracy, phase_k_start, phase_k_end: of the plateau of Phase k"),
    ("mine", pa.float64(), "on one side; null where it did not come or is missing"),
    ("reference", pa.float64(), "on the other side"),
    ("verdict", pa.string(), "equal; close: accuracies within 0.02, steps within a factor of 1.26; different; "
     "missing: the run is on one side alone"),
)  # fmt: skip

LABEL_TABLES = _schema(
    "The label of every class under every task",
    ("task", pa.int64(), "task tau, from 1"),
    ("class", pa.int64(), "item class k, from 1"),
    ("label", pa.int64(), "label, from 1"),
)

VECTORS = {
    name: _schema(
        meaning,
        (name, pa.int64(), f"{name}, from 1"),
        ("vector", pa.list_(pa.float32()), "its D content entries, ~ N(0, 1/D)"),
    )
    for name, meaning in {"class": "The mean mu_k of every item class", "label": "The vector of every label"}.items()
}

EVALUATION_SEQUENCES = _schema(
    "The frozen sequences of every split",
    ("split", pa.string(), "iid, copy, conflict or novel_class, the splits with items of their own: docs/method.md"),
    ("sequence", pa.int64(), "number of the sequence in its split, from 1"),
    ("task", pa.int64(), "its task tau, from 1; null for novel classes"),
    ("offset", pa.int64(), "position of its first token, from 0"),
    ("classes", pa.list_(pa.int64()), "classes of x1 ... xN xq, from 1; novel ones from K + 1"),
    ("labels", pa.list_(pa.int64()), "labels l1 ... lN and the query's, from 1"),
    ("partner_labels", pa.list_(pa.int64()), "labels, likewise, of the split with the same items: random_label (of "
     "iid), novel_task (of copy), no_context (of conflict); null for novel_class"),
    ("items", pa.list_(pa.float32()), "the N + 1 items' content, one after another, (N + 1) D entries"),
)  # fmt: skip

DATASET_TABLES: dict[str, pa.Schema] = {"label_tables": LABEL_TABLES, "evaluation_sequences": EVALUATION_SEQUENCES}
"""The tables of a world that figures read, by name; every run on that world reads the same."""

WORLD_TABLES = {"class_means": VECTORS["class"], "label_vectors": VECTORS["label"], **DATASET_TABLES}
"""All tables of a world, by name."""

_MODEL = ("model", pa.string(), "name of the language model under llm.models")
_REVISION = ("revision", pa.string(), "revision of its weights; local: from a local path")
_ASKED = (
    _MODEL,
    _REVISION,
    ("dataset", pa.string(), "name of the data set under llm.datasets"),
    ("shots", pa.int64(), "demonstrations in a prompt"),
    ("demonstration_labels", pa.string(), "labels that they carry: gold, permuted, random, flipped; none: no shots"),
)
_METRIC = ("metric", pa.string(), "bigram: query to itself; label_attention: query to the labels, averaged over them; "
           "chunk_example: label to its text, averaged over the text's tokens and the demonstrations")  # fmt: skip
_CUT = ("cut", pa.string(), "attention edges that were cut, and in which heads; none: attention is whole")

LLM_CIRCUITS = _schema(
    "The three circuit metrics of language models (paper, Sec. 6)",
    *_ASKED,
    _LAYER,
    ("head", pa.int64(), "head, from 1; null: the mean over heads"),
    _METRIC,
    ("value", pa.float64(), "attention weight, 0 to 1, averaged over prompts"),
    ("standard_error", pa.float64(), "standard error of the mean over prompts"),
    ("prompts", pa.int64(), "prompts averaged over"),
)

LLM_ACCURACY = _schema(
    "How often the right label word is the more likely one",
    *_ASKED,
    _CUT,
    ("accuracy", pa.float64(), "share of prompts, 0 to 1"),
    ("low", pa.float64(), "lower end of Wilson's interval at 95 per cent"),
    ("high", pa.float64(), "upper end"),
    ("prompts", pa.int64(), "prompts asked"),
)

LLM_SOURCES = _schema(
    "The models and data sets behind the LLM tables",
    ("kind", pa.string(), "model or dataset"),
    ("name", pa.string(), "name under llm.models or llm.datasets"),
    ("revision", pa.string(), "revision of the hub's repository, version of the package, or local"),
    ("origin", pa.string(), "repository, package, or name of the local file or folder"),
    ("sha256", pa.string(), "checksum of the weights, or of the texts and labels in their order"),
    ("texts", pa.int64(), "texts of a data set"),
    ("same_as", pa.string(), "an earlier revision of the model with the same weights"),
)

LLM_ANSWERS = _schema(
    "The answer to every prompt",
    *_ASKED,
    _CUT,
    ("query", pa.int64(), "row of the data set that is asked about, from 0"),
    ("half", pa.int64(), "half of the queries, 0 or 1: heads cut in one are found on the other"),
    ("label", pa.int64(), "its label: 0 negative, 1 positive"),
    ("predicted", pa.int64(), "the label whose word is the more likely next token"),
    ("margin", pa.float64(), "logit of the positive word minus logit of the negative one"),
)

LLM_SUMS = _schema(
    "Sums of the circuit metrics over the prompts of a shard",
    *_ASKED,
    ("half", pa.int64(), "half of the queries, 0 or 1"),
    _LAYER,
    ("head", pa.int64(), "head, from 1; null: the mean over heads"),
    _METRIC,
    ("sum", pa.float64(), "sum over prompts"),
    ("sum_of_squares", pa.float64(), "sum of squares over prompts"),
    ("prompts", pa.int64(), "prompts summed over"),
)

LLM_TABLES: dict[str, pa.Schema] = {
    "llm_circuits": LLM_CIRCUITS,
    "llm_accuracy": LLM_ACCURACY,
    "llm_sources": LLM_SOURCES,
}
"""The tables over all language models, by name."""

RUN_TABLES: dict[str, pa.Schema] = {
    "runs": RUNS,
    "training": TRAINING,
    "circuits": CIRCUITS,
    "attention": ATTENTION,
    "example_attention": EXAMPLE_ATTENTION,
    "attribution": ATTRIBUTION,
    "phases": PHASES,
    "theory": THEORY,
    "ability_levels": ABILITY_LEVELS,
    "class_frequencies": CLASS_FREQUENCIES,
}
"""The tables collected over runs, by name."""

FINDING_TABLES: dict[str, pa.Schema] = {
    "census": CENSUS,
    "departures": DEPARTURES,
    "abilities": ABILITIES,
    "gradient_estimates": GRADIENT_ESTIMATES,
    "prerequisites": PREREQUISITES,
}
"""The tables kept beside figures of many runs, by the name of the drawing."""

FIGURE_TABLES = RUN_TABLES | {
    name: pa.schema([*(pa.field(*field[:2]) for field in (_RUN, _SEED)), *schema])
    for name, schema in DATASET_TABLES.items()
}
"""The tables as figures read them: those of runs, and those of their worlds with `run` and `seed`."""

TABLES: dict[str, pa.Schema] = RUN_TABLES | LLM_TABLES | {"claims": CLAIMS}
"""The tables of results/tables whose names no figure gives, by name."""
