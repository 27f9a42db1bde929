"""The card of a model and its plots: the errors by groups, rides that are hard to draw, and names that are hostile."""

import datetime
import io
import random
import re
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from model_metadata import ModelMetadata, TrainedOn
from rides import Ride
from scripts.models.card import write_card
from scripts.models.error_groups import ErrorGroup, group_by_distance, group_by_hour, group_by_zone
from scripts.models.evaluation import Errors, Evaluation, measure_errors
from scripts.models.plots import draw
from targets import TARGETS

FIRST = datetime.datetime(2023, 2, 1)
SEEN, UNSEEN = "7_74", "7_75"
RUN_ID, DIGEST = "a74aaab7ca9e444ca8fc468eb4bd20e7", "0123456789abcdef" * 4
LOCATION = "/models/" + "m" * 150
PLOTS = ["predicted-and-actual.png", "errors-by-hour.png", "errors-by-distance.png", "errors-by-zone.png"]


def rides(number: int, **changes: Any) -> list[Ride]:
    """Build rides of the pairs seen and unseen, in turns, whose hours and distances are all different."""
    draw = random.Random(number)  # noqa: S311  the same rides every time, no secret
    return [
        Ride(
            7,
            changes.get("zone", 74 + place % 2),
            changes.get("miles", draw.lognormvariate(0.7, 0.8)),
            FIRST + datetime.timedelta(hours=changes.get("hour", draw.uniform(0, 28 * 24))),
        )
        for place in range(number)
    ]


def evaluate(
    chosen: Sequence[Ride], errors: Sequence[float], actual: float | Sequence[float] = 20.0, **changes: Any
) -> Evaluation:
    """Evaluate a model that has these errors."""
    values = np.broadcast_to(np.asarray(actual, np.float64), len(chosen))
    predicted = values + np.asarray(errors, np.float64)
    table = {"mean": Errors(9.0, 6.6), "boosted": measure_errors(values, predicted)}
    target = TARGETS[changes.get("target", "duration")]
    files = changes.get("files", ["green_tripdata_2023-02.parquet"])
    return Evaluation("boosted", target, files, chosen, values, predicted, changes.get("table", table))


def write(evaluation: Evaluation, sha256: str | None = DIGEST, location: str = LOCATION, **changes: Any) -> str:
    """Write the card of a model that was trained on rides of one pair."""
    target = evaluation.target
    trained_on = TrainedOn(list(evaluation.files), 63_765, "2023-01-01T00:01:31", "2023-01-31T23:58:11")
    metadata = ModelMetadata(target.name, target.field, target.unit, trained_on=trained_on, **changes)
    week = {"week": "2023-W05", "rides": 400, "unseen_pairs": 10, "rmse": 4.5, "mae": 3.25}
    baseline = {"weeks": [week, {**week, "week": "2023-W06"}], "pairs": [SEEN]}
    return write_card(metadata, evaluation, baseline, RUN_ID, location, sha256)


def render(card: str) -> list[Any]:
    """Return the tokens of a card's Markdown, as GitHub's dialect has them: with tables."""
    return MarkdownIt("commonmark").enable("table").parse(card)


def cells(card: str) -> list[str]:
    """Return what a reader sees in the cells of a card's tables."""
    tokens = render(card)
    inline = [after for before, after in pairwise(tokens) if before.type in ("td_open", "th_open")]
    return ["".join(child.content for child in token.children) for token in inline]


def show(evaluation: Evaluation) -> dict[str, Figure]:
    """Draw the plots of an evaluation into memory, and return the figures. A warning of matplotlib is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = draw(evaluation)
        for figure in figures.values():
            figure.savefig(io.BytesIO(), format="png")
    return figures


def median_dots(figure: Figure) -> list[float]:
    """Return the heights of the dots in a plot of columns."""
    dots = next(line for line in figure.axes[0].lines if line.get_label() == "median")
    return list(np.asarray(dots.get_ydata(), float))


def texts_overlap(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of labels next to each other along an axis that overlap."""
    overlapping = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label for label in axis.get_ticklabels() if label.get_visible() and label.get_text()]
            for one, other in pairwise(labels):
                if one.get_window_extent().overlaps(other.get_window_extent()):
                    overlapping.append((one.get_text(), other.get_text()))
    return overlapping


