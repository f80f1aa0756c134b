from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.stages import compute_theory, prepare_torch, run_settings

with job_log(snakemake.log[0]):
    prepare_torch(snakemake.threads)
    compute_theory(
        run_settings(snakemake.params.run),
        int(snakemake.wildcards.seed),
        dataset=Path(snakemake.input[0]).parent,
        path=Path(snakemake.output.theory),
        ability_levels=Path(snakemake.output.ability_levels),
    )
