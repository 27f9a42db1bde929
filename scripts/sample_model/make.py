"""Make the sample models again: train them, or only make their baselines again, in the folders beside this file.

They are logged to a bucket of moto's server, because an artifact names the place that it was logged to, and these must
not name a folder of the person who made them. Copy the printed figures into the models' card, ``README.md`` in this
folder.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import msgspec
import numpy as np
import yaml

from artifacts import MLMODEL, S3Artifact
from digests import digest_of
from features import DEFAULT_FEATURES
from model import load_model
from model_metadata import KEY, BaselineFile, ModelMetadata, TrainedOn
from rides import Ride
from scripts.cli import SAMPLE_MODELS
from scripts.localaws import moto
from scripts.models.baseline import FILE, encode, make_baseline
from scripts.models.months import read_months
from served.arrays import Floats
from served.forms import FLAVOR
from targets import TARGETS

BUCKET = "models"
OPTIONS = ("--model", "ridge", "--min-pair-count", "8", "--alone")
COMPLETE = "duration"
"""The model that keeps the pipeline as scikit-learn's own, beside its served form, so that mlflow can load it too."""
PUBLISHED = (MLMODEL, "served_form.safetensors", FILE)
"""The files of the other models: what the services load, and what shows drift."""


def main() -> None:
    """Train on the first file and measure on the second; if a training fails, exit with its code."""
    options = parse_arguments()
    for name in options.only:
        if not options.baselines:
            train(name, options.january, options.february)
        add_baseline(name, options.january, options.february)
        folder = SAMPLE_MODELS[name]
        print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()):,} bytes")


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description="Train the sample models again and replace those in scripts/sample_model.",
        epilog="The TLC's trip record page has both files; the URLs do as well.",
    )
    parser.add_argument("january", metavar="green_tripdata_2023-01.parquet", help="the rides to train on")
    parser.add_argument("february", metavar="green_tripdata_2023-02.parquet", help="the rides to measure it on")
    parser.add_argument("--only", nargs="+", choices=SAMPLE_MODELS, default=list(SAMPLE_MODELS), help="make only these")
    baselines = "keep the models, and make only their baselines again"
    parser.add_argument("--baselines", action="store_true", help=baselines)
    return parser.parse_args()


def train(name: str, january: str, february: str) -> None:
    """Train a model, and replace the files of its folder."""
    # The user's own variables could send the model elsewhere.
    others = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    with moto.serve() as endpoint, tempfile.TemporaryDirectory() as folder:
        local = {
            **moto.DUMMY_CREDENTIALS,
            "AWS_ENDPOINT_URL": endpoint,
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{BUCKET}",
        }
        os.environ.clear()
        os.environ.update(others, **local)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        command = [sys.executable, "-m", "scripts.start", "train", january, "--validate", february]
        command += ["--target", name, *OPTIONS]
        if code := subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            sys.exit(code)
        replace(SAMPLE_MODELS[name], S3Artifact(f"s3://{BUCKET}"), is_complete=name == COMPLETE)


def replace(folder: Path, bucket: S3Artifact, *, is_complete: bool) -> None:
    """Replace the files of the folder by those of the only model in the bucket, which has a run's files too."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in bucket.names():
        if "/models/" in name and (is_complete or Path(name).name in PUBLISHED):
            (folder / Path(name).name).write_bytes(bucket.read(name))
    if not is_complete:
        description = read_description(folder)
        description["flavors"] = {FLAVOR: description["flavors"][FLAVOR]}
        # They name files that the folder does not have.
        for key in ("saved_input_example_info", "model_size_bytes"):
            description.pop(key, None)
        write_description(folder, description)


def add_baseline(name: str, january: str, february: str) -> None:
    """Make the baseline of a model, and let its MLmodel file describe the model as a training does today."""
    folder, target = SAMPLE_MODELS[name], TARGETS[name]
    rides, validation = read_months([january], [february], target)
    description = read_description(folder)
    # An older baseline may have a format that is not read any more.
    description.pop("metadata", None)
    write_description(folder, description)
    # The served form predicts what scikit-learn predicts, to the last bit.
    model = load_model(str(folder))

    def predict(rides: Sequence[Ride]) -> Floats:
        plain = [Ride(ride.PULocationID, ride.DOLocationID, ride.trip_distance) for ride in rides]
        return np.array(model.predict(plain), np.float64)

    content = encode(make_baseline(rides, validation, predict(validation.rides), target, predict))
    (folder / FILE).write_bytes(content)
    trained_on = TrainedOn(list(rides.files), len(rides.rides), rides.first, rides.last)
    kept = BaselineFile(FILE, digest_of(content))
    metadata = ModelMetadata(target.name, target.field, target.unit, DEFAULT_FEATURES, trained_on, kept)
    write_description(folder, {**description, "metadata": {KEY: msgspec.to_builtins(metadata)}})


def read_description(folder: Path) -> Any:
    """Return the content of a folder's MLmodel file."""
    return yaml.safe_load((folder / MLMODEL).read_text())


def write_description(folder: Path, description: Any) -> None:
    """Write a folder's MLmodel file as MLflow does."""
    (folder / MLMODEL).write_text(yaml.safe_dump(description, default_flow_style=False, allow_unicode=True))


if __name__ == "__main__":
    main()
