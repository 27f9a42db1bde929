"""The steps of retraining: the reason to train, the challenger, its comparison with the live model, and publishing.

months      -- decide  --> reasons | nothing to do    a month that is new to the live model, or drift
reasons     -- train   --> a challenger               of the same months, there is one
challenger  -- compare --> an offer                   for a person, who approves it or does not
offer       -- publish --> the live model
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Before mlflow, because it configures mlflow.
from scripts.models import tracking  # isort: skip
import numpy as np
from mlflow.tracking import MlflowClient

import drift
from baselines import Bins
from digests import digest_of_files
from model import Model
from ride_counts import Counter
from scripts.models import candidates, publishing, releasing, runs
from scripts.models.actual_errors import ActualRides, judge_actuals
from scripts.models.drift_sizes import describe, describe_error
from scripts.models.months import RideSet
from scripts.models.proving import RIDES_A_CALL
from scripts.models.publishing import LiveComparison, Release
from scripts.models.publishing_places import LiveModel, PublishTarget, open_target
from scripts.models.publishing_proof import PublishError
from scripts.models.publishing_sources import FetchedModel, fetch
from scripts.models.releasing import Show
from targets import Target

CHALLENGER = "challenger"
"""The alias of the newest version that was trained."""
RIDES_TAG, OFFER_TAG = "retraining_rides", "retraining_offer"
"""The tags of a challenger's run: the digest of the rides that it was trained and measured on, and what a person was
shown: the digest of its files, and that of the live model."""

MOST_SHOWN = 10
"""The number of findings that a person sees, the largest ones."""


class RetrainingError(Exception):
    """The challenger is not published; the message says in one line why and what to do."""


@dataclass(frozen=True)
class RetrainingDecision:
    """The live model, and the reasons to train a new one."""

    place: PublishTarget
    """It remembers ``live.json``, so that nothing is published if another model becomes live in between."""
    live: LiveModel | None
    reasons: Sequence[str]
    drifted: Sequence[str]
    """How the newest month has drifted; empty if it has not."""


@dataclass(frozen=True)
class Challenger:
    """A model that may replace the live one."""

    run_id: str
    name: str
    """The name in the registry."""
    version: str
    card: str
    """The location of the model's card."""
    metrics: Mapping[str, float]
    """The errors, by the names of ``runs.metrics_of``."""


@dataclass(frozen=True)
class Offer:
    """What a person approves."""

    decision: RetrainingDecision
    challenger: Challenger
    model: FetchedModel
    release: Release
    is_live: bool
    """Whether the challenger is live already."""
    comparison: LiveComparison | None
    """None if there is no other live model, or if it cannot be compared."""

    @property
    def digest(self) -> str:
        """What ``OFFER_TAG`` has: it differs if the challenger or the live model is another one."""
        live = self.decision.live
        return f"{digest_of_files(self.release.files)} in place of {live.sha256 if live else 'nothing'}"


def decide(files: Sequence[str], newest: RideSet, target: Target, to: str, *, force: bool) -> RetrainingDecision:
    """Return the reasons to train: a file that the live model was not trained on, or drift of the newest month.

    ``files`` are the names of all files, without folders, as a model names those that it was trained on.

    Raises PublishError if the live model has another target, or cannot be loaded, unless ``force`` is True.
    """
    place = open_target(to)
    live = place.read_live()
    if live is None:
        return RetrainingDecision(place, None, [f"no model is live in {place.location}"], [])
    releasing.check_target(live, target.name)
    try:
        model = publishing.load_live(live)
    except PublishError as error:
        if not force:
            raise
        return RetrainingDecision(place, live, [str(error)], [])
    known = model.metadata.trained_on.files if model.metadata.trained_on else []
    new = [name for name in files if name not in known]
    reasons = [f"the live model was not trained on {', '.join(new)}"] if new else []
    drifted = find_drift(model, model.bins, newest) if model.bins else []
    if drifted:
        reasons.append(f"{', '.join(newest.files)} has drifted")
    return RetrainingDecision(place, live, reasons, drifted)


def find_drift(model: Model, bins: Bins, month: RideSet) -> list[str]:
    """Return a sentence for each way in which the rides of a month differ from what the model was trained on.

    These are all rides that services would predict. The actual values are compared with the predictions too.
    """
    parts = [month, month.others] if month.others else [month]
    rides = [ride for part in parts for ride in part.rides]
    baseline, counter, values = bins.baseline, Counter(bins), list[float]()
    # In parts, because the features of a ride take many times as much memory as its prediction.
    for at in range(0, len(rides), RIDES_A_CALL):
        predicted = model.predict(rides[at : at + RIDES_A_CALL], counter=counter)
        values += [value if isinstance(value, float) else np.nan for value in predicted]
    counts = counter.total()
    found = [describe(one, baseline, counts) for one in drift.judge(baseline, counts) if one.excess > 1]
    actuals = ActualRides.of(rides, np.array(values), np.concatenate([part.values for part in parts]))
    errors = [one for one in judge_actuals(baseline, actuals) if one.excess > 1]
    return found + [describe_error(one, baseline) for one in errors]


