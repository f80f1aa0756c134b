from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.stages import collect

with job_log(snakemake.log[0]):
    collect(snakemake.wildcards.table, list(snakemake.input), Path(snakemake.output[0]))
