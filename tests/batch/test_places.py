"""A month's folder or prefix: repairs, runs that write nothing, and file systems that refuse to be written."""

import errno
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch.buckets import MAX_PUT_BYTES, ObjectPlace
from batch.folders import TEMPORARY, FolderPlace
from batch.manifests import MANIFEST, OutputFile
from batch.outputs import BusyError, OutputError
from batch.places import open_place
from batch_job import TakenError
from tests.batch.outputs import Output, check_done, check_nothing_half, copy_model, digests, score, write_month

Mount = Callable[[str], Path]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a month of trips."""
    return write_month(tmp_path / "input", 200)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Give a function that mounts a file system of its own with these options, or changes them."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def change(options: str) -> Path:
        again = ["-o", "remount"] if folder.is_mount() else []
        command = ["mount", "-t", "tmpfs", *again, "-o", options, "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted: {done.stderr}")
        return folder

    try:
        change("size=1m")
        yield change
    finally:
        if folder.is_mount():
            subprocess.run(["umount", "-l", str(folder)], check=True)


def damage_manifest(output: Output) -> None:
    """Cut the manifest off."""
    output.write(MANIFEST, output.read()[MANIFEST][:100])


def remove_part(output: Output) -> None:
    """Remove the predictions."""
    output.remove(next(name for name in output.read() if name.startswith("part-")))


def change_rejections(output: Output) -> None:
    """Change a byte of the rejected rows."""
    name, content = next(item for item in output.read().items() if item[0].startswith("_rejected-"))
    output.write(name, content[:-1] + b"?")


@pytest.mark.parametrize("damage", [damage_manifest, remove_part, change_rejections])
def test_the_same_run_again_repairs_a_damage(output: Output, source: Path, damage: Callable[[Output], None]) -> None:
    """It needs no --force, because the manifest is damaged, or of the same input and model.

    Moto keeps the SHA-256 that it is sent, but, other than AWS, does not verify it.
    """
    score(source, output)
    expected = digests(check_done(output.read()))
    damage(output)
    assert not score(source, output).was_done
    assert digests(check_done(output.read())) == expected


def test_the_same_run_again_writes_nothing(output: Output, source: Path) -> None:
    """Files and folder keep their times, inodes and ETags."""
    first = score(source, output)
    before = output.fingerprints()
    again = score(source, output, force=True)
    assert (first.was_done, again.was_done) == (False, True)
    assert again.counts == first.counts
    assert output.fingerprints() == before


def test_another_input_or_model_needs_force(output: Output, source: Path, tmp_path: Path) -> None:
    """The refusal says which of them is another, and changes nothing."""
    score(source, output)
    before = output.fingerprints()
    other, model = write_month(tmp_path / "input", 100), copy_model(tmp_path / "model")
    with pytest.raises(TakenError, match="has the predictions of another input: --force replaces them"):
        score(other, output)
    with pytest.raises(TakenError, match="of another model: --force"):
        score(source, output, model)
    with pytest.raises(TakenError, match="of another input and another model: --force"):
        score(other, output, model)
    assert output.fingerprints() == before
    assert not score(other, output, model, force=True).was_done
    assert check_done(output.read()).counts.predicted == 100


def test_files_of_others_stay(output: Output, source: Path, tmp_path: Path) -> None:
    """Only files that a run has written are removed, and a folder in a folder is nobody's file."""
    score(source, output)
    output.write("README.md", b"Do not remove")
    if not output.s3:
        (Path(output.month) / ".snapshots").mkdir()
    score(write_month(tmp_path / "input", 100), output, force=True)
    assert output.read()["README.md"] == b"Do not remove"


def test_a_run_that_has_nothing_to_write_needs_no_permission(mount: Mount, source: Path) -> None:
    """It needs only to read the folder; a run that has to write says that it cannot."""
    output = Output(f"{mount('size=1m')}/output")
    score(source, output)
    mount("ro")
    assert score(source, output).was_done
    with pytest.raises(OutputError, match=rf"\A{output.month}/\S+: cannot be written: Read-only file system: choose"):
        score(write_month(source.parent, 100), output, force=True)
    mount("rw")
    assert score(source, output).was_done


