"""The types that a skops file may hold if no digest vouches for it, and what an object of each type may hold.

The list has what ``train`` makes and what users commonly log. Attributes hold plain values: numbers, texts, and arrays,
lists, tuples and dicts of them. A rule names the attributes that may hold something else, and the check of the object.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import skops_checks as checks
from skops_checks import State

TYPE, RECORDS = "a type", "an array of records"
OBJECT_ARRAY, INSTANCES, MASKED = "an array of objects", "an array of estimators", "a masked array"
"""The things that a value can hold besides plain values and instances, in the words of an error."""
TREE = "sklearn.tree._tree.Tree"
RANDOM_STATE, GENERATOR = "numpy.random.mtrand.RandomState", "numpy.random._generator.Generator"
SCALAR_TYPES = frozenset(
    f"numpy.{name}"
    for name in (
        "bool",
        "bool_",
        "str_",
        "float32",
        "float64",
        *(f"{s}int{n}" for s in ("", "u") for n in (8, 16, 32, 64)),
    )
)
KEY_TYPES = frozenset({"builtins.str", "builtins.int", "builtins.float", "builtins.bool"}) | SCALAR_TYPES
"""The types that a key of a dict, or a parameter such as ``dtype``, may have."""


@dataclass(frozen=True)
class Rule:
    """What an object of a type may hold besides parameters and fitted attributes with plain values."""

    private: frozenset[str]
    """The other attributes that the type has."""
    parts: Mapping[str, frozenset[str]]
    """The types and things that an attribute may hold besides plain values."""
    check: Callable[[State], None]
    """Raises an error if the values do not fit together."""


def _rule(private: str = "", check: Callable[[State], None] = checks.trust, **parts: Iterable[str]) -> Rule:
    return Rule(frozenset(private.split()), {name: frozenset(kinds) for name, kinds in parts.items()}, check)


_LOSS = "sklearn._loss._loss.Cy"
LOSS_FUNCTIONS = frozenset(
    _LOSS + name
    for name in (
        *("AbsoluteError", "HalfGammaLoss", "HalfPoissonLoss", "HalfSquaredError", "HalfTweedieLoss"),
        *("HalfTweedieLossIdentity", "HuberLoss", "PinballLoss"),
    )
)
_LOSSES = frozenset(name.replace("_loss._loss.Cy", "_loss.loss.") for name in LOSS_FUNCTIONS)
_INTERVAL = "sklearn._loss.link.Interval"
_LINKS = ("sklearn._loss.link.IdentityLink", "sklearn._loss.link.LogLink")
_LOSS_RULE = _rule(
    "closs link n_classes approx_hessian constant_hessian interval_y_true interval_y_pred",
    closs=LOSS_FUNCTIONS,
    link=_LINKS,
    interval_y_true=[_INTERVAL],
    interval_y_pred=[_INTERVAL],
)

_FOLDS = "sklearn.model_selection._split.KFold"
_DUMMY = "sklearn.dummy.DummyRegressor"
_ENCODER = "sklearn.preprocessing._encoders.OneHotEncoder"
_STANDARD_SCALER = "sklearn.preprocessing._data.StandardScaler"
_INDICATOR = "sklearn.impute._base.MissingIndicator"
_DECISION_TREE, _EXTRA_TREE = (f"sklearn.tree._classes.{name}Regressor" for name in ("DecisionTree", "ExtraTree"))
_PREDICTOR = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"
_BINS = "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper"
_FOREST = "estimator estimator_params class_weight _n_samples _sample_weight _n_samples_bootstrap"
_LINEAR = (
    "sklearn.linear_model._base.LinearRegression",
    *(f"sklearn.linear_model._ridge.{name}" for name in ("Ridge", "RidgeCV")),
    *(f"sklearn.linear_model._coordinate_descent.{name}" for name in ("LassoCV", "ElasticNet", "ElasticNetCV")),
    "sklearn.linear_model._huber.HuberRegressor",
    "sklearn.linear_model._bayes.BayesianRidge",
    "sklearn.svm._classes.LinearSVR",
)
_SCALERS = tuple(f"sklearn.preprocessing._data.{name}Scaler" for name in ("MaxAbs", "MinMax", "Robust", "Standard"))
_SPECIAL: dict[str, Rule] = {
    "sklearn.linear_model._coordinate_descent.Lasso": _rule("l1_ratio", checks.check_linear),
    "sklearn.linear_model._stochastic_gradient.SGDRegressor": _rule(
        "_average_coef _average_intercept _standard_coef _standard_intercept", checks.check_linear
    ),
    **{name: _rule(check=checks.check_linear) for name in _LINEAR},
    **{name: _rule(check=checks.check_columns) for name in _SCALERS},
    **{
        f"sklearn.linear_model._glm.glm.{name}Regressor": _rule("_base_loss", checks.check_linear, _base_loss=_LOSSES)
        for name in ("Gamma", "Poisson", "Tweedie")
    },
    **{f"sklearn.preprocessing._data.{name}": _rule() for name in ("Normalizer", "QuantileTransformer")},
    "sklearn.feature_extraction._dict_vectorizer.DictVectorizer": _rule(check=checks.check_vectorizer),
    "sklearn.preprocessing._function_transformer.FunctionTransformer": _rule(check=checks.check_function_transformer),
    "sklearn.preprocessing._data.PowerTransformer": _rule("_scaler", checks.check_columns, _scaler=[_STANDARD_SCALER]),
    "sklearn.preprocessing._polynomial.PolynomialFeatures": _rule(
        "_min_degree _max_degree _n_out_full", checks.check_polynomial
    ),
    "sklearn.preprocessing._discretization.KBinsDiscretizer": _rule("_encoder", _encoder=[_ENCODER]),
    "sklearn.preprocessing._encoders.OrdinalEncoder": _rule(
        "_infrequent_enabled _infrequent_indices _default_to_infrequent_mappings _missing_indices"
    ),
    # Only fit_transform uses the folds, and serving never calls it.
    "sklearn.preprocessing._target_encoder.TargetEncoder": _rule(
        "_infrequent_enabled", checks.check_target_encoder, cv=[_FOLDS]
    ),
    _ENCODER: _rule(
        "_infrequent_enabled _infrequent_indices _default_to_infrequent_mappings _n_features_outs"
        " _drop_idx_after_grouping",
        checks.check_encoder,
    ),
    "sklearn.impute._base.SimpleImputer": _rule(
        "_fit_dtype _fill_dtype", checks.check_columns, indicator_=[_INDICATOR]
    ),
    _INDICATOR: _rule("_precomputed _n_features"),
    _DUMMY: _rule(check=checks.check_dummy),
    _DECISION_TREE: _rule("class_weight", checks.check_tree_owner, tree_=[TREE]),
    _EXTRA_TREE: _rule("class_weight", checks.check_tree_owner, tree_=[TREE]),
    "sklearn.ensemble._forest.RandomForestRegressor": _rule(
        _FOREST,
        checks.check_forest,
        estimator=[_DECISION_TREE],
        estimator_=[_DECISION_TREE],
        estimators_=[_DECISION_TREE],
    ),
    "sklearn.ensemble._forest.ExtraTreesRegressor": _rule(
        _FOREST, checks.check_forest, estimator=[_EXTRA_TREE], estimator_=[_EXTRA_TREE], estimators_=[_EXTRA_TREE]
    ),
    "sklearn.ensemble._gb.GradientBoostingRegressor": _rule(
        "_loss _rng _n_samples",
        checks.check_gradient_boosting,
        _loss=_LOSSES,
        _rng=[RANDOM_STATE],
        init_=[_DUMMY],
        estimators_=[_DECISION_TREE, INSTANCES],
    ),
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor": _rule(
        "_preprocessor _is_categorical_remapped _random_seed _feature_subsample_rng _n_features _loss"
        " _use_validation_data _bin_mapper _baseline_prediction _predictors _scorer",
        checks.check_hist_gradient_boosting,
        _feature_subsample_rng=[GENERATOR],
        _loss=_LOSSES,
        _bin_mapper=[_BINS],
        _predictors=[_PREDICTOR],
    ),
}
_NESTED: dict[str, tuple[str, str, Callable[[State], None]]] = {
    checks.PIPELINE: ("steps", "", checks.check_pipeline),
    "sklearn.pipeline.FeatureUnion": ("transformer_list", "", checks.trust),
    "sklearn.compose._column_transformer.ColumnTransformer": (
        "transformers transformers_ remainder _remainder",
        "_columns _transformer_to_input_indices _transformers_feature_names_out",
        checks.check_column_transformer,
    ),
    "sklearn.compose._target.TransformedTargetRegressor": (
        "regressor regressor_ transformer transformer_",
        "_training_dim",
        checks.check_function_transformer,
    ),
    "sklearn.ensemble._voting.VotingRegressor": ("estimators estimators_ named_estimators_", "", checks.trust),
    "sklearn.ensemble._stacking.StackingRegressor": (
        "estimators estimators_ named_estimators_ final_estimator final_estimator_",
        "stack_method _n_feature_outs",
        checks.check_stacking,
    ),
    **dict.fromkeys(
        ("sklearn.model_selection._search.GridSearchCV", "sklearn.model_selection._search.RandomizedSearchCV"),
        ("estimator best_estimator_ scorer_ cv _checked_cv_orig cv_results_", "", checks.trust),
    ),
    "sklearn.metrics._scorer._PassthroughScorer": ("_estimator", "", checks.trust),
    "sklearn.ensemble._bagging.BaggingRegressor": (
        "estimator estimator_ estimators_",
        "estimator_params _n_samples _max_samples _max_features _sample_weight _seeds",
        checks.trust,
    ),
    "sklearn.ensemble._weight_boosting.AdaBoostRegressor": (
        "estimator estimator_ estimators_",
        "estimator_params",
        checks.trust,
    ),
}
"""Estimators that hold others: the attributes that hold them, the private attributes, and the check."""
_ANYTHING = frozenset({*_SPECIAL, *_NESTED, _FOLDS, OBJECT_ARRAY, MASKED})

OBJECTS: dict[str, Rule] = {
    **_SPECIAL,
    **{
        name: _rule(f"{holders} {private}", check, **dict.fromkeys(holders.split(), _ANYTHING))
        for name, (holders, private, check) in _NESTED.items()
    },
    **dict.fromkeys(_LOSSES, _LOSS_RULE),
    **{name: _rule() for name in (*_LINKS, _INTERVAL, _FOLDS)},
    _BINS: _rule(),
    _PREDICTOR: _rule(check=checks.check_predictor, nodes=[RECORDS]),
}
"""The types that skops may build as objects, each with its rule."""
PRIVATE = frozenset({"_sklearn_version", "_sklearn_output_config"})
"""Private attributes that any estimator may have."""
PARTS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("dtype", "_fit_dtype", "_fill_dtype"), frozenset({TYPE})),
    "random_state": frozenset({RANDOM_STATE}),
    **dict.fromkeys(
        (
            *("feature_names_in_", "categories", "categories_", "statistics_", "bin_edges_", "drop_idx_"),
            *("_drop_idx_after_grouping", "_columns", "_transformers_feature_names_out"),
        ),
        frozenset({OBJECT_ARRAY}),
    ),
}
"""What an attribute of any type may hold besides plain values."""
