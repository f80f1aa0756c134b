from pathlib import Path

from circuit_phases.llm.settings import ModelSource
from circuit_phases.llm.stages import get_model
from circuit_phases.logs import job_log

with job_log(snakemake.log[0]):
    revision = snakemake.wildcards.revision
    get_model(
        snakemake.wildcards.model,
        ModelSource(**snakemake.params.source, revisions=(revision,)),
        revision,
        folder=Path(snakemake.output.weights),
        identity=Path(snakemake.output.source),
    )
