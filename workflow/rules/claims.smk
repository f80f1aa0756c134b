# What came out: every claim of the paper, and the tables kept beside figures of many runs.


rule claims:
    input:
        **{table: f"{RESULTS}/tables/{table}.parquet" for table in CLAIM_TABLES},
    output:
        f"{RESULTS}/tables/claims.parquet",
    log:
        f"{RESULTS}/logs/claims.log",
    benchmark:
        f"{RESULTS}/benchmarks/claims.tsv"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(15),
    params:
        experiments={name: series_of(name) for name in configuration.experiments},
        code=code_of("claims", script="claims.py"),
    run:
        in_worker("claims.py", input, output, params, wildcards, threads, log)


rule finding:
    input:
        unpack(finding_tables),
    output:
        f"{RESULTS}/tables/{{figure}}.parquet",
    log:
        f"{RESULTS}/logs/finding/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/finding/{{figure}}.tsv"
    wildcard_constraints:
        figure=any_of(FINDING_NAMES),
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        drawing=lambda wildcards: configuration.drawing(wildcards.figure),
        series=figure_series,
        code=lambda wildcards: code_of(
            FINDINGS[configuration.drawing(wildcards.figure)].module,
            script="finding.py",
        ),
    run:
        in_worker("finding.py", input, output, params, wildcards, threads, log)


rule findings:
    input:
        rules.claims.output,
        expand(rules.finding.output, figure=FINDING_NAMES),
