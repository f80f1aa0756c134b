"""A short campaign of faults against the tiny workflow; `make faults` runs a long one."""

from __future__ import annotations

import pytest
from faults import IN_PROGRESS, KILLS, TABLES, Campaign, alter, truncate


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("faults") / "project", seed=1, targets=("fig04", *TABLES))


def test_a_damaged_finished_file_is_named_and_the_rerun_is_whole(campaign: Campaign) -> None:
    campaign.damage("runs/*/*/checkpoints/*.safetensors", alter)
    campaign.damage("runs/*/*/training.parquet", truncate)
    assert sum(campaign.counts.values()) == 2


def test_a_damaged_file_in_progress_is_named_and_the_rerun_is_whole(campaign: Campaign) -> None:
    campaign.damage_in_progress(IN_PROGRESS[0], alter)


def test_a_training_that_ends_without_snakemake_is_not_taken_again(campaign: Campaign) -> None:
    campaign.finish_alone()


def test_whatever_is_killed_the_rerun_gives_the_same_bytes(campaign: Campaign) -> None:
    campaign.kills(len(KILLS))
    assert {f"kill: {kind}" for kind in KILLS} <= set(campaign.counts)
