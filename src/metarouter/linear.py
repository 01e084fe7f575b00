"""Closed-form ridge regression whose penalty is chosen by GCV or evidence.

One eigendecomposition serves every penalty, so the fit costs one pass over the
rows, ``O(n d²)``, and choosing the penalty is free. It is the default nuisance
and gain model: fast enough to cross-fit everywhere, and its predictions carry a
posterior standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.types import FloatArray, IntArray

__all__ = ["Moments", "Ridge", "Spectrum", "spectrum"]

_CHUNK = 65_536  # rows a pass, so that a million rows never need a second copy
_GRID = np.logspace(-6.0, 6.0, 145)  # penalties over the mean eigenvalue
# Spread of features below these shares of their squared size is rounding: of centred rows, and
# of sums of squares from which the mean is taken out afterwards.
_ROUNDING, _ROUNDING_OF_SUMS = 1e-24, 1e-12
_CONSTANT = 1e-12  # a column that varies by less than this share of its mean does so by rounding
_NULL = 1e-12  # eigenvalues below this share of the largest are rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Spectrum:
    """A weighted least-squares problem, rotated so that it is diagonal.

    With rows scaled by √weight and centred by the weighted means,
    ``values`` are the eigenvalues λ of X'X, ``basis`` (d, k) their vectors,
    ``projection`` is basis' X'y and ``total`` is y'y.
    """

    values: FloatArray
    basis: FloatArray
    projection: FloatArray
    total: float
    n: int
    x_mean: FloatArray
    y_mean: float
    weight_sum: float

    def coefficients(self, penalty: float) -> FloatArray:
        """Ridge coefficients at `penalty`, shape (d,)."""
        result: FloatArray = self.basis @ (self.projection / (self.values + penalty))
        return result

    def spanned(self) -> Spectrum:
        """The same problem without directions in which rows do not differ but by rounding."""
        kept = self.values > _NULL * self.values.max(initial=0.0)
        return replace(
            self,
            values=self.values[kept],
            basis=self.basis[:, kept],
            projection=self.projection[kept],
        )

    def penalties(self) -> FloatArray:
        """The grid searched, from no shrinkage to nothing left."""
        mean_value = float(self.values.mean()) if len(self.values) else 0.0
        result: FloatArray = _GRID * (mean_value or 1.0)
        return result

    def unit_penalty(self) -> float:
        """Penalty at which the prior says of an average row what one label of it would.

        Of a row that lies as far from x̄ as rows do on average, σ²‖x − x̄‖²/α is then σ², the
        variance of a label: the unit information prior (Kass and Wasserman 1995). Where no row
        differs from x̄ that distance is taken to be ‖x̄‖, and √d where x̄ is 0.
        """
        spread = float(self.values.sum()) / self.weight_sum
        return spread or float(self.x_mean @ self.x_mean) or float(len(self.x_mean) or 1)

    def gcv(self, penalties: FloatArray) -> FloatArray:
        """Generalised cross-validation score of each penalty (lower is better)."""
        kept = self.values > _NULL * self.values.max(initial=0.0)
        values, c2 = self.values[kept], self.projection[kept] ** 2
        left = penalties[:, None] / (values + penalties[:, None])  # 1 − leverage of a direction
        beyond = max(self.total - float((c2 / values).sum()), 0.0)  # what no direction explains
        rss = beyond + (c2 / values * left**2).sum(axis=1)
        # Summed from small to large: n − df has no digits left where rows are interpolated.
        unused = left.sum(axis=1) + (self.n - 1 - len(values))
        result: FloatArray = rss / (np.maximum(unused, 1e-300) / self.n) ** 2
        return result

    def evidence(self, penalties: FloatArray) -> FloatArray:
        """Minus twice the restricted log marginal likelihood (lower is better).

        The noise variance is profiled out and the intercept has a flat prior.
        """
        a = self.values[None, :] + penalties[:, None]
        fit = self.total - (self.projection**2 / a).sum(axis=1)
        dof = max(self.n - 1, 1)
        floor = max(self.total, 1e-300) * 1e-12
        complexity = np.log1p(self.values / penalties[:, None]).sum(axis=1)
        result: FloatArray = dof * np.log(np.maximum(fit, floor) / dof) + complexity
        return result

    def evidence_variance(self, penalty: float) -> float:
        """Noise variance of a row of weight one that maximises the evidence at `penalty`."""
        fit = self.total - float((self.projection**2 / (self.values + penalty)).sum())
        return max(fit, 0.0) / max(self.n - 1, 1)

    def residual_variance(self, penalty: float) -> float:
        """Residual variance of a row of weight one over the residual degrees of freedom."""
        a = self.values + penalty
        rss = self.total - float((self.projection**2 * (2 / a - self.values / a**2)).sum())
        dof = self.n - 1 - float((self.values / a).sum())
        return max(rss, 0.0) / max(dof, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Weighted sums over rows, from which ridge on any of the columns follows.

    They add up over chunks and subtract over folds, so that a million rows need
    one pass and no copy. Weights are taken as given: rows of weight 2 count
    twice.
    """

    n: int
    weight_sum: float
    x_sum: FloatArray  # (d,)
    y_sum: float
    gram: FloatArray  # (d, d) Σ w x x'
    moment: FloatArray  # (d,) Σ w x y
    total: float  # Σ w y²

    @classmethod
    def of(cls, X: FloatArray, y: FloatArray, weight: FloatArray) -> Moments:
        """Sums over the rows X (n, d), y (n,), weight (n,)."""
        root = np.sqrt(weight)
        weighted = X * root[:, None]  # one array on both sides: half the multiplications
        return cls(
            n=len(y),
            weight_sum=float(weight.sum()),
            x_sum=weighted.T @ root,
            y_sum=float(weight @ y),
            gram=weighted.T @ weighted,
            moment=weighted.T @ (root * y),
            total=float(weight @ y**2),
        )

    def __add__(self, other: Moments) -> Moments:
        return self._combine(other, 1)

    def __sub__(self, other: Moments) -> Moments:
        return self._combine(other, -1)

    def _combine(self, other: Moments, sign: int) -> Moments:
        return Moments(
            n=self.n + sign * other.n,
            weight_sum=self.weight_sum + sign * other.weight_sum,
            x_sum=self.x_sum + sign * other.x_sum,
            y_sum=self.y_sum + sign * other.y_sum,
            gram=self.gram + sign * other.gram,
            moment=self.moment + sign * other.moment,
            total=self.total + sign * other.total,
        )

    def spectrum(self, columns: IntArray, *, intercept: bool = True) -> Spectrum:
        """The problem on some columns, with weights rescaled to mean 1.

        Without an intercept nothing is centred.
        """
        gram, moment, x_mean, y_mean = self._centred(columns, intercept)
        values, basis = np.linalg.eigh(gram)
        rounding = _ROUNDING_OF_SUMS * self.n * float(x_mean @ x_mean)
        largest = float(values.max(initial=0.0))
        keep = (values > 1e-10 * max(largest, 1e-300)) & (largest > rounding)
        total = (self.total - self.weight_sum * y_mean**2) * self.n / self.weight_sum
        return Spectrum(
            values=values[keep],
            basis=basis[:, keep],
            projection=basis[:, keep].T @ moment,
            total=max(total, 0.0),
            n=self.n,
            x_mean=x_mean,
            y_mean=y_mean,
            weight_sum=float(self.n),
        )

    def ridge(
        self, columns: IntArray, penalty: float, *, intercept: bool = True
    ) -> tuple[FloatArray, float]:
        """Coefficients on some columns and intercept of ridge at a penalty above 0.

        Those of :meth:`spectrum`, for a fraction of its time.
        """
        gram, moment, x_mean, y_mean = self._centred(columns, intercept)
        if np.trace(gram) <= _ROUNDING_OF_SUMS * self.n * float(x_mean @ x_mean):
            return np.zeros(len(columns)), y_mean
        gram[np.diag_indices_from(gram)] += penalty
        coef: FloatArray = np.asarray(np.linalg.solve(gram, moment), dtype=np.float64)
        return coef, y_mean - float(x_mean @ coef)

    def _centred(
        self, columns: IntArray, intercept: bool
    ) -> tuple[FloatArray, FloatArray, FloatArray, float]:
        """X'X, X'y and the means that were taken out, with weights of mean 1."""
        scale = self.n / self.weight_sum
        share = float(intercept) / self.weight_sum
        x_mean, y_mean = self.x_sum[columns] * share, self.y_sum * share
        gram = self.gram[np.ix_(columns, columns)] - self.weight_sum * np.outer(x_mean, x_mean)
        moment = self.moment[columns] - self.weight_sum * y_mean * x_mean
        return scale * gram, scale * moment, x_mean, y_mean


