# What each circuit does, and when: interventions on the checkpoints of the runs that a figure asks it of.


rule attribution:
    input:
        dataset_of,
        checkpoints=TRAINED["checkpoints"],
    output:
        f"{RUN}/attribution.parquet",
    log:
        f"{RESULTS}/logs/attribution/{{run}}/seed-{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/attribution/{{run}}/seed-{{seed}}.tsv"
    conda:
        "../envs/circuit-phases.yaml"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        run=run_parameters,
        attribution=configuration.attribution.model_dump(),
        code=code_of("attribution", script="attribution.py"),
    script:
        "../scripts/attribution.py"
