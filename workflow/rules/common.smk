# Helpers of the rules: the configuration, where files lie, and what a rule's code is.
import re
from pathlib import Path
from types import SimpleNamespace

from circuit_phases.captions import caption
from circuit_phases.code_digest import code_digest, library_versions
from circuit_phases.configuration import TABLES_SECTION, parse_configuration
from circuit_phases.claims import TABLES as CLAIM_TABLES
from circuit_phases.figures import ANIMATIONS, FINDINGS, RUN_DRAWINGS, UNTRAINED_TABLES
from circuit_phases.files import UserError, require_replaceable, require_writable
from circuit_phases.schemas import DATASET_TABLES, RUN_TABLES
from circuit_phases.workers import run_script
from snakemake.exceptions import WorkflowError

try:
    configuration = parse_configuration(config, " + ".join(map(str, CONFIG_FILES)))
    if workflow.is_main_process:
        require_writable(Path(configuration.results))
        if not workflow.output_settings.dryrun:
            # Where Snakemake keeps its records; it would say so with a traceback.
            require_replaceable([Path(".snakemake/locks/0.input.lock")])
except UserError as error:
    raise WorkflowError(str(error)) from None

# Scripts read these there; where the config is silent, what the schema says holds.
config |= configuration.model_dump(include={"device", "seconds_between_saves"})

SCRIPTS = Path(workflow.basedir, "workflow", "scripts")
RESULTS = configuration.results
CACHE = workflow.workflow_settings.cache is not None and "omit-software"
RUN = f"{RESULTS}/runs/{{run}}/seed-{{seed}}"
DATASET = f"{RESULTS}/datasets/{{dataset}}"
TABLES = tuple(table for table in RUN_TABLES if table not in UNTRAINED_TABLES)

RUN_SEEDS = {
    (each.settings.name, each.seed): each
    for table in (*TABLES, *UNTRAINED_TABLES)
    for each in configuration.run_seeds(table)
}
TRAINED = {
    "training": f"{RUN}/training.parquet",
    "run": f"{RUN}/run.parquet",
    "checkpoints": f"{RUN}/checkpoints",
}
GPU = int(configuration.device == "cuda")
SEED_GROUPS = (
    configuration.seed_groups(RUN_SEEDS.values())
    if configuration.seeds_together > 1
    else []
)
DATASETS = {each.dataset: each for each in RUN_SEEDS.values()}
ANIMATION_NAMES, FINDING_NAMES = (
    [
        name
        for name in configuration.figures_in_scope
        if configuration.drawing(name) in drawings
    ]
    for drawings in (ANIMATIONS, FINDINGS)
)
FIGURE_NAMES = [
    name for name in configuration.figures_in_scope if name not in ANIMATION_NAMES
]


def growing(amount):
    """A resource that grows with every attempt: docs/cluster.md has what the amounts were measured from."""
    return lambda wildcards, attempt: amount * attempt


def failed_job_logs(snakemake_logs):
    """The logs of the jobs that Snakemake says have failed, each once."""
    told = "".join(Path(path).read_text() for path in snakemake_logs)
    told = re.findall(r"^ +log: (.+) \(check log", told, re.MULTILINE)
    return [Path(path) for path in dict.fromkeys(", ".join(told).split(", ")) if path]


def any_of(names):
    """A constraint to these names, or to nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    run="[^/]+",
    seed=r"\d+",
    dataset="[^/]+",
    table=any_of(RUN_TABLES),
    figure=any_of(FIGURE_NAMES),


def in_worker(script, input, output, params, wildcards, threads, log):
    """Run a short job's script in a process that stays for the next ones."""
    job = SimpleNamespace(
        input=input,
        output=output,
        params=params,
        wildcards=wildcards,
        threads=threads,
        log=log,
        config=config,
        scriptdir=str(SCRIPTS),
    )
    try:
        run_script(SCRIPTS / script, job)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def code_of(*modules, script):
    """What decides a rule's numbers besides its settings: modules, script, and the libraries' versions."""
    digest = code_digest(*modules, script=SCRIPTS / script)
    return [digest, library_versions(*modules)]