def spectrum(X: NDArray[Any], y: FloatArray, weight: FloatArray | None = None) -> Spectrum:
    """Diagonalise a weighted least-squares problem with an intercept.

    Parameters
    ----------
    X : array, shape (n, d)
    y : array, shape (n,)
    weight : array, shape (n,), or None
        Precision of each row; rows of weight 0 do not count. Weights are
        rescaled to mean 1, so only their ratios matter.

    Raises
    ------
    DataError
        When no row has weight, or shapes or values do not fit.
    """
    y = np.asarray(y, dtype=np.float64)
    w = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=np.float64)
    if X.ndim != 2 or len(X) != len(y) or len(w) != len(y):
        raise DataError(f"ridge got X {X.shape}, y {y.shape}, weight {w.shape}")
    keep = w > 0
    if not keep.any():
        raise DataError("ridge needs at least one row with a positive weight")
    if not keep.all():
        X, y, w = X[keep], y[keep], w[keep]
    w = w / w.mean()
    x_mean, y_mean = _weighted_mean(X, w), float(w @ y / w.sum())
    yc = y - y_mean
    solve = _primal if len(y) > X.shape[1] else _dual
    values, basis, projection = solve(X, x_mean, yc, w)
    if values.max(initial=0.0) <= _ROUNDING * float(w.sum()) * float(x_mean @ x_mean):
        values, basis, projection = values[:0], basis[:, :0], projection[:0]
    return Spectrum(
        values=values,
        basis=basis,
        projection=projection,
        total=float(w @ yc**2),
        n=len(y),
        x_mean=x_mean,
        y_mean=y_mean,
        weight_sum=float(w.sum()),
    )