def train(rides: RideSet, validation: RideSet, target: Target, model: str, name: str, wanted: str | None) -> Challenger:
    """Train a model and register it with the alias challenger, unless there is one of the same rides.

    If ``wanted`` is given, no model is trained, and the challenger must be this run. Raises RetrainingError.
    """
    tracking.check_registry(name, CHALLENGER)
    experiment_id = tracking.open_experiment(f"ride-{target.name}")
    client, digest = MlflowClient(), digest_rides([rides, validation], f"{target.name} {model}")
    query = f"tags.{RIDES_TAG} = '{digest}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment_id], query, max_results=1)
    if wanted and (not found or found[0].info.run_id != wanted):
        other = f", which is {found[0].info.run_id}" if found else ""
        raise RetrainingError(
            f"{wanted} is not the challenger of these months{other}: run the command without --approve to see it first"
        )
    if found:
        run_id = found[0].info.run_id
    else:
        result = candidates.compare(model, [model], rides, validation, target, 1)
        run_id = runs.log_run(experiment_id, result).run_id
        client.set_tag(run_id, RIDES_TAG, digest)
    run = client.get_run(run_id)
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if versions:
        version = str(versions[0].version)
        client.set_registered_model_alias(name, CHALLENGER, version)
    else:
        version = tracking.register(run.outputs.model_outputs[0].model_id, name, CHALLENGER)
    card = tracking.as_path(f"{run.info.artifact_uri}/{runs.CARD}")
    return Challenger(run_id, name, version, card, run.data.metrics)


def digest_rides(parts: Sequence[RideSet], model: str) -> str:
    """Return a digest that differs if a ride, its value, or the kind of the model differs."""
    digest = hashlib.sha256(model.encode())
    for part in parts:
        rows = [(ride.PULocationID, ride.DOLocationID, ride.trip_distance) for ride in part.rides]
        for column in (np.array(rows), part.pickups, part.values):
            digest.update(column.tobytes())
    return digest.hexdigest()


def compare(decision: RetrainingDecision, challenger: Challenger, validation: RideSet, *, force: bool) -> Offer:
    """Compare a challenger with the live model on rides that the challenger was not trained on.

    Raises PublishError if they cannot be compared, unless ``force`` is True.
    """
    live = decision.live
    model = fetch(f"models:/{challenger.name}/{challenger.version}", None)
    release = publishing.select(model)
    is_live, comparison = releasing.is_live(release, live, decision.place), None
    if live and not is_live:
        try:
            comparison = publishing.compare_with_live(release, live, validation, None)
        except PublishError:
            if not force:
                raise
    return Offer(decision, challenger, model, release, is_live, comparison)


def check(offer: Offer) -> None:
    """Raise RetrainingError unless the challenger is better than the live model, or nothing is live."""
    live, found = offer.decision.live, offer.comparison
    if live and found and found.verdict.verdict != "better":
        raise RetrainingError(
            f"the challenger {offer.challenger.run_id} is not known to be better ({found.summary}), so {live.location}"
            " stays live: --force offers it anyway"
        )


def note_offer(offer: Offer) -> None:
    """Note in MLflow what a person is shown."""
    MlflowClient().set_tag(offer.challenger.run_id, OFFER_TAG, offer.digest)


def check_approved(offer: Offer) -> None:
    """Raise RetrainingError if nobody was shown this challenger in comparison with this live model."""
    run_id = offer.challenger.run_id
    if MlflowClient().get_run(run_id).data.tags.get(OFFER_TAG) != offer.digest:
        raise RetrainingError(
            f"the challenger {run_id} was not yet compared with the model that is live now: run the command without"
            " --approve to see the comparison first"
        )


def publish(offer: Offer, show: Show) -> LiveModel:
    """Publish the challenger with a proof, and make it live. Nothing is live before all of it is verified.

    Raises PublishError, also if another model has become live since ``decide``.
    """
    decision = offer.decision
    proof, values = releasing.prove(offer.model, offer.release, show)
    published = releasing.copy(decision.place, offer.model, offer.release, proof, offer.comparison)
    releasing.verify(published, offer.model, values, show)
    releasing.make_live(decision.place, decision.live, published)
    return published


def describe_offer(offer: Offer) -> str:
    """Return what a person needs to know before the approval, in Markdown."""
    challenger, live, found = offer.challenger, offer.decision.live, offer.comparison
    lines = [
        f"**Challenger** `{challenger.run_id}`, version {challenger.version} of {challenger.name}",
        "**Why** " + ("; ".join(offer.decision.reasons) or "--force"),
        f"**Live now** {f'`{live.location}`' if live else 'nothing'}",
        f"**Model card** `{challenger.card}`",
    ]
    table = [f"| {offer.release.metadata.unit} | pair median | live | challenger |", "|---|---|---|---|"]
    for name in ("rmse", "mae"):
        simple, own = (f"{challenger.metrics[prefix + name]:.3f}" for prefix in ("pair_median_", ""))
        table.append(
            f"| {name.upper()} | {simple} | {f'{getattr(found.live_errors, name):.3f}' if found else ''} | {own} |"
        )
    lines.append("\n".join(table))
    if found:
        lines.append(f"**Verdict** {found.summary}, the last ones of {', '.join(found.months)}")
    if offer.decision.drifted:
        lines.append(
            "**Drift** of the newest month\n\n" + "\n".join(f"- {one}" for one in offer.decision.drifted[:MOST_SHOWN])
        )
    return "\n\n".join(lines)
