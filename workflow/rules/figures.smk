# Every figure of config.yaml, from the tables of its own runs alone.


rule figure:
    input:
        unpack(figure_tables),
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=in_report(f"{RESULTS}/figures/{{figure}}.png"),
    log:
        f"{RESULTS}/logs/figure/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure/{{figure}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(2000),
        runtime=growing(5),
    params:
        drawing=lambda wildcards: configuration.drawing(wildcards.figure),
        series=figure_series,
        phases=configuration.phases.model_dump(),
        code=lambda wildcards: code_of(
            f"figures.{configuration.drawing(wildcards.figure)}",
            "figures.drawing",
            script="figure.py",
        ),
        caption=figure_caption,
    run:
        in_worker("figure.py", input, output, params, wildcards, threads, log)


rule figures:
    input:
        expand(rules.figure.output.pdf, figure=FIGURE_NAMES),


rule headline:
    input:
        [path for figure in configuration.headline for path in figure_outputs(figure)],


rule animate:
    input:
        unpack(figure_tables),
    output:
        gif=f"{RESULTS}/figures/{{figure}}.gif",
        mp4=f"{RESULTS}/figures/{{figure}}.mp4",
        html=in_report(f"{RESULTS}/figures/{{figure}}.html"),
    log:
        f"{RESULTS}/logs/animate/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/animate/{{figure}}.tsv"
    wildcard_constraints:
        figure=any_of(ANIMATION_NAMES),
    conda:
        "../envs/circuit-phases.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(15),
    params:
        series=figure_series,
        code=code_of("figures.animation", "report", script="animate.py"),
        caption=figure_caption,
    script:
        "../scripts/animate.py"


rule animations:
    input:
        expand(rules.animate.output, figure=ANIMATION_NAMES),


# `snakemake fig04` makes one figure, `snakemake animation` both of its films.
for figure in configuration.figures_in_scope:

    rule:
        name:
            figure
        input:
            figure_outputs(figure),
