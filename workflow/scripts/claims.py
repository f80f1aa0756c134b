from pathlib import Path

from circuit_phases.figure_data import Series
from circuit_phases.logs import job_log
from circuit_phases.stages import decide_claims

with job_log(snakemake.log[0]):
    experiments = {
        name: [(Series.of(each), each["parameters"]) for each in series]
        for name, series in snakemake.params.experiments.items()
    }
    decide_claims(experiments, dict(snakemake.input.items()), Path(snakemake.output[0]))
