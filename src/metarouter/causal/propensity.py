"""The probability e(x) = P(t = 1 | x): the one place that clips, trims and reports it.

A :class:`Propensity` says how e is to be had, :class:`PropensityFit` is what
came out. Learners never clip: they use ``used`` and skip rows not ``kept``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.causal.crossfit import cross_fit
from metarouter.causal.overlap import OverlapReport, crump_threshold, report_overlap
from metarouter.errors import MissingDependencyError, OptionError, OverlapError
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["Classifier", "Propensity", "PropensityFit", "make_logistic_regression"]

_TINY = 1e-9  # keeps a logit finite


class Classifier(Protocol):
    """The part of the scikit-learn classifier contract that a propensity needs."""

    def fit(self, X: Any, y: Any) -> Any:
        """Learn P(t = 1 | x)."""
        ...

    def predict_proba(self, X: Any) -> Any:
        """Probabilities, shape (n, 2), of t = 0 and t = 1."""
        ...


def make_logistic_regression() -> Classifier:
    """Logistic regression on standardised features with a strong ridge penalty.

    C = 0.01, because features are many and treated rows few; what is then too
    flat is set right by the calibration.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingDependencyError.of("an estimated propensity", "train") from error
    classifier: Classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, tol=1e-3, max_iter=1000)
    )
    return classifier


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PropensityFit:
    """Propensities of the training rows, what was done to them, and the overlap.

    Attributes
    ----------
    raw : array, shape (n,), known or calibrated out-of-fold, before clipping.
    used : array, shape (n,), after clipping to [`low`, `high`].
    kept : bool array, shape (n,), False for rows that trimming leaves out.
    low, high : clip bounds; 0 and 1 mean no clipping.
    trim_low, trim_high : range of `raw` that is kept.
    n_clipped, n_trimmed : rows that each touched.
    known : True when the propensity was given, False when estimated.
    overlap : OverlapReport
    """

    raw: FloatArray
    used: FloatArray
    kept: BoolArray
    low: float
    high: float
    trim_low: float
    trim_high: float
    n_clipped: int
    n_trimmed: int
    known: bool
    overlap: OverlapReport
    _rule: Callable[[NDArray[Any]], FloatArray] | None = None

    def predict(self, X: NDArray[Any]) -> FloatArray:
        """Clipped propensity of new rows X (n, d), shape (n,).

        Raises
        ------
        OptionError
            When only the training rows' propensities are known.
        """
        if self._rule is None:
            raise OptionError.of(
                "known", "an array", "a number or a function of X, to predict for new rows"
            )
        return np.clip(self._rule(X), self.low, self.high)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Propensity:
    """How to get the propensity: known by design, or estimated out-of-fold.

    Estimation: a classifier is cross-fitted; its scores in one fold are
    calibrated by a map learned on the scores of the other folds; then rows are
    trimmed and values clipped. Label weights play no part: they are precisions
    of y, not chances of being sampled.

    Parameters
    ----------
    known : float, array of shape (n,), callable of X, or None (default)
        The design's propensity, strictly inside (0, 1); None estimates it.
    make_classifier : callable, default make_logistic_regression
        Makes an unfitted scikit-learn classifier.
    calibration : {"platt", "isotonic", "none"}, default "platt"
    max_weight : float above 1, or None (default)
        Clips so that no inverse propensity weight exceeds `max_weight` times
        the one that purely random assignment would give. None: 10 when e is
        estimated, no clipping when it is known.
    trim : "crump", float in (0, 0.5), or None (default)
        Leaves out rows with e outside [α, 1 − α]; "crump" chooses α.

    References
    ----------
    Platt (1999), Probabilistic outputs for support vector machines; Crump et
    al. (2009), https://doi.org/10.1093/biomet/asn055.

    Examples
    --------
    >>> t = np.array([True, False, False, False])
    >>> Propensity(known=0.25).estimate(np.zeros((4, 1)), t).used.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    known: float | FloatArray | Callable[[NDArray[Any]], FloatArray] | None = None
    make_classifier: Callable[[], Classifier] = make_logistic_regression
    calibration: Literal["platt", "isotonic", "none"] = "platt"
    max_weight: float | None = None
    trim: Literal["crump"] | float | None = None

    def estimate(
        self, X: NDArray[Any], t: BoolArray, folds: IntArray | None = None
    ) -> PropensityFit:
        """Propensities of the rows X (n, d) with sources t (n,).

        Parameters
        ----------
        X : array, shape (n, d)
        t : bool array, shape (n,)
        folds : array of int, shape (n,)
            Needed when the propensity is estimated.

        Raises
        ------
        OptionError
            When an option is not allowed, or folds are missing.
        OverlapError
            When trimming leaves a source without rows.
        """
        raw, rule = self._estimated(X, t, folds) if self.known is None else self._known(X)
        trim_low, trim_high = self._trim_bounds(raw)
        kept = (raw >= trim_low) & (raw <= trim_high)
        if not (kept & t).any() or not (kept & ~t).any():
            raise OverlapError(
                f"no rows of both sources have a propensity in [{trim_low:.3g}, {trim_high:.3g}]: "
                "trim less, or collect labels of both sources on the same kind of rows"
            )
        low, high = self._clip_bounds(float(t.mean()))
        used = np.clip(raw, low, high)
        n_clipped = int((used != raw).sum())
        return PropensityFit(
            raw=raw,
            used=used,
            kept=kept,
            low=low,
            high=high,
            trim_low=trim_low,
            trim_high=trim_high,
            n_clipped=n_clipped,
            n_trimmed=int((~kept).sum()),
            known=self.known is not None,
            overlap=report_overlap(t, raw=raw, used=used, kept=kept, n_clipped=n_clipped),
            _rule=rule,
        )

    def _known(
        self, X: NDArray[Any]
    ) -> tuple[FloatArray, Callable[[NDArray[Any]], FloatArray] | None]:
        known = self.known
        rule: Callable[[NDArray[Any]], FloatArray] | None = None
        if callable(known):
            rule = known
            raw = np.asarray(known(X), dtype=np.float64)
        else:
            given = np.asarray(known, dtype=np.float64)
            if given.ndim == 0:
                rule = lambda rows: np.full(len(rows), float(given))  # noqa: E731
            raw = np.full(len(X), float(given)) if given.ndim == 0 else given
        if raw.shape != (len(X),) or not ((raw > 0) & (raw < 1)).all():
            raise OptionError.of(
                "known", known, f"{len(X)} values (or one) strictly between 0 and 1"
            )
        return raw, rule

    def _estimated(
        self, X: NDArray[Any], t: BoolArray, folds: IntArray | None
    ) -> tuple[FloatArray, Callable[[NDArray[Any]], FloatArray]]:
        if folds is None:
            raise OptionError.of("folds", None, "one fold per row when e is estimated")
        fitted = cross_fit(lambda: _LogitModel(self.make_classifier()), X, t.astype(float), folds)
        score = fitted.predictions
        raw = np.empty(len(t))
        for fold in range(len(fitted.models)):
            rows = folds == fold
            raw[rows] = self._calibrator(score[~rows], t[~rows])(score[rows])
        final = self._calibrator(score, t)

        def rule(rows: NDArray[Any]) -> FloatArray:
            return final(np.mean([model.predict(rows) for model in fitted.models], axis=0))

        return raw, rule

    def _calibrator(self, score: FloatArray, t: BoolArray) -> Callable[[FloatArray], FloatArray]:
        if self.calibration == "none":
            return _sigmoid
        if self.calibration == "platt":
            return _fit_platt(score, t)
        if self.calibration == "isotonic":
            from sklearn.isotonic import IsotonicRegression

            isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
            predict: Callable[[FloatArray], FloatArray] = isotonic.fit(score, t).predict
            return predict
        raise OptionError.of("calibration", self.calibration, '"platt", "isotonic" or "none"')

    def _clip_bounds(self, share: float) -> tuple[float, float]:
        limit = self.max_weight
        if limit is None:
            if self.known is not None:
                return 0.0, 1.0
            limit = 10.0
        if not limit > 1:
            raise OptionError.of("max_weight", limit, "a number above 1")
        return share / limit, 1 - (1 - share) / limit

    def _trim_bounds(self, raw: FloatArray) -> tuple[float, float]:
        if self.trim is None:
            return 0.0, 1.0
        if self.trim == "crump":
            alpha = crump_threshold(np.clip(raw, _TINY, 1 - _TINY))
        elif isinstance(self.trim, float) and 0 < self.trim < 0.5:
            alpha = self.trim
        else:
            raise OptionError.of("trim", self.trim, '"crump" or a number between 0 and 0.5')
        return alpha, 1 - alpha


@dataclass
class _LogitModel:
    """A classifier seen as a regressor that predicts log odds."""

    classifier: Classifier

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> _LogitModel:
        self.classifier.fit(X, np.asarray(y) > 0.5)
        return self

    def predict(self, X: Any) -> FloatArray:
        # 1 − _TINY is 1 in the single precision of a pool's rows
        p = np.asarray(self.classifier.predict_proba(X), dtype=np.float64)[:, 1]
        p = np.clip(p, _TINY, 1 - _TINY)
        logit: FloatArray = np.log(p / (1 - p))
        return logit


def _fit_platt(score: FloatArray, t: BoolArray) -> Callable[[FloatArray], FloatArray]:
    """Logistic regression of t on the score; a falling one becomes the constant share."""
    from sklearn.linear_model import LogisticRegression

    centre, scale = float(score.mean()), float(score.std()) or 1.0
    model = LogisticRegression().fit(((score - centre) / scale)[:, None], t)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:
        share = float(t.mean())
        return lambda s: np.full(len(s), share)
    return lambda s: _sigmoid(intercept + slope * (s - centre) / scale)


def _sigmoid(logit: FloatArray) -> FloatArray:
    result: FloatArray = 1 / (1 + np.exp(-logit))
    return result
