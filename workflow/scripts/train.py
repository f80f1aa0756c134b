from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.stages import run_settings, train_run, use_threads

with job_log(snakemake.log[0]):
    use_threads(snakemake.threads)
    train_run(
        run_settings(snakemake.params.run),
        int(snakemake.wildcards.seed),
        dataset=Path(snakemake.input[0]).parent,
        folder=Path(snakemake.output.training).parent,
    )
