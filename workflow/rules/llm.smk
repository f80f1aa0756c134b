# The circuits in language models: ask in shards, cut attention, collect, draw.


wildcard_constraints:
    shard=r"\d+",
    llm_table="|".join(LLM_TABLES),
    llm_figure="|".join(LLM_FIGURES),


rule llm_evaluation:
    input:
        model=rules.llm_model.output.weights,
        dataset=rules.llm_dataset.output.folder,
    output:
        answers=f"{SHARD}/answers.parquet",
        sums=f"{SHARD}/sums.parquet",
    log:
        f"{RESULTS}/logs/llm_evaluation/{{model}}/{{revision}}/{{dataset}}/shard-{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/llm_evaluation/{{model}}/{{revision}}/{{dataset}}/shard-{{shard}}.tsv"
    cache: CACHE
    conda:
        "../envs/llm.yaml"
    threads: LLM.threads
    resources:
        mem_mb=lambda wildcards, attempt: LLM.models[wildcards.model].memory_mb
        * attempt,
        runtime=growing(240),
        gpu=int(LLM.device != "cpu"),
    params:
        settings=llm_settings(),
        queries=lambda wildcards: LLM.datasets[wildcards.dataset].queries,
        identity=lambda wildcards: dict(wildcards.items()),
        code=code_of("llm.evaluation", script="llm_evaluation.py"),
    script:
        "../scripts/llm_evaluation.py"


rule llm_cutting:
    input:
        model=rules.llm_model.output.weights,
        dataset=rules.llm_dataset.output.folder,
        sums=expand(
            rules.llm_evaluation.output.sums,
            shard=range(LLM.shards),
            allow_missing=True,
        ),
    output:
        f"{SHARD}/cuts.parquet",
    log:
        f"{RESULTS}/logs/llm_cutting/{{model}}/{{revision}}/{{dataset}}/shard-{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/llm_cutting/{{model}}/{{revision}}/{{dataset}}/shard-{{shard}}.tsv"
    cache: CACHE
    conda:
        "../envs/llm.yaml"
    threads: LLM.threads
    resources:
        mem_mb=lambda wildcards, attempt: LLM.models[wildcards.model].memory_mb
        * attempt,
        runtime=growing(240),
        gpu=int(LLM.device != "cpu"),
    params:
        settings=llm_settings("cuts"),
        queries=lambda wildcards: LLM.datasets[wildcards.dataset].queries,
        identity=lambda wildcards: dict(wildcards.items()),
        code=code_of("llm.cutting", "llm.evaluation", script="llm_cutting.py"),
    script:
        "../scripts/llm_cutting.py"


cached("llm_evaluation", "llm_cutting")


rule llm_table:
    input:
        table_parts,
    output:
        f"{RESULTS}/tables/{{llm_table}}.parquet",
    log:
        f"{RESULTS}/logs/llm_table/{{llm_table}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/llm_table/{{llm_table}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(5),
    params:
        order=EVALUATIONS,
        code=code_of("llm.summaries", script="llm_table.py"),
    run:
        in_worker("llm_table.py", input, output, params, wildcards, threads, log)


rule llm_figure:
    input:
        unpack(
            lambda wildcards: {
                table: [f"{RESULTS}/tables/{table}.parquet"]
                for table in LLM_FIGURES[wildcards.llm_figure]
            }
        ),
    output:
        pdf=f"{RESULTS}/figures/{{llm_figure}}.pdf",
        png=in_report(f"{RESULTS}/figures/{{llm_figure}}.png"),
    log:
        f"{RESULTS}/logs/figure/{{llm_figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure/{{llm_figure}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(5),
    params:
        drawing=lambda wildcards: wildcards.llm_figure,
        series=[],
        phases={},
        code=lambda wildcards: code_of(
            f"figures.{wildcards.llm_figure}", "figures.drawing", script="figure.py"
        ),
        caption=figure_caption,
    run:
        in_worker("figure.py", input, output, params, wildcards, threads, log)


rule llm:
    input:
        expand(rules.llm_table.output, llm_table=LLM_TABLES) if EVALUATIONS else [],
        expand(rules.llm_figure.output.pdf, llm_figure=configuration.llm_figures),


# `snakemake fig10` makes one figure.
for figure in configuration.llm_figures:

    rule:
        name:
            figure
        input:
            f"{RESULTS}/figures/{figure}.pdf",
