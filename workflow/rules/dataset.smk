# The world of each run: class means, label vectors, label tables, frozen evaluation sequences.


rule dataset:
    output:
        class_means=f"{DATASET}/class_means.parquet",
        label_vectors=f"{DATASET}/label_vectors.parquet",
        label_tables=f"{DATASET}/label_tables.parquet",
        evaluation_sequences=f"{DATASET}/evaluation_sequences.parquet",
    log:
        f"{RESULTS}/logs/dataset/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/dataset/{{dataset}}.tsv"
    group:
        "worlds"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(5),
        side_by_side=1,
    params:
        world=lambda wildcards: world_of(wildcards).settings.world.model_dump(),
        seed=lambda wildcards: world_of(wildcards).world_seed,
        code=code_of("datasets", script="dataset.py"),
    run:
        in_worker("dataset.py", input, output, params, wildcards, threads, log)


rule class_frequencies:
    input:
        dataset_of,
    output:
        f"{RUN}/class_frequencies.parquet",
    log:
        f"{RESULTS}/logs/class_frequencies/{{run}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/class_frequencies/{{run}}/seed-{{seed}}.tsv"
    group:
        "worlds"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(5),
        side_by_side=1,
    params:
        run=run_parameters,
        code=code_of("class_frequencies", script="class_frequencies.py"),
    run:
        in_worker(
            "class_frequencies.py", input, output, params, wildcards, threads, log
        )
