from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.stages import make_dataset, prepare_torch, run_settings

with job_log(snakemake.log[0]):
    prepare_torch(snakemake.threads)
    settings = run_settings(snakemake.params.world)
    make_dataset(settings, snakemake.params.seed, Path(snakemake.output.label_tables).parent)
