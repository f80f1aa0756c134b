from pathlib import Path

from circuit_phases.llm.stages import collect
from circuit_phases.logs import job_log

with job_log(snakemake.log[0]):
    collect(snakemake.wildcards.llm_table, list(snakemake.input), Path(snakemake.output[0]))
