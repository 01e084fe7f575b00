"""The evidence-weighted gold model against n × n matrices, and what it should find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from metarouter.evidence import USES, Evidence, Priors, weigh_hypotheses
from metarouter.types import FloatArray

SIGNALS = np.array([0.0, *np.logspace(-3.0, 1.5, 14)])
SCALES = (0.01, 0.04, 0.16, 0.64)
PRIORS = {"ignore": 1.0, "inform": 16.0, "oppose": 2.0, "rescale": 0.5}
LEVEL = np.array([0])  # entry of θ that is the level
SIZE = 1.3  # standard deviation of f
VERDICT_SIZE = 1.5  # of the judge's mean verdict, which f does not tell in full
LEVEL_ERROR = 0.2


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Gold rows first, then rows to predict: two bases, judge, gain and weight."""

    n: int
    bases: tuple[FloatArray, FloatArray]
    judge: FloatArray
    gain: FloatArray
    weight: FloatArray
    level: FloatArray

    def weigh(self, judge: FloatArray | None, **options: object) -> Evidence:
        return weigh_hypotheses(
            [basis[: self.n] for basis in self.bases],
            self.gain,
            judge,
            weight=self.weight,
            level=self.level,
            judge_size=SIZE,
            verdict_size=VERDICT_SIZE,
            level_error=LEVEL_ERROR,
            **options,  # type: ignore[arg-type]
        )


def make_problem(n: int = 30, has_level: bool = True) -> Problem:
    rng = np.random.default_rng(0)
    P = rng.normal(size=(n + 9, 12))
    f = rng.normal(size=n + 9)
    y = 0.5 * f + P[:, 0] + rng.normal(size=n + 9)
    return Problem(
        n=n,
        bases=(P, np.tanh(P[:, :5])),
        judge=f,
        gain=y[:n],
        weight=rng.uniform(0.5, 2.0, n),
        level=np.full(n, float(has_level)),
    )


def predicted(problem: Problem, evidence: Evidence) -> tuple[FloatArray, ...]:
    """Posterior mean and std at the rows to predict, from θ."""
    P, Q = problem.bases
    U = np.column_stack([np.ones(len(P)), P, Q, problem.judge])[problem.n :]
    columns = [np.arange(1, 13), np.arange(13, 18)]
    judge = np.eye(19)[18] + 0.4 * np.eye(19)[0]
    posterior = evidence.posterior(columns, judge, LEVEL)
    variance = np.einsum("ij,jk,ik->i", U, posterior.covariance, U)
    return U @ posterior.mean, np.sqrt(variance)


def hypotheses(
    use: str,
    ratio: float,
    size: float = SIZE,
    level: float = 1.0,
    verdicts: float | None = None,
    level_error: float = 0.0,
    pool: bool = False,
) -> list[tuple[float, ...]]:
    """Prior, var δ, ρ, its variance, κ − ρ and var b; variances over σ²."""
    fallible = use in ("inform", "oppose")
    verdicts = ratio if verdicts is None else verdicts
    exact, to_f = verdicts / (1 - verdicts), ratio / verdicts / size**2
    signals = [*SIGNALS[1:], *([exact] if verdicts < 0.96 else [])] if fallible else list(SIGNALS)
    prior = stats.t(df=3).pdf([np.log(s / 0.1) if s else 2.0 for s in signals])
    found: list[tuple[float, ...]] = []
    for p, s in zip(PRIORS[use] * np.array(prior) / sum(prior), signals, strict=True):
        sign, f, g = -1.0 if use == "oppose" else 1.0, ratio * (1 + s), verdicts * (1 + s)
        if use == "rescale":
            found += [(p / 4, s, 0.0, t * to_f, 0.0, level) for t in SCALES]
            continue
        if fallible and s > g * (1 + 1e-9):
            continue  # the judge's verdicts vary less than the gain that they show
        slope = min(s / g, 1.0) if fallible else 0.0
        left, chance = s - slope**2 * f, 0.04 * slope * (1 - slope) * f / size**2
        apart = max(g - s, 0.0) + left if fallible else g + s
        is_own = [True] if pool and not fallible else [False] if pool else [True, False, False]
        for own, share in zip(is_own, (0.0, 1 / 16, 1.0), strict=False):
            b = level if own else share * apart + level_error * (1 + s)
            kept = -sign * slope if own else sign * (1 - slope)
            of_form = 1.0 if pool else 0.2 if own else 0.4
            found.append((p * of_form, left, sign * slope, chance, kept, b))
    return found


