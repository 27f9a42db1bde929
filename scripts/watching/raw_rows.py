"""The raw rows of a window beside those of a trip record file, for the tools that need them, such as Evidently."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model import load_from_settings
from scripts import pythons
from scripts.cli import CONSOLE, CommandError
from scripts.sources.download import open_trips
from scripts.watching.windows import PredictedRides, WatchedModel
from settings import ModelSettings
from targets import find_target
from trips import ride_events

SCRIPT = Path(__file__).with_name("evidently_report.py")
MESSAGE_LINES = 3


def write_evidently(
    window: PredictedRides, reference: str, file: str, model: WatchedModel, settings: ModelSettings
) -> None:
    """Write Evidently's report about rides, compared with those of a trip record file, which the model predicts.

    Evidently's packages are installed into an environment of their own when this is called for the first time. Raises
    CommandError if the report cannot be made, TripRecordError, and ModelError.
    """
    rows = _read_reference(reference, model, settings)
    python = pythons.install_python(pythons.MONITORING)
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder) / f"{name}.parquet") for name in ("window", "reference")]
        for name, rides in zip(names, (window, rows), strict=True):
            pq.write_table(_as_table(rides), name)
        with CONSOLE.status("Evidently compares the rows"):
            # Evidently counts its users unless this variable is set. It looks for its settings in the home folder.
            variables = {**os.environ, "DO_NOT_TRACK": "1", "HOME": folder, "XDG_CONFIG_HOME": folder}
            variables.pop("PYTHONPATH", None)
            # Without the script's own folder (-P), whose modules could hide those of packages.
            command = [str(python), "-P", "-W", "ignore", str(SCRIPT), *names, str(Path(file).absolute())]
            done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join(done.stderr.splitlines()[-MESSAGE_LINES:])
        raise CommandError(f"{file}: Evidently could not make its report: {last}")


def _read_reference(source: str, model: WatchedModel, settings: ModelSettings) -> PredictedRides:
    """Return the rides of a file that the model predicts."""
    target = find_target(model.metadata.target, model.metadata.unit)
    with open_trips(source) as path:
        trips = ride_events(path, target, settings.time_zone)
    rides = [event.ride for event in trips.events]
    values = load_from_settings(settings).predict(rides)
    places = [place for place, value in enumerate(values) if isinstance(value, float)]
    if not places:
        raise CommandError(
            f"{source}: the model has no prediction for any of its {len(rides):,} rides: give another --reference"
        )
    predicted = np.array([values[place] for place in places], float)
    # None becomes NaN.
    actual = np.array([trips.actual[place] for place in places], float)
    return PredictedRides.of(model, [rides[place] for place in places], predicted, actual)


def _as_table(rides: PredictedRides) -> Any:
    """Return the rides as a table. Columns that are not known for any ride are left out."""
    columns = {
        "PULocationID": rides.pickups,
        "DOLocationID": rides.dropoffs,
        "trip_distance": rides.miles,
        "hour": rides.hours,
        "prediction": rides.predicted,
        "target": rides.actual,
    }
    known = {name: column for name, column in columns.items() if not np.isnan(column).all()}
    return pa.table({name: pa.array(column, from_pandas=True) for name, column in known.items()})
