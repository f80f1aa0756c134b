# A job on another machine is told its wildcards as KEY=VALUE, separated by commas. Names of runs and worlds have commas
# too, and Snakemake cuts at those as well (https://github.com/snakemake/snakemake/issues/2366): what is no wildcard of
# the rule belongs to the value before it.


def rejoin_wildcards(target_jobs):
    for spec in target_jobs:
        pieces = dict(spec.wildcards_dict)
        spec.wildcards_dict.clear()
        for key, value in pieces.items():
            if key in workflow.get_rule(spec.rulename).wildcard_names:
                name = key
                spec.wildcards_dict[name] = value
            else:
                spec.wildcards_dict[name] += f",{key}={value}"


class WorkflowOfWholeWildcards(type(workflow)):
    """Told which jobs to run only after the Snakefile has been read."""

    def __setattr__(self, name, value):
        if name == "dag_settings":
            rejoin_wildcards(value.target_jobs)
        super().__setattr__(name, value)


workflow.__class__ = WorkflowOfWholeWildcards
