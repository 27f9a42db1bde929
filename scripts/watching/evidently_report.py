"""Evidently's own report: ``python evidently_report.py WINDOW REFERENCE FILE`` reads two tables and writes a page.

It runs in an environment of its own, which has Evidently's packages and none of the project's, so it imports nothing
of the project. ``raw_rows`` starts it, and sets DO_NOT_TRACK: otherwise Evidently may send home that it is used.
"""

import sys
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Regression, Report
from evidently.presets import DataDriftPreset, DataSummaryPreset, RegressionPreset

ZONES = ["PULocationID", "DOLocationID"]
PREDICTION, TARGET = "prediction", "target"


def write_report(window: pd.DataFrame, reference: pd.DataFrame, file: str) -> None:
    """Write the report about the rows of a window against the reference rows."""
    has_actual = TARGET in window and TARGET in reference
    columns = [name for name in reference if name in window and name not in ZONES]
    definition = DataDefinition(
        numerical_columns=columns,
        categorical_columns=ZONES,
        regression=[Regression(target=TARGET, prediction=PREDICTION)] if has_actual else None,
    )
    datasets = [Dataset.from_pandas(rows[[*ZONES, *columns]], definition) for rows in (window, reference)]
    presets: list[Any] = [DataDriftPreset(), DataSummaryPreset(), *([RegressionPreset()] if has_actual else [])]
    Report(presets).run(*datasets).save_html(file)


if __name__ == "__main__":
    tables = [pd.read_parquet(name).astype(dict.fromkeys(ZONES, str)) for name in sys.argv[1:3]]
    write_report(tables[0], tables[1], sys.argv[3])
