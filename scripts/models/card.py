"""The card of a model in Markdown: what it predicts, how well, for which rides not, and how to load it.

All of it comes from the rides that the model was measured on, and from its own description.
"""

import platform
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import sklearn

from features import prepare_features
from model_metadata import ModelMetadata
from rides import MAX_TRIP_DISTANCE
from scripts import cli
from scripts.models.error_groups import (
    LEAST_RIDES,
    ErrorGroup,
    find_weakest,
    group_by_distance,
    group_by_hour,
    group_by_zone,
    measure_group,
)
from scripts.models.evaluation import Evaluation

PLOTS = "plots"
"""The folder of the plots, beside the card."""
WIDTH = 120
WEAKEST = 3
"""The number of hours, distances and zones that the card shows."""
LARGEST_SHARE = 0.1
"""The share of the rides whose actual values are the largest: models often predict less."""
Row = Sequence[str]


def write_card(
    metadata: ModelMetadata,
    evaluation: Evaluation,
    baseline: Mapping[str, Any],
    run_id: str,
    location: str,
    sha256: str | None,
) -> str:
    """Return the card, which shows the plots in the folder ``PLOTS`` beside it.

    Args:
        metadata: what the artifact says about the model.
        evaluation: rides that the model was not trained on, with its predictions.
        baseline: the content of ``baseline.json``.
        run_id: the run that logged the model.
        location: where the run logged it.
        sha256: the digest of the served form's file; None if the model has none.
    """
    unit, own = evaluation.target.unit, _code(evaluation.model)
    parts = [
        f"# {evaluation.model}: the {metadata.target} of a taxi ride in {unit}",
        _wrap(_summarize(evaluation)),
        "## What it is",
        _table(["model", own], _describe(metadata, evaluation, baseline)),
        "## How well it predicts",
        _wrap(
            f"Errors in {unit}: the root of the mean squared error (RMSE), which counts large errors more, and the mean"
            f" absolute error (MAE). The last column compares the RMSE of {own} with that of the row."
        ),
        _table(["predicted by", "RMSE", "MAE", f"{own} is"], _compare(evaluation)),
        *_warn(evaluation),
        _show("predicted-and-actual", f"Predicted against actual {metadata.target}"),
        "## Where it is weak",
        _wrap(
            f"The {WEAKEST} hours, distances and zones with the largest mean absolute errors, of those with"
            f" {LEAST_RIDES} rides or more. A median error above zero says that most predictions are too high."
        ),
        _table(["rides", "number", "share", "MAE", "median error"], _find_weak(evaluation, set(baseline["pairs"]))),
        _show("errors-by-hour", "Errors by hour of the pickup"),
        _show("errors-by-distance", "Errors by distance"),
        _show("errors-by-zone", "Errors by zone"),
        "## Week by week",
        _wrap("The same rides, by the week of the pickup. Compare later weeks with these."),
        _table(["week", "rides", "of pairs not seen in training", "RMSE", "MAE"], _list_weeks(baseline["weeks"])),
        "## Limits, and who should not use it",
        "\n".join(_wrap(limit, "- ") for limit in _limits(evaluation, baseline)),
        "## How to load it",
        _table(["run", _code(run_id)], _locate(location, sha256)),
        _wrap("With these two variables set, the local stack and the web service use the model with"),
        '```\n./scripts/run --model "$MODEL_LOCATION"\n./scripts/serve --model "$MODEL_LOCATION"\n```',
    ]
    return "\n\n".join(parts) + "\n"


def _summarize(evaluation: Evaluation) -> str:
    target = evaluation.target
    errors = np.abs(evaluation.predicted - evaluation.actual)
    half, most = np.quantile(errors, [0.5, 0.9])
    return (
        f"For {_count(len(errors), 'ride')} that the model was not trained on, half of its predictions are at most"
        f" {half:.2f} {target.unit} from the actual {target.name}, and 9 in 10 at most {most:.2f}."
    )


def _describe(metadata: ModelMetadata, evaluation: Evaluation, baseline: Mapping[str, Any]) -> Iterable[Row]:
    target, trained = evaluation.target, metadata.trained_on
    yield "predicts", f"`{metadata.target}` in {metadata.unit}; in the stream's predictions, `{metadata.field}`"
    yield "features", ", ".join(map(_code, metadata.features))
    if metadata.wants_time:
        yield (
            "time of the pickup",
            "used. If a ride has no `pickup_datetime`, the function takes the time when its record arrived, and the"
            " web service takes the current time. The batch job takes the trip's own pickup",
        )
    else:
        yield "time of the pickup", "not used"
    if trained:
        span = f"with pickups from {trained.first} to {trained.last}, of {', '.join(map(_code, trained.files))}"
        yield "trained on", f"{_count(trained.rides, 'ride')} {span}"
    span = f"of {_name_weeks(baseline)}, of {', '.join(map(_code, evaluation.files))}"
    yield "measured on", f"{_count(len(evaluation.rides), 'ride')} {span}"
    yield (
        "usual rides",
        f"in training and measuring, only rides with a {target.name} of {target.least:g} to {target.most:g}"
        f" {target.unit} and a distance above 0 and at most {MAX_TRIP_DISTANCE:g} miles"
        f"{', and paid by card' if target.by_card else ''}",
    )
    versions = f"Python {platform.python_version()}, scikit-learn {sklearn.__version__}, numpy {np.__version__}"
    yield "trained with", versions


