# One table over all runs of the figures in scope.


rule table:
    input:
        lambda wildcards: table_paths(
            wildcards.table, configuration.run_seeds(wildcards.table)
        ),
    output:
        f"{RESULTS}/tables/{{table}}.parquet",
    log:
        f"{RESULTS}/logs/table/{{table}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/table/{{table}}.tsv"
    group:
        "tables"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(5),
    run:
        in_worker("table.py", input, output, params, wildcards, threads, log)


rule tables:
    input:
        expand(rules.table.output, table=TABLES),
