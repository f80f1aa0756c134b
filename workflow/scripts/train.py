from pathlib import Path

from circuit_phases.logs import job_log
from circuit_phases.stages import prepare_torch, run_settings, train_seeds

with job_log(snakemake.log[0]):
    prepare_torch(snakemake.threads)
    train_seeds(
        run_settings(snakemake.params.run),
        snakemake.params.seeds,
        datasets=[Path(path).parent for path in snakemake.input if path.endswith("class_means.parquet")],
        folders=[Path(path).parent for path in snakemake.output if path.endswith("training.parquet")],
        device=snakemake.config["device"],
        seconds_between_saves=snakemake.config["seconds_between_saves"],
    )