def _unitless(X: NDArray[Any], y: FloatArray, weight: FloatArray | None) -> Spectrum | None:
    """The problem in columns of equal size, its basis in those given; None without full rank.

    Eigenvalues of columns 10⁶ apart are 10¹² apart, as far as rounding is. Least squares do not
    depend on units, so that the rank is decided without them.
    """
    mean, size = np.mean(X, axis=0, dtype=np.float64), np.std(X, axis=0, dtype=np.float64)
    if len(X) <= X.shape[1] or (size <= _CONSTANT * np.abs(mean)).any():
        return None
    found = spectrum((X - mean) / size, y, weight)
    if found.values.min(initial=np.inf) <= _NULL * found.values.max(initial=0.0):
        return None
    return replace(found, basis=found.basis / size[:, None], x_mean=mean + size * found.x_mean)


def _weighted_mean(X: NDArray[Any], w: FloatArray) -> FloatArray:
    total = np.zeros(X.shape[1])
    for start in range(0, len(X), _CHUNK):
        total += w[start : start + _CHUNK] @ X[start : start + _CHUNK].astype(np.float64)
    mean: FloatArray = total / w.sum()
    return mean


def _primal(
    X: NDArray[Any], x_mean: FloatArray, yc: FloatArray, w: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    d = X.shape[1]
    gram, moment = np.zeros((d, d)), np.zeros(d)
    for start in range(0, len(X), _CHUNK):
        rows = slice(start, start + _CHUNK)
        block = (X[rows] - x_mean) * np.sqrt(w[rows])[:, None]
        gram += block.T @ block
        moment += block.T @ (np.sqrt(w[rows]) * yc[rows])
    values, basis = np.linalg.eigh(gram)
    return np.maximum(values, 0.0), basis, basis.T @ moment


def _dual(
    X: NDArray[Any], x_mean: FloatArray, yc: FloatArray, w: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    block = (X - x_mean) * np.sqrt(w)[:, None]
    values, left = np.linalg.eigh(block @ block.T)
    keep = values > max(float(values.max(initial=0.0)), 1e-300) * _NULL
    values, left = values[keep], left[:, keep]
    root = np.sqrt(values)
    basis = (block.T @ left) / root
    return values, basis, root * (left.T @ (np.sqrt(w) * yc))


@dataclass
class Ridge:
    """Linear regression with a ridge penalty that it chooses itself.

    Minimises ``Σ wᵢ (yᵢ − b − xᵢ'β)² + α‖β‖²``, equivalently the posterior mean
    under ``β ~ N(0, σ²/α · I)`` and a flat prior on the intercept b.

    Parameters
    ----------
    penalty : {"evidence", "gcv"} or float, default "evidence"
        How α is chosen: restricted marginal likelihood (MacKay 1992), which is
        steadier on few rows, or generalised cross-validation (Golub, Heath and
        Wahba 1979); a number is taken as α itself, and 0 gives least squares, which no
        unit of a feature moves where the rows tell all coefficients. Where no α is better than
        another, as of features that do not vary or of two rows, the prior is worth
        one label: :meth:`Spectrum.unit_penalty`.

    Attributes
    ----------
    coef_ : array, shape (d,)
    intercept_ : float
    penalty_ : float, the α used.
    noise_variance_ : float, of a row of average weight.

    References
    ----------
    MacKay (1992), Bayesian interpolation, https://doi.org/10.1162/neco.1992.4.3.415;
    Golub, Heath and Wahba (1979), https://doi.org/10.1080/00401706.1979.10489751;
    Kass and Wasserman (1995), A reference Bayesian test,
    https://doi.org/10.1080/01621459.1995.10476592.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(6.0)[:, None]
    >>> model = Ridge(penalty=0.0).fit(X, 2 * X[:, 0] + 1)
    >>> model.predict(X[:2]).round(6).tolist()
    [1.0, 3.0]
    """

    penalty: Literal["evidence", "gcv"] | float = "evidence"
    coef_: FloatArray | None = field(default=None, init=False, repr=False)
    intercept_: float = field(default=0.0, init=False, repr=False)
    penalty_: float = field(default=0.0, init=False, repr=False)
    noise_variance_: float = field(default=0.0, init=False, repr=False)
    spectrum_: Spectrum | None = field(default=None, init=False, repr=False)

    def fit(self, X: NDArray[Any], y: Any, sample_weight: Any = None) -> Self:
        """Fit on rows X (n, d), targets y (n,), precisions `sample_weight` (n,)."""
        weight = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        X, y = np.asarray(X), np.asarray(y, dtype=np.float64)
        problem = spectrum(X, y, weight)
        unitless = _unitless(X, y, weight) if self.penalty == 0 else None
        return self.fit_spectrum(unitless or problem)

    def fit_spectrum(self, problem: Spectrum) -> Self:
        """Fit a problem that is diagonal already, as from :meth:`Moments.spectrum`."""
        self.penalty_ = self._choose(problem)
        if self.penalty_ <= _NULL * problem.values.max(initial=0.0):
            problem = problem.spanned()  # no prior holds what the rows do not tell
        self.spectrum_ = problem
        self.coef_ = problem.coefficients(self.penalty_)
        self.intercept_ = problem.y_mean - float(problem.x_mean @ self.coef_)
        by_evidence = self.penalty == "evidence"
        estimate = problem.evidence_variance if by_evidence else problem.residual_variance
        self.noise_variance_ = estimate(self.penalty_)
        return self

    def predict(self, X: NDArray[Any]) -> FloatArray:
        """Posterior mean, shape (n,)."""
        if self.coef_ is None:
            raise NotFittedError.of(self)
        result: FloatArray = np.asarray(X) @ self.coef_ + self.intercept_
        return result

    def predict_std(self, X: NDArray[Any]) -> FloatArray:
        """Posterior standard deviation of the mean, without label noise, (n,)."""
        factor, floor = self.std_factor()
        problem = self.spectrum_
        assert problem is not None  # noqa: S101 - std_factor has checked it
        centred = np.asarray(X, dtype=np.float64) - problem.x_mean
        rotated = centred @ factor
        variance = floor[0] + (rotated**2).sum(axis=1)
        if floor[1] > 0:
            outside = (centred**2).sum(axis=1) - ((centred @ problem.basis) ** 2).sum(axis=1)
            variance = variance + floor[1] * np.maximum(outside, 0.0)
        result: FloatArray = np.sqrt(variance)
        return result

    def covariance(self) -> FloatArray:
        """Posterior covariance of the intercept, then the coefficients, (d + 1, d + 1)."""
        factor, (level, unseen) = self.std_factor()
        problem = self.spectrum_
        assert problem is not None  # noqa: S101 - std_factor has checked it
        slopes = factor @ factor.T
        if unseen > 0:
            slopes += unseen * (np.eye(len(slopes)) - problem.basis @ problem.basis.T)
        across = slopes @ problem.x_mean  # the intercept is ȳ − x̄'β
        corner = np.array([[level + problem.x_mean @ across]])
        return np.block([[corner, -across[None]], [-across[:, None], slopes]])

    def std_factor(self) -> tuple[FloatArray, tuple[float, float]]:
        """Pieces of the posterior variance ``c + ‖F'(x − x̄)‖² + g·‖x outside‖²``.

        F has shape (d, k). The last term is the prior variance in directions
        that no row has seen; g is 0 when the rows span the space.
        """
        if self.spectrum_ is None:
            raise NotFittedError.of(self)
        problem, noise = self.spectrum_, self.noise_variance_
        alpha = max(self.penalty_, _NULL * (float(problem.values.max(initial=0.0)) or 1.0))
        factor = problem.basis * np.sqrt(noise / (problem.values + alpha))
        unseen = noise / alpha if problem.basis.shape[1] < problem.basis.shape[0] else 0.0
        return factor, (noise / problem.weight_sum, unseen)

    def _choose(self, problem: Spectrum) -> float:
        if isinstance(self.penalty, (int, float)):
            if self.penalty < 0:
                raise OptionError.of("penalty", self.penalty, '"evidence", "gcv" or a number >= 0')
            return float(self.penalty)
        if self.penalty not in ("evidence", "gcv"):
            raise OptionError.of("penalty", self.penalty, '"evidence", "gcv" or a number >= 0')
        if problem.n <= 2:  # one degree of freedom beside the mean: either criterion is flat
            return problem.unit_penalty()
        grid = problem.penalties()
        scores = getattr(problem, self.penalty)(grid)
        if np.ptp(scores) == 0:
            return problem.unit_penalty()
        return float(grid[int(np.argmin(scores))])
