# One job per configuration and seed; or, with seeds_together, per configuration and group of seeds.

if configuration.seeds_together == 1:

    rule train:
        input:
            dataset_of,
        output:
            training=TRAINED["training"],
            run=TRAINED["run"],
            checkpoints=directory(TRAINED["checkpoints"]),
        log:
            f"{RESULTS}/logs/train/{{run}}/seed-{{seed}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/train/{{run}}/seed-{{seed}}.tsv"
        cache: CACHE
        conda:
            "../envs/circuit-phases.yaml"
        threads: 1
        resources:
            mem_mb=growing(2000),
            runtime=growing(240),
            gpu=GPU,
        params:
            run=run_parameters,
            seeds=lambda wildcards: [int(wildcards.seed)],
            code=code_of("training", script="train.py"),
        script:
            "../scripts/train.py"

    cached("train")


for number, (run, seeds) in enumerate(SEED_GROUPS):

    rule:
        name:
            f"train_together_{number}"
        input:
            [
                path
                for seed in seeds
                for path in expand(
                    rules.dataset.output, dataset=RUN_SEEDS[run, seed].dataset
                )
            ],
        output:
            training=expand(TRAINED["training"], run=run, seed=seeds),
            run=expand(TRAINED["run"], run=run, seed=seeds),
            checkpoints=[
                directory(path)
                for path in expand(TRAINED["checkpoints"], run=run, seed=seeds)
            ],
        log:
            f"{RESULTS}/logs/train/{run}/seeds-{'-'.join(map(str, seeds))}.log",
        benchmark:
            f"{RESULTS}/benchmarks/train/{run}/seeds-{'-'.join(map(str, seeds))}.tsv"
        conda:
            "../envs/circuit-phases.yaml"
        threads: 1
        resources:
            mem_mb=growing(1500 + 500 * len(seeds)),
            runtime=growing(240),
            gpu=GPU,
        params:
            run=RUN_SEEDS[run, seeds[0]].settings.parameters,
            seeds=seeds,
            code=code_of("training", script="train.py"),
        script:
            "../scripts/train.py"
