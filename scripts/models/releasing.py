"""The steps of publishing that come before and after the comparison: the proof, the copy, and ``live.json``."""

import shlex
from collections.abc import Callable, Sequence

import msgspec

from batch.objects import split_uri
from scripts.models import publishing
from scripts.models.golden_rides import golden_rides
from scripts.models.publishing import LiveComparison, Release
from scripts.models.publishing_places import LiveModel, PublishTarget
from scripts.models.publishing_proof import (
    PublishError,
    ServingProof,
    as_values,
    name_environment,
    prove_serving,
    serve_in_process,
)
from scripts.models.publishing_sources import FetchedModel

CHAMPION = "champion"
"""The alias of the registered version that is live."""
Show = Callable[[str], None]
"""Shows a line to people."""


def is_live(release: Release, live: LiveModel | None, target: PublishTarget) -> bool:
    """Return whether this model is live already.

    Raises PublishError if the live model has another target, because then the release must not replace it.
    """
    if live is None or live.location == f"{target.location}/{release.folder}":
        return live is not None
    check_target(live, release.metadata.target)
    return False


def check_target(live: LiveModel, target: str) -> None:
    """Raise PublishError if the live model does not predict this target."""
    if live.target != target:
        raise PublishError(
            f"{live.location} is live and predicts the {live.target}, and this model predicts the {target}: publish it"
            " to another place"
        )


def prove(model: FetchedModel, release: Release, show: Show) -> tuple[ServingProof, list[float]]:
    """Prove that the model serves, and say so. Return the predictions of the golden rides as well."""
    rides = golden_rides()
    proof, values = prove_serving(
        release.files, model.files, model.description, release.metadata, rides, sha256=model.sha256
    )
    largest = proof.largest_relative_difference
    difference = f"differ by at most {largest:.1g} of their value" if largest else "are the same to the last bit"
    packages = " and ".join(f"[{category}]" for category in proof.packages)
    show(f"Serves with {packages}: {proof.rides} golden rides, whose predictions here and with MLflow {difference}")
    size, peak = proof.bytes / 1e6, proof.peak_bytes / 1e6
    show(f"A cold load takes {proof.load_seconds:.2f} s and {peak:,.0f} MB; the files have {size:,.1f} MB")
    return proof, values


def copy(
    target: PublishTarget, model: FetchedModel, release: Release, proof: ServingProof, comparison: LiveComparison | None
) -> LiveModel:
    """Write the model's files, the manifest last, and return where it is."""
    digest = publishing.write(target, release, publishing.make_manifest(model, release, proof, comparison))
    location = f"{target.location}/{release.folder}"
    return LiveModel(location, release.version, release.metadata.target, digest, publishing.now())


def verify(published: LiveModel, model: FetchedModel, values: Sequence[float], show: Show) -> None:
    """Read everything back, and load it from there with the pin. Raises ModelError or PublishError."""
    publishing.verify(published.location, published.sha256)
    environment, rides = name_environment(model.description["flavors"]), golden_rides()
    served = serve_in_process(published.location, published.sha256, environment, rides)
    if as_values(served, rides) != values:
        raise PublishError(f"{published.location} does not predict what the model predicted before it was copied")
    show(f"Verified: {published.location} has the digest {published.sha256}, and predicts the same")


def make_live(target: PublishTarget, live: LiveModel | None, published: LiveModel) -> None:
    """Name the model in ``live.json``. ``live`` is the model that was live. Raises PublishError if another one is."""
    # Also if it names this model with another digest or version: people deploy what it says.
    if live is None or msgspec.structs.replace(live, published_at=published.published_at) != published:
        target.replace_live(published)


def list_commands(published: LiveModel) -> list[str]:
    """Return the lines that say where the model is and how to use it."""
    location = shlex.quote(published.location)
    pin = f"MODEL_SHA256={published.sha256}"
    lines = [f"MODEL_LOCATION={location} {pin}"]
    if published.location.startswith("s3://"):
        bucket, path = split_uri(published.location)
        # A stack takes the model from its path or from a run, so the run that it may have is emptied.
        names = f"ModelBucket={bucket} ModelPath={shlex.quote(path)} RunId= ModelSha256={published.sha256}"
        lines.append(f"deploy it:       ./scripts/deploy {names}")
    return [
        *lines,
        f"run it:          {pin} ./scripts/run --model {location}",
        f"serve it:        {pin} ./scripts/serve --model {location}",
        f"score a month:   {pin} ./scripts/score green 2023 2 --model {location}",
    ]
