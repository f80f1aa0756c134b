# The files that the configuration comes of, looked at before Snakemake takes them.
# It takes the last of equal keys, and does not say which file is no YAML.
from pathlib import Path

from circuit_phases.config_file import read_values
from circuit_phases.files import UserError
from snakemake.exceptions import WorkflowError

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
