"""The columns that a fitted transformer makes from a ride's features: a source for each column of its matrix."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction import DictVectorizer
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, TargetEncoder

from served.columns import Category, Column, Number


class NotUnderstoodError(Exception):
    """A pipeline cannot be compiled. The message says in one line why; scikit-learn serves it instead."""


@dataclass(frozen=True)
class NumberSource:
    """A column of the matrix that is a number of the ride, such as its distance."""

    feature: str


@dataclass(frozen=True)
class NameSource:
    """A column of the matrix that is 1 for rides with one name, such as one pair of zones, and 0 for all others."""

    feature: str
    name: str


@dataclass(frozen=True)
class EncodingSource:
    """A column of the matrix that has a number for each name, and another number for all other names."""

    feature: str
    values: Mapping[str, float]
    other: float


Source = NumberSource | NameSource | EncodingSource


def make_column(source: NumberSource | EncodingSource, *, single: bool) -> Column:
    """Return the form's column of a source; if ``single``, its numbers are rounded to 32 bits."""
    if isinstance(source, NumberSource):
        return Number(source.feature, single=single)
    numbers = np.array([*source.values.values(), source.other])
    numbers = numbers.astype(np.float32).astype(np.float64) if single else numbers
    return Category(source.feature, list(source.values), numbers[:-1], float(numbers[-1]))


def find_sources(transformer: Any, ride: Mapping[str, Any]) -> list[Source]:
    """Return the source of each column of a fitted transformer's matrix, in order.

    Args:
        transformer: a DictVectorizer, or a ColumnTransformer of encoders and columns that are passed on.
        ride: the features of an ordinary ride, which show which features are texts and which are numbers.

    Raises:
        NotUnderstoodError: if it is another transformer, or has options that the served form does not have.
    """
    if type(transformer) is DictVectorizer:
        sources = _read_vectorizer(transformer, ride)
    elif type(transformer) is ColumnTransformer:
        sources = list(_read_columns(transformer))
    else:
        raise NotUnderstoodError(f"a {type(transformer).__name__} is not known")
    _check(sources, ride)
    return sources


def _check(sources: Sequence[Source], ride: Mapping[str, Any]) -> None:
    """Raise NotUnderstoodError for a source that rides do not have, or for two columns with the same name."""
    if not sources:
        raise NotUnderstoodError("its matrix has no columns")
    for source in sources:
        if source.feature not in ride:
            raise NotUnderstoodError(f"it was trained with a feature {source.feature!r}, which rides do not have")
        if isinstance(source, NumberSource) == isinstance(ride[source.feature], str):
            raise NotUnderstoodError(f"the feature {source.feature!r} does not have the type that it has in rides")
    for name, times in Counter(source for source in sources if isinstance(source, NameSource)).items():
        if times > 1:
            raise NotUnderstoodError(f"the feature {name.feature!r} has two columns for the name {name.name!r}")


def _read_vectorizer(vectorizer: DictVectorizer, ride: Mapping[str, Any]) -> list[Source]:
    if np.dtype(vectorizer.dtype) != np.float64:
        raise NotUnderstoodError(f"a DictVectorizer of the type {np.dtype(vectorizer.dtype)} is not known")
    return [_read_name(name, vectorizer.separator, ride) for name in vectorizer.feature_names_]


def _read_name(name: str, separator: str, ride: Mapping[str, Any]) -> Source:
    """Return the source of a DictVectorizer's column by the column's name: a feature, or a feature and its text."""
    found: list[Source] = []
    for feature, value in ride.items():
        prefix = f"{feature}{separator}"
        if isinstance(value, str) and name.startswith(prefix):
            found.append(NameSource(feature, name.removeprefix(prefix)))
        if not isinstance(value, str) and name == feature:
            found.append(NumberSource(feature))
    if len(found) != 1:
        raise NotUnderstoodError(f"its DictVectorizer has a column {name!r}, which is {len(found)} features of a ride")
    return found[0]


def _read_columns(transformer: ColumnTransformer) -> Iterator[Source]:
    if not hasattr(transformer, "feature_names_in_"):
        raise NotUnderstoodError("a ColumnTransformer is known only if it was fitted on a DataFrame")
    if transformer.transformer_weights:
        raise NotUnderstoodError("a ColumnTransformer with transformer_weights is not known")
    for name, step, _ in transformer.transformers_:
        # Users give columns as names, numbers, a slice or a mask. scikit-learn keeps their numbers in this attribute.
        features = transformer.feature_names_in_[transformer._transformer_to_input_indices[name]].tolist()
        # A transformer without columns is not fitted.
        if step != "drop" and features:
            yield from _read_step(step, features)


def _read_step(step: Any, features: Sequence[str]) -> Iterator[Source]:
    if type(step) is OneHotEncoder:
        yield from _read_one_hot(step, features)
    elif type(step) is TargetEncoder:
        yield from _read_encodings(step, features)
    elif type(step) is FunctionTransformer and step.func is None:  # a fitted "passthrough"
        yield from map(NumberSource, features)
    else:
        raise NotUnderstoodError(f"a {type(step).__name__} in a ColumnTransformer is not known")


def _read_one_hot(encoder: OneHotEncoder, features: Sequence[str]) -> Iterator[Source]:
    # With other options, an encoder raises an error for an unseen name, or gives it the column of several rare names.
    if encoder.drop is not None or encoder.handle_unknown != "ignore" or encoder._infrequent_enabled:
        raise NotUnderstoodError('a OneHotEncoder is known only with handle_unknown="ignore", and without rare names')
    for feature, names in zip(features, encoder.categories_, strict=True):
        yield from (NameSource(feature, name) for name in _texts(feature, names))


def _read_encodings(encoder: TargetEncoder, features: Sequence[str]) -> Iterator[Source]:
    if encoder.target_type_ != "continuous":
        raise NotUnderstoodError("a TargetEncoder of classes is not known")
    for feature, names, values in zip(features, encoder.categories_, encoder.encodings_, strict=True):
        by_name = dict(zip(_texts(feature, names), np.asarray(values, np.float64).tolist(), strict=True))
        yield EncodingSource(feature, by_name, float(encoder.target_mean_))


def _texts(feature: str, names: Iterable[Any]) -> list[str]:
    texts = list(names)
    if not all(isinstance(name, str) for name in texts):
        raise NotUnderstoodError(f"the categories of {feature} are not all texts")
    return [str(name) for name in texts]  # some texts are numpy.str_