def test_a_group_has_the_errors_of_its_rides_alone() -> None:
    """The errors are 1, 2 … 21 at 8 o'clock, and zero at other hours."""
    chosen = [*rides(21, hour=8.5), *rides(50, hour=9), *rides(5, hour=23.99)]
    groups = group_by_hour(evaluate(chosen, [*range(1, 22), *[0] * 55]))
    assert [(group.name, group.rides) for group in groups] == [("8", 21), ("9", 50), ("23", 5)]
    assert groups[0] == ErrorGroup("8", 21, 11.0, (2.0, 6.0, 11.0, 16.0, 20.0))
    assert groups[1] == ErrorGroup("9", 50, 0.0, (0.0,) * 5)


@pytest.mark.parametrize("number", [1, 9, 10, 997])
def test_distances_make_groups_of_about_equal_numbers_of_rides(number: int) -> None:
    """Each ride is in one group, and the groups go from short to long rides."""
    groups = group_by_distance(evaluate(rides(number), [1.0] * number))
    assert sum(group.rides for group in groups) == number
    assert max(group.rides for group in groups) - min(group.rides for group in groups) <= 1
    starts = [float(group.name.split("–")[0]) for group in groups]
    assert starts == sorted(starts)


def test_rides_of_the_same_distance_are_one_group() -> None:
    """Rides of one distance cannot be divided into groups."""
    assert group_by_distance(evaluate(rides(50, miles=2.5), [1.0] * 50)) == [ErrorGroup("2.5", 50, 1.0, (1.0,) * 5)]


@pytest.mark.parametrize(("end", "zones"), [("PULocationID", ["7"]), ("DOLocationID", ["74", "75"])])
def test_a_ride_is_in_the_zone_of_its_pickup_or_dropoff(end: Any, zones: list[str]) -> None:
    """A ride counts in the zone of its pickup, or in the zone of its dropoff, as asked for."""
    assert [group.name for group in group_by_zone(evaluate(rides(50), [1.0] * 50), end)] == zones


HARD = {
    "one ride": evaluate(rides(1), [3.0]),
    "one distance and hour": evaluate(rides(300, miles=2.5, hour=8.5), [1.0] * 300),
    "negative predictions": evaluate(rides(300), [-40.0] * 300),
    "tips of nothing without an error": evaluate(rides(300), [0.0] * 300, actual=0.0, target="tip"),
    "outliers": evaluate(rides(1000), [1e12, -1e100, *np.linspace(-9, 9, 998)]),
    "many rides": evaluate(rides(5000), np.linspace(-9, 9, 5000).tolist(), np.linspace(1, 400, 5000).tolist()),
    "large zones": evaluate([*rides(300), *rides(300, zone=2**31 - 1)], [1.0] * 600),
}


@pytest.mark.parametrize("evaluation", HARD.values(), ids=HARD)
def test_plots_can_be_read(evaluation: Evaluation) -> None:
    """Each plot is drawn without a warning, is 800 pixels wide, and has labels that do not overlap."""
    figures = show(evaluation)
    assert list(figures) == PLOTS
    assert {figure.get_figwidth() * figure.dpi for figure in figures.values()} == {800}
    assert {name: found for name, figure in figures.items() if (found := texts_overlap(figure))} == {}
    for figure in figures.values():
        assert evaluation.target.unit in figure.axes[0].get_xlabel() + figure.axes[0].get_ylabel()


def test_dots_are_median_errors() -> None:
    """Predictions at 8 o'clock are 5 minutes too high, and one of them is an outlier."""
    chosen = [*rides(201, hour=8.5), *rides(200, hour=12)]
    figures = show(evaluate(chosen, [1e9, *[5.0] * 200, *[-1.0] * 200]))
    assert median_dots(figures["errors-by-hour.png"]) == [5.0, -1.0]
    assert figures["errors-by-hour.png"].axes[0].get_ylim()[1] < 6, "the outlier decides how far the axis goes"


