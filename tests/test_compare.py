"""One folder of tables against another."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from made_runs import Made, together

from circuit_phases import schemas, tables
from circuit_phases.command_line import main
from circuit_phases.compare import comparison, exit_code, report
from circuit_phases.settings import RunSettings

SETTINGS = RunSettings.from_parameters("released_code")
PHASES = {1: (2_000, 12_000), 3: (60_000, 100_000)}


def runs(**changes) -> list[Made]:
    return [Made(SETTINGS, 0, PHASES), Made(SETTINGS, 1, **{"phases": PHASES} | changes)]


def verdicts(mine: list[Made], reference: list[Made]) -> pd.Series:
    found = comparison(together(mine), together(reference))
    return found.set_index(["run", "seed", "quantity"])["verdict"]


def test_equal_tables_are_equal_in_everything() -> None:
    found = comparison(together(runs()), together(runs()))
    assert set(found["verdict"]) == {"equal"}
    assert exit_code(found) == 0
    assert len(found) == 2 * (2 + 2 * 3)


@pytest.mark.parametrize(
    ("change", "quantity", "expected"),
    [
        ({"last": 0.985}, "last_accuracy", "close"),
        ({"last": 0.97}, "last_accuracy", "different"),
        ({"phases": {1: (2_400, 12_000), 3: (60_000, 100_000)}}, "phase_1_start", "close"),
        ({"phases": {1: (2_600, 12_000), 3: (60_000, 100_000)}}, "phase_1_start", "different"),
        ({"phases": {3: (60_000, 100_000)}}, "phase_1_start", "different"),
        ({"phases": PHASES | {2: (20_000, 30_000)}}, "phase_2_accuracy", "different"),
    ],
)
def test_a_change_is_close_within_the_tolerances_and_different_beyond(change, quantity, expected) -> None:
    found = verdicts(runs(**change), runs())
    assert found[SETTINGS.name, 1, quantity] == expected
    assert set(found[SETTINGS.name, 0]) == {"equal"}


@pytest.mark.parametrize(("mine", "reference", "code"), [(2, 2, 0), (1, 2, 3), (2, 1, 0)])
def test_the_exit_code_tells_of_missing_runs_of_the_reference_alone(mine, reference, code) -> None:
    found = comparison(together(runs()[:mine]), together(runs()[:reference]))
    assert exit_code(found) == code
    assert (found["verdict"] == "missing").any() == (mine != reference)


def test_the_report_names_the_run_and_what_differs() -> None:
    text = report(comparison(together(runs(phases={3: (60_000, 100_000)})), together(runs())))
    assert "different" in text
    assert "released_code seed 1: phase_1_accuracy none for 0.350, phase_1_start none for 2,000" in text
    assert "2 runs: 1 equal, 0 close, 1 different, 0 missing" in text


def write(folder: Path, made: list[Made]) -> str:
    for name, frame in together(made).items():
        tables.write_table(folder / f"{name}.parquet", frame, schemas.RUN_TABLES[name])
    return str(folder)


def test_the_command_prints_keeps_and_tells_by_its_exit_code(tmp_path, capsys) -> None:
    mine, reference = write(tmp_path / "mine", runs(last=0.9)), write(tmp_path / "reference", runs())
    with pytest.raises(SystemExit) as stopped:
        main(["compare", mine, reference, "--table", str(tmp_path / "found.parquet")])
    assert stopped.value.code == 2
    assert "1 different" in capsys.readouterr().out
    kept = tables.read_frame(tmp_path / "found.parquet", schemas.COMPARISON)
    assert (kept["verdict"] == "different").sum() == 1
    with pytest.raises(SystemExit) as stopped:
        main(["compare", reference, reference])
    assert stopped.value.code == 0


def test_a_folder_without_tables_is_told_in_one_line(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", str(tmp_path), str(tmp_path)])
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "training.parquet is missing" in message
    assert message.count("\n") == 1
