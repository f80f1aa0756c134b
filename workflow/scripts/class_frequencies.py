from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.stages import count_classes, prepare_torch, run_settings

with job_log(snakemake.log[0]):
    prepare_torch(snakemake.threads)
    count_classes(
        run_settings(snakemake.params.run),
        int(snakemake.wildcards.seed),
        dataset=Path(snakemake.input[0]).parent,
        path=Path(snakemake.output[0]),
    )
