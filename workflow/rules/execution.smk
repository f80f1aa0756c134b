# How jobs run, whatever they do: what is not measured, what is asked for first, what is said of those that fail.
import sys

from circuit_phases.logs import failures
from circuit_phases.tables import require_whole_worlds

# A short job that is no process of its own cannot be measured; to try takes longer than many a job.
if workflow.is_main_process:
    without_benchmarks(each for each in workflow.rules if each.is_run)


# Snakemake removes what a job is to make anew: it would say with a traceback that it may not, and a finished training
# would be gone before its job found the world damaged.
onstart:
    jobs = list(workflow.dag.needrun_jobs())
    made = {path for job in jobs for path in job.output}
    again = [job for job in jobs if any(Path(path).exists() for path in job.output)]
    try:
        require_replaceable(
            Path(path)
            for job in jobs
            for path in filter(None, (*job.output, *job.log, job.benchmark))
        )
        require_whole_worlds(
            {Path(path) for job in again for path in job.input if path not in made}
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
