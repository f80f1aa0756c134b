# How jobs run, whatever they do: what is not measured, what is asked for first, what is said of those that fail.
import sys

from circuit_phases.files import require_replaceable
from circuit_phases.logs import failures

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
