"""The grid of departures: one row a run, with its cell and what came of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from made_runs import Made, data_of

from circuit_phases import schemas, tables
from circuit_phases.departures import departures_table
from circuit_phases.figure_data import FigureData
from circuit_phases.settings import RunSettings


def test_every_run_is_a_row_with_its_cell_phases_and_last_accuracy(tmp_path: Path) -> None:
    text = RunSettings.from_parameters(max_steps=100_000)
    other = RunSettings.from_parameters(max_steps=100_000, positions="random", output_projection=False)
    runs = [Made(text), Made(other, phases={1: (2_000, 12_000), 2: (20_000, 100_000)}, last=0.7)]
    tables.write_table(tmp_path / "departures.parquet", departures_table(data_of(runs)), schemas.DEPARTURES)
    first, second = tables.read_table(tmp_path / "departures.parquet", schemas.DEPARTURES).to_pylist()
    assert (first["run"], second["run"]) == (text.name, other.name)
    assert (first["positions"], first["output_projection"], first["phases"]) == ("fixed", True, "1, 3")
    assert (second["positions"], second["output_projection"], second["phases"]) == ("random", False, "1, 2")
    assert (second["phase_2_start"], second["phase_2_end"], second["phase_2_accuracy"]) == (20_000, 100_000, 0.75)
    assert (first["phase_2_start"], first["phase_2_ceiling"]) == (None, None)
    assert (first["last_accuracy"], second["last_accuracy"]) == (1.0, 0.7)
    # From 0.35 at 12,000 to 1 at 60,000, straight over log steps: 0.99 at 12,000 * 5^(0.64 / 0.65).
    assert (first["solved_step"], second["solved_step"]) == (58_600, None)


def test_no_runs_give_an_empty_table(tmp_path: Path) -> None:
    tables.write_table(
        tmp_path / "departures.parquet",
        departures_table(FigureData((), data_of([Made(RunSettings())]).tables)),
        schemas.DEPARTURES,
    )
    assert pd.read_parquet(tmp_path / "departures.parquet").empty