def predicted_densely(
    problem: Problem, uses: Sequence[str], has_level: bool, average: bool = True
) -> tuple[FloatArray, ...]:
    """The same by a loop over hypotheses, each with kernels between all rows."""
    n, y, f = problem.n, problem.gain, problem.judge
    judge_level = 0.4
    f = f + judge_level
    w = problem.weight / problem.weight.mean()
    variance = np.average((y - np.average(y, weights=w)) ** 2, weights=w)
    own_level = max(1.0, np.average(y, weights=w) ** 2 / variance)
    logs, means, squares = [], [], []
    for P in problem.bases:
        for use in uses:
            for prior, d, slope, slope_variance, kept, b in hypotheses(
                use,
                SIZE**2 / float(variance),
                level=own_level,
                verdicts=VERDICT_SIZE**2 / float(variance),
                level_error=LEVEL_ERROR**2 / float(variance),
                pool=not has_level,
            ):
                K = d * P @ P.T + b * has_level + slope_variance * np.outer(f, f)
                offset = slope * f + kept * judge_level
                C, target = K[:n, :n] + np.diag(1 / w), y - offset[:n]
                Ci = np.linalg.inv(C)
                q = target @ Ci @ target + variance
                logs.append(-(n + 1) / 2 * np.log(q) - np.linalg.slogdet(C)[1] / 2 + np.log(prior))
                means.append(offset[n:] + K[n:, :n] @ Ci @ target)
                spread = np.diag(K[n:, n:] - K[n:, :n] @ Ci @ K[:n, n:])
                squares.append(q / (n - 1) * spread + means[-1] ** 2)
    relative = np.exp(np.array(logs) - max(logs))
    share = np.where(relative >= (3e-3 if average else 1.0), relative, 0.0)
    share /= share.sum()
    mean = share @ np.array(means)
    return mean, np.sqrt(share @ np.array(squares) - mean**2)


@pytest.mark.parametrize("has_level", [True, False])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("uses", [USES, ("rescale",), ("ignore", "inform")])
@pytest.mark.parametrize("n", [30, 8])
def test_posterior_is_that_of_the_dense_mixture(
    n: int, uses: tuple[str, ...], average: bool, has_level: bool
) -> None:
    """Mean and std over all hypotheses, with weights, more rows than columns or fewer."""
    problem = make_problem(n, has_level)
    evidence = problem.weigh(
        problem.judge[:n] + 0.4, judge_level=np.full(n, 0.4), uses=uses, average=average
    )
    mean, std = predicted(problem, evidence)
    dense_mean, dense_std = predicted_densely(problem, uses, has_level, average)
    np.testing.assert_allclose(mean, dense_mean, atol=1e-8)
    np.testing.assert_allclose(std, dense_std, atol=1e-8)


def test_weights_of_hypotheses_sum_to_one() -> None:
    problem = make_problem()
    evidence = problem.weigh(problem.judge[:30])
    assert sum(evidence.share(use) for use in USES) == pytest.approx(1.0)
    assert evidence.basis_share(0) + evidence.basis_share(1) == pytest.approx(1.0)


def test_the_unit_of_gains_does_not_matter() -> None:
    """Gain and judge times three: the same weights, everything else times three."""
    problem = make_problem()
    P, f = problem.bases[0], problem.judge[:30]
    one = weigh_hypotheses(
        [P[:30]], problem.gain, f, judge_size=SIZE, verdict_size=1.5, level_error=0.2
    )
    three = weigh_hypotheses(
        [P[:30]], 3 * problem.gain, 3 * f, judge_size=3 * SIZE, verdict_size=4.5, level_error=0.6
    )
    for use in USES:
        assert three.share(use) == pytest.approx(one.share(use), abs=1e-9)
    columns, judge = [np.arange(1, 13)], np.zeros(13)
    a, b = one.posterior(columns, judge, LEVEL), three.posterior(columns, 3 * judge, LEVEL)
    np.testing.assert_allclose(b.mean, 3 * a.mean, atol=1e-9)
    np.testing.assert_allclose(b.covariance, 9 * a.covariance, atol=1e-9)
    assert three.noise_variance() == pytest.approx(9 * one.noise_variance())
    assert three.judge_slope() == pytest.approx(one.judge_slope())


def test_a_level_far_from_zero_is_not_shrunk() -> None:
    """Labels around 50 with noise of 1: the level is their mean."""
    problem = make_problem()
    evidence = weigh_hypotheses([problem.bases[0][:30]], 50.0 + problem.gain, None)
    level = evidence.posterior([np.arange(1, 13)], np.zeros(13), LEVEL).mean[0]
    assert level == pytest.approx(50.0 + problem.gain.mean(), abs=1.0)


