# One job per configuration and seed.


rule train:
    input:
        dataset_of,
    output:
        training=f"{RUN}/training.parquet",
        run=f"{RUN}/run.parquet",
        checkpoints=directory(f"{RUN}/checkpoints"),
    log:
        f"{RESULTS}/logs/train/{{run}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{run}}/seed-{{seed}}.tsv"
    conda:
        "../envs/circuit-phases.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        run=run_parameters,
        code=code_digest("training"),
    script:
        "../scripts/train.py"
