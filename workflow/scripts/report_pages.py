from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.stages import write_report_pages

with job_log(snakemake.log[0]):
    write_report_pages(
        dict(snakemake.input.items()),
        snakemake.config,
        folder=Path(snakemake.scriptdir),
        pages={name: Path(path) for name, path in snakemake.output.items()},
    )
