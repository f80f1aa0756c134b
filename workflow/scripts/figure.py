from pathlib import Path

from circuit_phases.figure_data import Series
from circuit_phases.figures import DRAWINGS
from circuit_phases.logs import job_log
from circuit_phases.phases import PhaseSettings
from circuit_phases.stages import draw_figure

with job_log(snakemake.log[0]):
    drawing = snakemake.params.drawing
    draw_figure(
        drawing,
        [Series.of(each) for each in snakemake.params.series],
        {table: snakemake.input.get(table) for table in DRAWINGS[drawing]},
        rules=PhaseSettings(**snakemake.params.phases),
        pdf=Path(snakemake.output.pdf),
        png=Path(snakemake.output.png),
    )