def test_the_order_of_rows_does_not_matter() -> None:
    problem = make_problem()
    at = np.random.default_rng(1).permutation(30)
    P, f, y, w = problem.bases[0][:30], problem.judge[:30], problem.gain, problem.weight
    one = weigh_hypotheses([P], y, f, weight=w)
    other = weigh_hypotheses([P[at]], y[at], f[at], weight=w[at])
    columns, judge = [np.arange(1, 13)], np.eye(14)[13]
    a, b = one.posterior(columns, judge, LEVEL), other.posterior(columns, judge, LEVEL)
    np.testing.assert_allclose(a.mean, b.mean, atol=1e-9)
    np.testing.assert_allclose(a.covariance, b.covariance, atol=1e-9)


def test_no_judge_is_a_judge_of_another_level_that_is_ignored() -> None:
    problem = make_problem()
    none = problem.weigh(None)
    far = problem.judge[:30] + 50.0
    ignored = problem.weigh(far, judge_level=np.full(30, 50.0), uses=("ignore",))
    assert none.share("ignore") == pytest.approx(1.0, abs=1e-12)
    for a, b in zip(predicted(problem, none), predicted(problem, ignored), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_a_judge_of_the_right_mean_tells_the_level_and_no_query() -> None:
    """Three labels, and verdicts that vary little around 1: a level nearer 1, if they vary."""
    problem = make_problem()
    P, f = problem.bases[0][:3], np.ones(3)
    gain = np.array([0.2, 0.9, 0.7])
    found = {}
    for size in (0.0, 0.01):
        evidence = weigh_hypotheses(
            [P], gain, f, judge_size=size, verdict_size=0.01, label_variance=1.0, uses=("ignore",)
        )
        posterior = evidence.posterior([np.arange(1, 13)], np.eye(13)[0], LEVEL)
        found[size] = posterior.mean[0], posterior.covariance[0, 0]
        assert evidence.judge_slope() == 0
    assert found[0.0][0] < gain.mean() < found[0.01][0] < 1.0
    assert found[0.01][1] < found[0.0][1]


def test_verdicts_vary_at_least_as_what_the_votes_tell_of_them() -> None:
    problem = make_problem()
    P, f = problem.bases[0][:30], problem.judge[:30]
    told, less = (
        weigh_hypotheses([P], problem.gain, f, judge_size=SIZE, verdict_size=size)
        for size in (SIZE, 0.5 * SIZE)
    )
    for use in USES:
        assert less.share(use) == told.share(use)


def test_priors_move_the_shares() -> None:
    problem = make_problem()
    f = problem.judge[:30]
    even = problem.weigh(f, priors=Priors(ignore=1))
    wary = problem.weigh(f, priors=Priors(ignore=1e6))
    assert wary.share("ignore") > 0.99 > even.share("ignore")


def test_a_contestant_is_doubted_by_its_share_of_the_verdicts_and_its_level_never_believed() -> (
    None
):
    priors = Priors(ignore=2.0, ignore_contestant=10.0, judges_level=0.6)
    half, whole = priors.of_judges(0.5), priors.of_judges(1.0)
    assert half.ignore == 6.0
    assert half.judges_level == pytest.approx(0.3)
    assert (whole.ignore, whole.judges_level) == (10.0, 0.0)
    assert priors.of_judges(0.0) == priors
    of_others = Priors().inform + Priors().oppose + Priors().rescale
    assert Priors().ignore < 0.1 * of_others  # another judge is believed first
    assert Priors().ignore_contestant > 3.0 * of_others


def test_a_level_that_is_not_believed_is_not_used() -> None:
    """Verdicts that rank as gold does, ten above it: gold's own level, without harm."""
    problem = make_problem()
    P, psi = problem.bases[0][:30], problem.judge[:30]
    gain = psi + np.random.default_rng(1).normal(size=30) / 2
    levels = {}
    for name, share in (("own", 0.0), ("either", 0.8)):
        evidence = weigh_hypotheses(
            [P],
            gain,
            psi + 10.0,
            judge_level=np.full(30, 10.0),
            priors=Priors(judges_level=share),
        )
        assert evidence.share("inform") > 0.9
        posterior = evidence.posterior([np.arange(1, 13)], 10.0 * np.eye(13)[0], LEVEL)
        levels[name] = posterior.mean[0]
    assert levels["own"] == pytest.approx(gain.mean() - psi.mean(), abs=0.3)
    assert levels["either"] == pytest.approx(levels["own"], abs=0.05)


def test_a_basis_with_all_the_prior_gets_all_the_weight() -> None:
    problem = make_problem()
    evidence = problem.weigh(problem.judge[:30], basis_priors=[1.0, 1e-12])
    assert evidence.basis_share(0) == pytest.approx(1.0)
    assert problem.weigh(problem.judge[:30]).basis_share(0) < 1.0


def judged(kind: str, n: int, seed: int) -> Evidence:
    """Gold with noise of the size of the gain, and a judge that knows ψ, −ψ or nothing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 15)) / np.sqrt(15)
    psi = 2.0 * X[:, 0] + 2.0 * X[:, 1]
    f = {"unbiased": psi, "perverse": -psi, "noise": 2 * X[:, 2] + 2 * X[:, 3]}[kind]
    return weigh_hypotheses([X], psi + 0.5 * rng.normal(size=n), f)


@pytest.mark.parametrize(
    ("kind", "uses"),
    [("unbiased", ["inform"]), ("perverse", ["oppose"]), ("noise", ["ignore", "rescale"])],
)
def test_the_right_use_wins_with_more_labels(kind: str, uses: list[str]) -> None:
    """Of noise, none or a slope near 0."""
    few, many = (
        np.mean([sum(map(judged(kind, n, seed).share, uses)) for seed in range(6)])
        for n in (20, 400)
    )
    assert many > 0.99
    assert many > few or few > 0.9


def test_a_perverse_judge_gets_a_negative_slope() -> None:
    slopes = [judged("perverse", 200, seed).judge_slope() for seed in range(4)]
    np.testing.assert_allclose(slopes, -1.0, atol=0.35)
    assert judged("perverse", 200, 0).share("oppose") > 0.9


def test_the_slope_of_an_unbiased_judge_is_one_and_of_noise_is_none() -> None:
    assert judged("unbiased", 400, 0).judge_slope() == pytest.approx(1.0, abs=0.1)
    assert judged("noise", 400, 0).judge_slope() == pytest.approx(0.0, abs=0.1)


def test_std_is_calibrated_on_draws_from_the_model() -> None:
    """95 % intervals of ψ cover 93 to 97 % when hypotheses come true as often as their priors."""
    rng = np.random.default_rng(5)
    inside = []
    columns = [np.arange(1, 7)]
    every = [row for use in USES for row in hypotheses(use, 0.5, 1.0)]
    priors, d, slope, slope_variance, kept, b = np.array(every).T
    for _ in range(300):
        n = 60
        X = rng.normal(size=(n + 8, 6)) / np.sqrt(6)
        f = rng.normal(size=n + 8)
        i = rng.choice(len(priors), p=priors / priors.sum())
        rho = slope[i] + np.sqrt(slope_variance[i]) * rng.normal()
        level = np.sqrt(b[i]) * rng.normal() + kept[i] * f[:n].mean()
        psi = level + rho * f + np.sqrt(d[i]) * X @ rng.normal(size=6)
        evidence = weigh_hypotheses([X[:n]], psi[:n] + rng.normal(size=n), f[:n])
        posterior = evidence.posterior(columns, np.eye(8)[7], LEVEL)
        U = np.column_stack([np.ones(8), X[n:], f[n:]])
        std = np.sqrt(np.einsum("ij,jk,ik->i", U, posterior.covariance, U))
        inside.append(np.abs(U @ posterior.mean - psi[n:]) < 1.96 * std)
    assert 0.93 < np.mean(inside) < 0.97


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_labels_give_finite_answers(n: int) -> None:
    problem = make_problem()
    P = problem.bases[0][:n]
    evidence = weigh_hypotheses([P], problem.gain[:n], problem.judge[:n], judge_size=1.0)
    posterior = evidence.posterior([np.arange(1, 13)], np.eye(14)[13], LEVEL)
    assert np.isfinite(posterior.mean).all()
    assert np.isfinite(posterior.covariance).all()


def test_constant_labels_of_zero_give_a_gain_of_zero() -> None:
    problem = make_problem()
    evidence = weigh_hypotheses([problem.bases[0][:30]], np.zeros(30), problem.judge[:30])
    posterior = evidence.posterior([np.arange(1, 13)], np.zeros(13), LEVEL)
    np.testing.assert_allclose(posterior.mean, 0.0, atol=1e-9)
