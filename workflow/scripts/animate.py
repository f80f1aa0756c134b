from pathlib import Path

from circuit_phases.figure_data import Series
from circuit_phases.figures import ANIMATIONS
from circuit_phases.logs import job_log
from circuit_phases.stages import animate

with job_log(snakemake.log[0]):
    animate(
        [Series.of(each) for each in snakemake.params.series],
        {table: snakemake.input.get(table) for table in ANIMATIONS["animation"]},
        gif=Path(snakemake.output.gif),
        mp4=Path(snakemake.output.mp4),
        html=Path(snakemake.output.html),
    )
