# What can be asked for. The stages stand in workflow/rules, in the order in which data flows.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/config_files.smk"


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/analyze.smk"
include: "workflow/rules/attribution.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/claims.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/llm_common.smk"
include: "workflow/rules/llm_retrieval.smk"
include: "workflow/rules/llm.smk"
include: "workflow/rules/remote.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/execution.smk"


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.animations.input,
        rules.findings.input,
        rules.llm.input,
        rules.report_pages.output,