def test_the_density_counts_each_ride_but_outliers() -> None:
    """Of 1,000 rides, one is predicted far too high, and the plot says that it is outside."""
    figure = show(evaluate(rides(1000), [1e9, *[5.0] * 999]))["predicted-and-actual.png"]
    image = next(child for child in figure.axes[0].get_children() if isinstance(child, AxesImage))
    assert np.ma.sum(np.ma.asarray(image.get_array())) == 999
    assert "0.1% of the rides are outside" in figure.axes[0].get_title()


@pytest.mark.parametrize("evaluation", HARD.values(), ids=HARD)
def test_a_card_is_plain_markdown(evaluation: Evaluation) -> None:
    """A card has no HTML and no lines that are too long, and shows all plots."""
    card = write(evaluation)
    tokens = render(card)
    inline = [child for token in tokens for child in token.children or []]
    assert not {token.type for token in [*tokens, *inline]} & {"html_block", "html_inline"}
    assert [line for line in card.splitlines() if len(line) > 132 and not line.startswith("|")] == []
    images = [child.attrs["src"] for child in inline if child.type == "image"]
    assert images == [f"plots/{name}" for name in PLOTS]
    assert not re.search(r"\bnan\b|\binf\b", card)


HOSTILE = [
    "a|b",
    "a`b``c",
    "`",
    "<script>alert(1)</script>",
    "a\nb\n# c",
    "![x](https://example.com)",
    "a\u202eb",
    "\\|",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_from_a_users_disk_are_shown_and_not_read(name: str) -> None:
    """A name is shown as it is, but for line breaks and backslashes, which are shown as in Python."""
    card = write(evaluate(rides(3), [1.0] * 3, files=[name]), location=name)
    shown = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\u202e", "\\u202e")
    assert shown in cells(card)
    assert f"3 rides of the weeks 2023-W05 to 2023-W06, of {shown}" in cells(card)
    assert sum(token.type == "heading_open" for token in render(card)) == 7


def test_the_card_tells_rides_of_unseen_pairs_apart() -> None:
    """The model is 2 minutes wrong for the pair that it knows, and 8 minutes too low for the other."""
    found = cells(write(evaluate(rides(400), [2.0, -8.0] * 200)))
    place = found.index("pair not seen in training")
    assert found[place - 5 : place + 5] == [
        *("pair seen in training", "200", "50.0%", "2.00", "+2.00"),
        *("pair not seen in training", "200", "50.0%", "8.00", "−8.00"),
    ]


def test_the_card_names_the_weakest_hours() -> None:
    """The card has the three hours with the largest errors, without an hour that has too few rides."""
    hours = {1: 100, 2: 101, 3: 102, 4: 103, 5: 99}
    chosen = [ride for hour, number in hours.items() for ride in rides(number, hour=hour)]
    found = cells(write(evaluate(chosen, [float(hour) for hour, number in hours.items() for _ in range(number)])))
    assert [cell for cell in found if "pickup from" in cell] == [
        f"pickup from {hour}:00 to {hour}:59" for hour in (4, 3, 2)
    ]


@pytest.mark.parametrize(("rmse", "is_warned"), [(9.0, False), (1.0, True)])
def test_the_card_says_if_the_mean_predicts_better(rmse: float, is_warned: bool) -> None:
    """A warning names the simple predictions whose RMSE is smaller than that of the model."""
    table = {"mean": Errors(rmse, 1.0), "boosted": Errors(2.0, 1.0)}
    card = write(evaluate(rides(3), [2.0] * 3, table=table))
    assert ("**On these rides, the RMSE of mean is smaller than that of the model.**" in card) is is_warned
    assert ("100.0% larger" if is_warned else "77.8% smaller") in cells(card)


def test_the_card_says_what_the_model_needs_and_where_it_is() -> None:
    """A model without a served form has no digest."""
    evaluation = evaluate(rides(3), [1.0] * 3, target="tip")
    timed, plain = write(evaluation, features=("PU_DO", "trip_distance", "hour")), write(evaluation, sha256=None)
    assert "If a ride has no `pickup_datetime`" in timed
    assert "not used" in cells(plain)
    assert "tip in dollars; in the stream's predictions, tip_amount" in cells(plain)
    assert any("paid by card" in cell for cell in cells(plain))
    assert [LOCATION, f"{DIGEST}, the digest of the served form"] == cells(timed)[-3::2]
    assert cells(plain)[-1] == "not known: the model has no served form"
