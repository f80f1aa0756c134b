from pathlib import Path

from circuit_phases.figure_data import Series
from circuit_phases.figures import FINDINGS
from circuit_phases.logs import job_log
from circuit_phases.stages import keep_finding

with job_log(snakemake.log[0]):
    drawing = snakemake.params.drawing
    keep_finding(
        drawing,
        [Series.of(each) for each in snakemake.params.series],
        {table: snakemake.input.get(table) for table in FINDINGS[drawing].tables},
        Path(snakemake.output[0]),
    )
