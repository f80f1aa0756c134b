# Runs inside Snakemake.
from pathlib import Path

from circuit_phases.stages import compute_theory, run_settings

compute_theory(
    run_settings(snakemake.params.run),
    int(snakemake.wildcards.seed),
    dataset=Path(snakemake.input[0]).parent,
    path=Path(snakemake.output.theory),
    ability_levels=Path(snakemake.output.ability_levels),
)