def cached(*names):
    """Let rules be taken from a store shared between clones (docs/cache.md), where Snakemake is told to use one.

    What is taken from it took no time here, so that Snakemake refuses benchmarks beside it.
    """
    if workflow.workflow_settings.cache is not None:
        without_benchmarks(workflow.get_rule(name) for name in names)


def without_benchmarks(rules):
    """Let Snakemake measure nothing of these rules' jobs."""
    for each in rules:
        each._benchmark = None


def in_scope(key, among, path, wildcards):
    """What the experiments ask for by this key, which a path names."""
    if key not in among:
        folder = path.format(**wildcards)
        raise WorkflowError(
            f"{folder}: no experiment in scope asks for it. Add it to config.yaml."
        )
    return among[key]


def run_of(wildcards):
    """The run and seed that a path names."""
    return in_scope((wildcards.run, int(wildcards.seed)), RUN_SEEDS, RUN, wildcards)


def world_of(wildcards):
    """A run and seed in the world that a path names."""
    return in_scope(wildcards.dataset, DATASETS, DATASET, wildcards)


def run_parameters(wildcards):
    return run_of(wildcards).settings.parameters


def dataset_of(wildcards):
    """The files of a run's world."""
    dataset = run_of(wildcards).dataset
    return [path.format(dataset=dataset) for path in rules.dataset.output]


def table_paths(table, run_seeds):
    """The per-run files of a table, or those of the runs' worlds."""
    if table in DATASET_TABLES:
        return [
            f"{DATASET.format(dataset=each.dataset)}/{table}.parquet"
            for each in run_seeds
        ]
    name = "run" if table == "runs" else table
    return [
        f"{RUN.format(run=each.settings.name, seed=each.seed)}/{name}.parquet"
        for each in run_seeds
    ]


def figure_tables(wildcards):
    """The files of every table that a figure reads, by the table's name."""
    kept = f"{RESULTS}/tables/{wildcards.figure}.parquet"
    tables = RUN_DRAWINGS[configuration.drawing(wildcards.figure)]
    of_runs = [table for table in tables if table not in FINDINGS]
    findings = {table: [kept] for table in tables if table in FINDINGS}
    return files_of_runs(wildcards.figure, of_runs) | findings


def finding_tables(wildcards):
    """The files of every table that the table kept beside a figure is decided from, by the table's name."""
    return files_of_runs(
        wildcards.figure, FINDINGS[configuration.drawing(wildcards.figure)].tables
    )


def files_of_runs(figure, tables):
    """The per-run files of each table, by its name, in the order of a figure's series and seeds."""
    runs = configuration.runs_of(configuration.figures_in_scope[figure].experiment)
    return {table: table_paths(table, runs) for table in tables}


def figure_series(wildcards):
    """The label, run, seeds and moments with maps of each series of a figure."""
    return [
        {
            "label": each.label,
            "run": each.run,
            "seeds": list(each.seeds),
            "maps": list(each.maps),
        }
        for each, _ in configuration.figure_series(wildcards.figure)
    ]


def figure_caption(wildcards, output):
    """What the report says of a figure; what depends on `output` is no reason to draw it again."""
    return caption(configuration, Path(output[0]).stem)


def in_report(path):
    """A figure's file, shown in the report in the figure's section."""
    return report(
        path,
        category=lambda wildcards: configuration.section(*wildcards),
        labels=lambda wildcards: {"figure": str(*wildcards)},
        caption="../report/figure.rst",
    )


def figure_outputs(figure):
    """All that a figure of config.yaml leaves: its films, or its page and the table kept beside it."""
    if figure in ANIMATION_NAMES:
        return [f"{RESULTS}/figures/{figure}.{ending}" for ending in ("gif", "mp4")]
    table = [f"{RESULTS}/tables/{figure}.parquet"] if figure in FINDING_NAMES else []
    return [f"{RESULTS}/figures/{figure}.pdf", *table]


def series_of(experiment):
    """The label, run, seeds and parameters of each series of an experiment, by the names its runs are kept under."""
    return [
        {
            "label": each.label,
            "run": each.run,
            "seeds": list(each.seeds),
            "parameters": settings.parameters,
        }
        for each, settings in configuration.kept_series(experiment)
    ]
