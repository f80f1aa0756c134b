# What each run learned: attention and circuits of its checkpoints, ceilings of its world, phases.


rule circuits:
    input:
        dataset_of,
        checkpoints=TRAINED["checkpoints"],
    output:
        attention=f"{RUN}/attention.parquet",
        circuits=f"{RUN}/circuits.parquet",
    log:
        f"{RESULTS}/logs/circuits/{{run}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/circuits/{{run}}/seed-{{seed}}.tsv"
    group:
        "analysis"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(10),
        side_by_side=1,
    params:
        run=run_parameters,
        sequences=configuration.analysis_sequences,
        code=code_of("circuits", script="circuits.py"),
    run:
        in_worker("circuits.py", input, output, params, wildcards, threads, log)


rule example_attention:
    input:
        dataset_of,
        checkpoints=TRAINED["checkpoints"],
    output:
        f"{RUN}/example_attention.parquet",
    log:
        f"{RESULTS}/logs/example_attention/{{run}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/example_attention/{{run}}/seed-{{seed}}.tsv"
    group:
        "analysis"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(5),
        side_by_side=1,
    params:
        run=run_parameters,
        code=code_of("circuits", script="example_attention.py"),
    run:
        in_worker(
            "example_attention.py", input, output, params, wildcards, threads, log
        )


rule theory:
    input:
        dataset_of,
    output:
        theory=f"{RUN}/theory.parquet",
        ability_levels=f"{RUN}/ability_levels.parquet",
    log:
        f"{RESULTS}/logs/theory/{{run}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/theory/{{run}}/seed-{{seed}}.tsv"
    group:
        "analysis"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(10),
        side_by_side=1,
    params:
        run=run_parameters,
        code=code_of("theory", "ability_levels", script="theory.py"),
    run:
        in_worker("theory.py", input, output, params, wildcards, threads, log)


rule phases:
    input:
        training=TRAINED["training"],
        levels=rules.theory.output.ability_levels,
    output:
        f"{RUN}/phases.parquet",
    log:
        f"{RESULTS}/logs/phases/{{run}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/phases/{{run}}/seed-{{seed}}.tsv"
    group:
        "analysis"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(5),
        side_by_side=1,
    params:
        run=run_parameters,
        phases=configuration.phases.model_dump(),
        code=code_of("phases", script="phases.py"),
    run:
        in_worker("phases.py", input, output, params, wildcards, threads, log)