def _compare(evaluation: Evaluation) -> Iterable[Row]:
    own = evaluation.table[evaluation.model].rmse
    for name, errors in evaluation.table.items():
        if name == evaluation.model:
            yield f"**{name}**", f"**{errors.rmse:.3f}**", f"**{errors.mae:.3f}**", ""
        else:
            change = own / errors.rmse - 1 if errors.rmse else 0.0
            word = "smaller" if change < 0 else "larger"
            yield name, f"{errors.rmse:.3f}", f"{errors.mae:.3f}", f"{abs(change):.1%} {word}"


def _warn(evaluation: Evaluation) -> Iterable[str]:
    """Yield a warning if another prediction has smaller errors."""
    own = evaluation.table[evaluation.model].rmse
    better = [name for name, errors in evaluation.table.items() if errors.rmse < own]
    if better:
        yield _wrap(f"**On these rides, the RMSE of {' and '.join(better)} is smaller than that of the model.**")


def _find_weak(evaluation: Evaluation, pairs: set[str]) -> Iterable[Row]:
    errors = evaluation.predicted - evaluation.actual
    is_known = np.asarray([prepare_features(ride)["PU_DO"] in pairs for ride in evaluation.rides])
    groups = [measure_group("all", errors)]
    for name, chosen in (("pair seen in training", is_known), ("pair not seen in training", ~is_known)):
        if chosen.any():
            groups.append(measure_group(name, errors[chosen]))
    for name, found in (
        ("pickup from {0}:00 to {0}:59", group_by_hour(evaluation)),
        ("{} miles", group_by_distance(evaluation)),
        ("pickup in zone {}", group_by_zone(evaluation, "PULocationID")),
        ("dropoff in zone {}", group_by_zone(evaluation, "DOLocationID")),
    ):
        weakest = find_weakest(found, LEAST_RIDES, WEAKEST)
        groups += [ErrorGroup(name.format(one.name), one.rides, one.mae, one.quantiles) for one in weakest]
    for group in groups:
        share = group.rides / len(errors)
        yield group.name, f"{group.rides:,}", f"{share:.1%}", f"{group.mae:.2f}", _signed(group.median)


def _list_weeks(weeks: Iterable[Mapping[str, Any]]) -> Iterable[Row]:
    for week in weeks:
        unseen = f"{week['unseen_pairs'] / week['rides']:.1%}"
        yield week["week"], f"{week['rides']:,}", unseen, f"{week['rmse']:.3f}", f"{week['mae']:.3f}"


def _limits(evaluation: Evaluation, baseline: Mapping[str, Any]) -> Iterable[str]:
    """Yield the limits of the model, each in one sentence or a few."""
    target, actual, predicted = evaluation.target, evaluation.actual, evaluation.predicted
    errors = predicted - actual
    low, high = np.quantile(errors, [0.05, 0.95])
    yield (
        f"A prediction is one number without an interval. On these rides, 9 in 10 predictions were between"
        f" {_signed(low)} and {_signed(high)} {target.unit} from the actual {target.name}: do not use the model if an"
        " error of this size in a single ride does harm."
    )
    least = float(np.quantile(actual, 1 - LARGEST_SHARE))
    largest = measure_group("", errors[actual >= least])
    yield (
        f"Rides with a large {target.name}: for the {_count(largest.rides, 'ride')} with {least:.4g} {target.unit} or"
        f" more, the median error is {_signed(largest.median)} {target.unit}."
    )
    yield (
        f"Rides with a {target.name} below {target.least:g} or above {target.most:g} {target.unit} were left out, so"
        " these errors do not count them. Nobody knows before a ride that it will be such a ride."
    )
    outside = int(((predicted < target.least) | (predicted > target.most)).sum())
    if outside:
        yield (
            f"Predictions below {target.least:g} or above {target.most:g} {target.unit} are possible, because the model"
            f" knows no limits: {outside:,} of these predictions are."
        )
    yield (
        f"The errors are those of rides of {_name_weeks(baseline)}, with the zones of New York's Taxi & Limousine"
        f" Commission. About other times, cities and kinds of taxis, nothing is known. The training rides have"
        f" {_count(len(baseline['pairs']), 'pair')} of zones."
    )


def _locate(location: str, sha256: str | None) -> Iterable[Row]:
    yield "`MODEL_LOCATION`", _code(location)
    yield (
        "`MODEL_SHA256`",
        f"{_code(sha256)}, the digest of the served form" if sha256 else "not known: the model has no served form",
    )


def _name_weeks(baseline: Mapping[str, Any]) -> str:
    """Return the weeks of the rides. Unlike the first and last pickup, they do not depend on wrong clocks."""
    weeks = baseline["weeks"]
    first, last = weeks[0]["week"], weeks[-1]["week"]
    return f"the week {first}" if first == last else f"the weeks {first} to {last}"


def _show(name: str, text: str) -> str:
    return f"![{text}]({PLOTS}/{name}.png)"


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _wrap(text: str, bullet: str = "") -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _code(text: str) -> str:
    """Return text from outside as code for the cell of a table. Line breaks and backslashes are shown as in Python."""
    shown = cli.printable(text.replace("\\", "\\\\")).replace("|", "\\|")
    if "`" not in shown:
        return f"`{shown}`"
    fence = "`" * (max(map(len, re.findall("`+", shown))) + 1)
    return f"{fence} {shown} {fence}"


def _signed(number: float) -> str:
    return f"{number:+.2f}".replace("-", "−")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
