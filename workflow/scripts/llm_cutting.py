from pathlib import Path

from circuit_phases.llm.stages import Shard, cut_shard
from circuit_phases.logs import job_log
from circuit_phases.stages import prepare_torch

with job_log(snakemake.log[0]):
    prepare_torch(snakemake.threads)
    cut_shard(
        Shard.of(snakemake.params.settings, snakemake.params.queries, snakemake.wildcards),
        model=Path(snakemake.input.model),
        dataset=Path(snakemake.input.dataset),
        sums=list(snakemake.input.sums),
        answers=Path(snakemake.output[0]),
    )
