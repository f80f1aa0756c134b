from pathlib import Path

from circuit_phases.llm.settings import LlmSettings
from circuit_phases.llm.stages import Shard, cut_shard
from circuit_phases.logs import job_log
from circuit_phases.stages import use_threads

with job_log(snakemake.log[0]):
    use_threads(snakemake.threads)
    cut_shard(
        Shard(
            LlmSettings(**snakemake.params.settings),
            {name: snakemake.wildcards[name] for name in ("model", "revision", "dataset")},
            snakemake.params.queries,
            int(snakemake.wildcards.shard),
        ),
        model=Path(snakemake.input.model),
        dataset=Path(snakemake.input.dataset),
        sums=list(snakemake.input.sums),
        answers=Path(snakemake.output[0]),
    )
