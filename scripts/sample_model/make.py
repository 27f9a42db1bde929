"""Make the sample model again: train it, and copy the model that MLflow logged into the folder ``model``.

It is logged to a bucket of moto's server, because an artifact names the place that it was logged to, and this one must
not name a folder of whoever made it. The printed figures belong into the model's card, ``README.md`` in this folder.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import boto3

from artifacts import S3Artifact
from scripts.localaws import moto

MODEL = Path(__file__).parent / "model"
BUCKET = "models"
OPTIONS = ("--model", "ridge", "--min-pair-count", "8", "--alone")


def main() -> None:
    """Train on the first file and measure on the second; if the training fails, exit with its code."""
    parser = argparse.ArgumentParser(
        description="Train the sample model again and replace the one in scripts/sample_model/model.",
        epilog="The TLC's trip record page has both files; the URLs do as well.",
    )
    parser.add_argument("january", metavar="green_tripdata_2023-01.parquet", help="the rides to train on")
    parser.add_argument("february", metavar="green_tripdata_2023-02.parquet", help="the rides to measure it on")
    options = parser.parse_args()
    # The user's own variables could send the model elsewhere.
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_"))]:
        del os.environ[name]
    with moto.serve() as endpoint, tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            moto.DUMMY_CREDENTIALS,
            AWS_ENDPOINT_URL=endpoint,
            MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
            MLFLOW_DEFAULT_ARTIFACT_ROOT=f"s3://{BUCKET}",
        )
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        command = [sys.executable, "-m", "scripts.start", "train"]
        files = [options.january, "--validate", options.february]
        if code := subprocess.run([*command, *files, *OPTIONS], check=False, stdout=subprocess.DEVNULL).returncode:
            sys.exit(code)
        replace(MODEL, S3Artifact(f"s3://{BUCKET}"))
    print(f"{MODEL}: {sum(file.stat().st_size for file in MODEL.iterdir()):,} bytes")


def replace(folder: Path, bucket: S3Artifact) -> None:
    """Replace the files of the folder by those of the only model in the bucket, which has a run's files too."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in bucket.names():
        if "/models/" in name:
            (folder / Path(name).name).write_bytes(bucket.read(name))


if __name__ == "__main__":
    main()
