from pathlib import Path

from circuit_phases.llm.settings import DatasetSource
from circuit_phases.llm.stages import get_dataset
from circuit_phases.logs import job_log

with job_log(snakemake.log[0]):
    get_dataset(
        snakemake.wildcards.dataset,
        DatasetSource(**snakemake.params.source),
        folder=Path(snakemake.output.folder),
        identity=Path(snakemake.output.source),
    )
