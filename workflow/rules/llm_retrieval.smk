# What comes from outside: weights of language models, and reviews.


localrules:
    llm_model,
    llm_dataset,


wildcard_constraints:
    model="[^/]+",
    revision="[^/]+",


# Without `code`: fetching decides no number, and to fetch again for another line of code takes gigabytes.
rule llm_model:
    input:
        local=lambda wildcards: local_copy(LLM.models[wildcards.model]),
        before=revision_before,
    output:
        weights=WEIGHTS if LLM.keep_weights else temp(WEIGHTS),
        source=f"{MODEL}/source.parquet",
    log:
        f"{RESULTS}/logs/llm_model/{{model}}/{{revision}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/llm_model/{{model}}/{{revision}}.tsv"
    conda:
        "../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(120),
    params:
        source=lambda wildcards: LLM.models[wildcards.model].model_dump(
            exclude={"revisions", "memory_mb"}
        ),
        identity=lambda wildcards: dict(wildcards.items()),
    script:
        "../scripts/llm_model.py"


rule llm_dataset:
    input:
        local=lambda wildcards: local_copy(LLM.datasets[wildcards.dataset]),
    output:
        folder=directory(f"{REVIEWS}/file"),
        source=f"{REVIEWS}/source.parquet",
    log:
        f"{RESULTS}/logs/llm_dataset/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/llm_dataset/{{dataset}}.tsv"
    conda:
        "../envs/llm.yaml"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(10),
    params:
        source=lambda wildcards: LLM.datasets[wildcards.dataset].model_dump(
            exclude={"queries"}
        ),
        identity=lambda wildcards: dict(wildcards.items()),
        code=code_of("llm.data", script="llm_dataset.py"),
    script:
        "../scripts/llm_dataset.py"
