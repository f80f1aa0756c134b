# Runs inside Snakemake.
from pathlib import Path

from circuit_phases.stages import collect

collect(snakemake.wildcards.table, list(snakemake.input), Path(snakemake.output[0]))