def test_a_full_disk_leaves_nothing(mount: Mount, source: Path) -> None:
    """Wherever the space runs out, the run says so, and it completes the month when there is space."""
    output, failures = Output(f"{mount('size=4k')}/output"), 0
    for pages in range(1, 100):
        mount(f"size={4 * pages}k")
        try:
            score(source, output)
        except OutputError as error:
            assert "cannot be written: No space left on device: free some space, or" in str(error)  # noqa: PT017
            assert output.read() == {}
            failures += 1
        else:
            break
    assert failures > 3
    check_done(output.read())


def test_a_full_disk_leaves_the_old_predictions(mount: Mount, source: Path) -> None:
    """A forced run that finds no space for the new ones changes nothing."""
    output = Output(f"{mount('size=28k')}/output")
    score(source, output)
    before = output.fingerprints()
    with pytest.raises(OutputError, match="No space left on device"):
        score(write_month(source.parent, 300), output, force=True)
    assert check_done(output.read()).counts.predicted == 200
    assert {name: times for name, times in output.fingerprints().items() if "." in name} == {
        name: times for name, times in before.items() if "." in name
    }


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("input/200.parquet", "Not a directory: choose another output"),
        ("x" * 300, "File name too long: choose another output"),
    ],
    ids=["a file", "a long name"],
)
def test_an_impossible_folder_is_explained(tmp_path: Path, source: Path, folder: str, reason: str) -> None:
    """The error is one line."""
    with pytest.raises(OutputError, match=rf"\A{tmp_path}.*cannot be written: {reason}\Z"):
        score(source, str(tmp_path / folder))


def test_an_output_of_another_kind_is_refused() -> None:
    """It would become a folder of this name."""
    for location in ("gs://bucket/output", "s3://", "s3:///output"):
        with pytest.raises(OutputError, match=rf"\A{location}: is not an output: name a folder or an s3://"):
            open_place(location, "month")


def test_a_folder_without_locks_is_refused(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no locks."""

    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match=r"cannot be locked \(No locks available\): write to a local disk or to S3"):
        score(source, str(tmp_path / "output"))


def test_a_locked_folder_is_busy_at_once(tmp_path: Path) -> None:
    """Another run's unfinished files stay; after its end the next run removes them."""
    with FolderPlace(tmp_path / "month").exclusive():
        unfinished = tmp_path / "month" / f"{TEMPORARY}1"
        unfinished.touch()
        with (
            pytest.raises(BusyError, match="another run is writing this month"),
            FolderPlace(tmp_path / "month").exclusive(),
        ):
            pass
        assert unfinished.exists()
    with FolderPlace(tmp_path / "month").exclusive():
        assert not unfinished.exists()


def test_temporary_files_that_cannot_be_written_are_explained(
    bucket_output: Output, mount: Mount, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run for S3 needs space on this machine; S3 gets nothing half."""
    hint = "set TMPDIR to a folder that has space"
    monkeypatch.setenv("TMPDIR", str(mount("size=4k")))
    with pytest.raises(OutputError, match=rf"\Aa temporary file cannot be written: No space left on device: {hint}"):
        score(source, bucket_output)
    mount("ro")
    with pytest.raises(OutputError, match=rf"\Aa temporary file cannot be written: Read-only file system: {hint}"):
        score(source, bucket_output)
    assert check_nothing_half(bucket_output.read()) is None
    assert bucket_output.read() == {}


def test_a_file_that_is_too_large_for_s3_is_refused_before_it_is_sent() -> None:
    """The line says what to do."""
    place = ObjectPlace("s3://bucket/month")
    with tempfile.TemporaryFile() as file:
        output = OutputFile("part-0.parquet", MAX_PUT_BYTES + 1, "0" * 64)
        with pytest.raises(OutputError, match="S3 takes at most 5,368,709,120 in one request: choose a folder"):
            place.publish(file, output)
