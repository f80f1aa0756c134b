# Helpers of the rules of llm.smk: settings, where files lie, shards.
from circuit_phases.figures import LLM_FIGURES
from circuit_phases.schemas import LLM_TABLES

LLM = configuration.llm
EVALUATIONS = configuration.evaluations
MODEL = f"{RESULTS}/llm/models/{{model}}/{{revision}}"
REVIEWS = f"{RESULTS}/llm/datasets/{{dataset}}"
WEIGHTS = directory(f"{MODEL}/weights")
SHARD = f"{RESULTS}/llm/evaluations/{{model}}/{{revision}}/{{dataset}}/shard-{{shard}}"


def llm_settings(*names):
    """The settings that decide a job's numbers."""
    kept = {"prompts", "dtype", "device", "batch_size", "shards", *names}
    return {name: value for name, value in LLM.model_dump().items() if name in kept}


def shards(pattern, evaluations):
    """The files of every shard of some evaluations."""
    return [
        pattern.format(model=model, revision=revision, dataset=dataset, shard=shard)
        for model, revision, dataset in evaluations
        for shard in range(LLM.shards)
    ]


def local_copy(source):
    """The files of a local path, each known by its content; a path that is not there is told by the job."""
    path = Path(source.path) if source.path else None
    if path is None or not path.is_dir():
        return [source.path] if path and path.exists() else []
    return sorted(str(file) for file in path.rglob("*") if file.is_file())


def revision_before(wildcards):
    """Where weights are not kept, the answers of the revision before."""
    names = LLM.models[wildcards.model].names
    place = names.index(wildcards.revision)
    if LLM.keep_weights or place == 0:
        return []
    done = [
        each for each in EVALUATIONS if each[:2] == (wildcards.model, names[place - 1])
    ]
    last = "cuts" if configuration.cuts_in_scope else "answers"
    return ancient(shards(f"{SHARD}/{last}.parquet", done))


def table_parts(wildcards):
    """The files that a table is collected from."""
    if wildcards.llm_table == "llm_sources":
        models = {(model, revision): None for model, revision, _ in EVALUATIONS}
        datasets = {dataset: None for *_, dataset in EVALUATIONS}
        return [f"{RESULTS}/llm/models/{m}/{r}/source.parquet" for m, r in models] + [
            f"{RESULTS}/llm/datasets/{dataset}/source.parquet" for dataset in datasets
        ]
    if wildcards.llm_table == "llm_circuits":
        return shards(f"{SHARD}/sums.parquet", EVALUATIONS)
    cuts = shards(f"{SHARD}/cuts.parquet", EVALUATIONS)
    return (
        shards(f"{SHARD}/answers.parquet", EVALUATIONS)
        + cuts * configuration.cuts_in_scope
    )
