# What can be asked for. The stages stand in workflow/rules, in the order in which data flows.
import sys
from pathlib import Path

from circuit_phases.config_file import read_values
from circuit_phases.files import UserError
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

# Snakemake, which reads them too, takes the last of equal keys and does not say which file is no YAML.
CONFIG_FILES = [
    path
    for path in map(Path, ("config.yaml", *workflow.overwrite_configfiles))
    if path.exists()
]
try:
    for path in CONFIG_FILES:
        read_values(path)
except UserError as error:
    raise WorkflowError(str(error)) from None


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/analyze.smk"
include: "workflow/rules/attribution.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/llm_common.smk"
include: "workflow/rules/llm.smk"
include: "workflow/rules/remote.smk"
include: "workflow/rules/report.smk"


# A short job that is no process of its own cannot be measured; to try takes longer than many a job.
if workflow.is_main_process:
    without_benchmarks(each for each in workflow.rules if each.is_run)


# Snakemake removes what a job is to make anew, and would say with a traceback that it may not.
onstart:
    try:
        require_replaceable(
            Path(path)
            for job in workflow.dag.needrun_jobs()
            for path in filter(None, (*job.output, *job.log, job.benchmark))
        )
    except UserError as error:
        raise WorkflowError(str(error)) from None


onerror:
    print(
        failures(failed_job_logs(log)),
        "To look further: circuit-phases status",
        sep="\n",
        file=sys.stderr,
    )


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.animations.input,
        rules.findings.input,
        rules.llm.input,
        rules.report_pages.output,
