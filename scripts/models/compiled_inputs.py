"""What a fitted transformer makes of a ride's features: a source for each column of its matrix."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction import DictVectorizer
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, TargetEncoder


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


def find_sources(transformer: Any, texts: frozenset[str] = frozenset({"PU_DO"})) -> list[Source]:
    """Return the source of each column of a fitted transformer's matrix, in order.

    Args:
        transformer: a DictVectorizer, or a ColumnTransformer of encoders and columns that are passed on.
        texts: the features that are texts; all others are numbers.

    Raises:
        NotUnderstoodError: if it is another transformer, or one with options that the served form does not have.
    """
    if type(transformer) is DictVectorizer:
        return [_split_name(name, transformer.separator, texts) for name in transformer.feature_names_]
    if type(transformer) is ColumnTransformer:
        return list(_read_columns(transformer))
    raise NotUnderstoodError(f"a {type(transformer).__name__} is not known")


def _split_name(name: str, separator: str, texts: frozenset[str]) -> Source:
    feature, found, value = name.partition(separator)
    if found and feature in texts:
        return NameSource(feature, value)
    if name in texts:
        raise NotUnderstoodError(f"{name} is a text for some rides and a number for others")
    return NumberSource(name)


def _read_columns(transformer: ColumnTransformer) -> Iterator[Source]:
    features = list(transformer.feature_names_in_)
    for _, step, columns in transformer.transformers_:
        if step == "drop":
            continue
        names = [columns] if isinstance(columns, str) else [features[c] if isinstance(c, int) else c for c in columns]
        if type(step) is OneHotEncoder:
            yield from _read_one_hot(step, names)
        elif type(step) is TargetEncoder:
            yield from _read_encodings(step, names)
        elif step == "passthrough" or (type(step) is FunctionTransformer and step.func is None):
            yield from map(NumberSource, names)
        else:
            raise NotUnderstoodError(f"a {type(step).__name__} is not known")


def _read_one_hot(encoder: OneHotEncoder, features: Sequence[str]) -> Iterator[Source]:
    if encoder.drop is not None or encoder.handle_unknown == "error" or encoder.infrequent_categories_ is not None:
        raise NotUnderstoodError('a OneHotEncoder is known only with handle_unknown="ignore" and without other options')
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
    if not all(type(name) is str for name in texts):
        raise NotUnderstoodError(f"the categories of {feature} are not all texts")
    return texts
