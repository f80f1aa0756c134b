from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.stages import analyze_run, prepare_torch, run_settings

with job_log(snakemake.log[0]):
    prepare_torch(snakemake.threads)
    analyze_run(
        run_settings(snakemake.params.run),
        int(snakemake.wildcards.seed),
        dataset=Path(snakemake.input[0]).parent,
        checkpoints=Path(snakemake.input.checkpoints),
        attention=Path(snakemake.output.attention),
        circuits=Path(snakemake.output.circuits),
        first=snakemake.params.sequences,
    )
