# Runs inside Snakemake.
from pathlib import Path

from circuit_phases.stages import make_dataset, run_settings

settings = run_settings(snakemake.params.world)
make_dataset(settings, snakemake.params.seed, Path(snakemake.output.label_tables).parent)
