# What the report shows beside the figures; their captions stand in workflow/report and in config.yaml.

REPORT_PAGES = ("claims", "ceilings", "run_times", "provenance")


rule report_pages:
    input:
        claims=rules.claims.output[0],
        theory=f"{RESULTS}/tables/theory.parquet",
        runs=f"{RESULTS}/tables/runs.parquet",
    output:
        **{
            page: report(
                f"{RESULTS}/report/{page}.html",
                category=configuration.numbered_section(TABLES_SECTION),
                labels={"table": page.replace("_", " ")},
                caption=f"../report/{page}.rst",
            )
            for page in REPORT_PAGES
        },
    log:
        f"{RESULTS}/logs/report_pages.log",
    benchmark:
        f"{RESULTS}/benchmarks/report_pages.tsv"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(5),
    params:
        code=code_of("report", script="report_pages.py"),
    run:
        in_worker("report_pages.py", input, output, params, wildcards, threads, log)
