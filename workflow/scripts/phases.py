from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.phases import PhaseSettings
from circuit_phases.stages import find_run_phases, run_settings

with job_log(snakemake.log[0]):
    find_run_phases(
        run_settings(snakemake.params.run),
        int(snakemake.wildcards.seed),
        training=Path(snakemake.input.training),
        levels=Path(snakemake.input.levels),
        path=Path(snakemake.output[0]),
        rules=PhaseSettings(**snakemake.params.phases),
    )
