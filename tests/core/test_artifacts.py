"""Finding and reading the files of MLflow models."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from artifacts import ModelError, NoSuchFileError, describe, find_run, open_artifact

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


NOT_PLAIN = [
    *("a: [", "\x00", "a: 2023-99-99", "? [a]\n: b", "<<: 3\na: b"),
    *("!!python/object/apply:os.getcwd []", "a: !!bool foo", "a: !!int x", "a: !!timestamp x", "a: !!binary '*'"),
    *("[" * 1000, "a: {" * 1000, "a: &x [b]\nc: *x", "a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]", "a: 1\n" * 100_000),
    "a: &a\n  b: *a",
]
"""Content of a file that is no plain YAML, or too much of it."""


def log(s3: "S3Client", bucket: str, folder: str, run_id: str) -> None:
    """Put an MLmodel file where MLflow puts it, beside another file."""
    s3.put_object(Bucket=bucket, Key=f"{folder}/MLmodel", Body=f"run_id: {run_id}\n".encode())
    s3.put_object(Bucket=bucket, Key=f"{folder}/model.skops", Body=b"model")


class TestFindRun:
    """Finding a run's model in a bucket, without a tracking server."""

    def test_a_run_is_found_in_the_layout_of_mlflow_2(self, s3: "S3Client", bucket: str) -> None:
        """The model is under its run."""
        log(s3, bucket, "1/abc/artifacts/model", "abc")
        assert find_run(bucket, "1", "abc") == f"s3://{bucket}/1/abc/artifacts/model"

    def test_a_run_is_found_in_the_layout_of_mlflow_3(self, s3: "S3Client", bucket: str) -> None:
        """The model is beside its run, and its MLmodel names the run."""
        for model, run in [("m-1", "other"), ("m-2", "abc"), ("m-3", "another")]:
            log(s3, bucket, f"7/models/{model}/artifacts", run)
        s3.put_object(Bucket=bucket, Key="7/abc/artifacts/plot.png", Body=b"a file that was logged to the run")
        assert find_run(bucket, "7", "abc") == f"s3://{bucket}/7/models/m-2/artifacts"

    def test_a_model_of_another_experiment_is_not_taken(self, s3: "S3Client", bucket: str) -> None:
        """Experiment 1 is not experiment 11."""
        log(s3, bucket, "11/models/m-1/artifacts", "abc")
        with pytest.raises(ModelError, match="MLFLOW_EXPERIMENT_ID"):
            find_run(bucket, "1", "abc")

    def test_a_broken_neighbour_hides_no_model(self, s3: "S3Client", bucket: str) -> None:
        """Another run's half-written MLmodel must not stop this run's cold start."""
        log(s3, bucket, "1/models/m-2/artifacts", "abc")
        s3.put_object(Bucket=bucket, Key="1/models/m-1/artifacts/MLmodel", Body=b"")
        for number, text in enumerate(NOT_PLAIN):
            s3.put_object(Bucket=bucket, Key=f"1/models/m-3{number}/artifacts/MLmodel", Body=text.encode())
        s3.put_object(Bucket=bucket, Key="1/models/m-2/artifacts/sub/artifacts/MLmodel", Body=b"run_id: abc")
        assert find_run(bucket, "1", "abc") == f"s3://{bucket}/1/models/m-2/artifacts"

    def test_several_models_of_one_run_are_an_error(self, s3: "S3Client", bucket: str) -> None:
        """A person has to choose one of them."""
        for model in ("m-1", "m-2"):
            log(s3, bucket, f"1/models/{model}/artifacts", "abc")
        with pytest.raises(ModelError, match="MODEL_LOCATION.*m-1/artifacts.*m-2/artifacts"):
            find_run(bucket, "1", "abc")

    def test_a_run_without_a_model_says_what_to_check(self, bucket: str) -> None:
        """Any of the three variables could be wrong."""
        with pytest.raises(ModelError, match="MODEL_BUCKET.*RUN_ID"):
            find_run(bucket, "1", "abc")

    def test_a_missing_bucket_is_named(self, endpoint: str) -> None:
        """The error also names the variable to check."""
        with pytest.raises(ModelError, match="no bucket no-such-bucket.*MODEL_BUCKET"):
            find_run("no-such-bucket", "1", "abc")


class TestLocations:
    """A folder and a prefix in S3 behave alike."""

    @pytest.fixture(params=["folder", "s3"])
    def location(self, request: pytest.FixtureRequest, tmp_path: Path, s3: "S3Client", bucket: str) -> str:
        """Make a location with the files MLmodel and data/model.bin."""
        files = {"MLmodel": b"run_id: abc", "data/model.bin": b"\x00\x01"}
        if request.param == "s3":
            for name, content in files.items():
                s3.put_object(Bucket=bucket, Key=f"some/model/{name}", Body=content)
            s3.put_object(Bucket=bucket, Key="some/model-2/MLmodel", Body=b"a neighbour")
            return f"s3://{bucket}/some/model/"
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return str(tmp_path)

    def test_files_are_listed_and_read(self, location: str) -> None:
        """Names are relative to the location."""
        artifact = open_artifact(location)
        assert artifact.names() == ["MLmodel", "data/model.bin"]
        assert artifact.read("data/model.bin") == b"\x00\x01"
        assert describe(artifact) == {"run_id": "abc"}

    def test_a_missing_file_is_named(self, location: str) -> None:
        """The error has a type of its own."""
        with pytest.raises(NoSuchFileError, match="model.skops"):
            open_artifact(location).read("model.skops")


class TestNoModel:
    """Locations without a model that can be read."""

    def test_a_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        """The message says what to set."""
        with pytest.raises(ModelError, match="no folder.*MODEL_LOCATION"):
            open_artifact(str(tmp_path / "nowhere"))

    def test_a_folder_without_mlmodel_is_an_error(self, tmp_path: Path) -> None:
        """The message says what to set."""
        with pytest.raises(ModelError, match="no MLmodel.*MODEL_LOCATION"):
            describe(open_artifact(str(tmp_path)))

    @pytest.mark.parametrize("text", [*NOT_PLAIN, "only text", ""])
    def test_an_invalid_mlmodel_is_named(self, tmp_path: Path, text: str) -> None:
        """One line names the broken file."""
        (tmp_path / "MLmodel").write_text(text)
        with pytest.raises(ModelError, match="MLmodel") as caught:
            describe(open_artifact(str(tmp_path)))
        assert "\n" not in str(caught.value)

    def test_a_missing_permission_is_named(self, endpoint: str, s3: "S3Client", bucket: str) -> None:
        """The error for AccessDenied names the action that the role lacks."""
        # moto checks no roles by default, but it does check the policy of a bucket.
        artifact = open_artifact(f"s3://{bucket}/model")
        s3.put_bucket_policy(
            Bucket=bucket,
            Policy='{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*",'
            f'"Action": "s3:GetObject", "Resource": "arn:aws:s3:::{bucket}/*"}}]}}',
        )
        s3.put_object(Bucket=bucket, Key="model/MLmodel", Body=b"run_id: abc")
        with pytest.raises(ModelError, match="s3:GetObject"):
            artifact.read("MLmodel")

    def test_an_unreachable_endpoint_is_an_error(self, aws_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error names the file, and then says what the SDK says."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(ModelError, match="s3://models/m/MLmodel cannot be read"):
            open_artifact("s3://models/m").read("MLmodel")
