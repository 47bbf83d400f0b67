"""Two-sample test and Frechet distance: against oracles, and how often noise is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import roc_auc_score

from bids_speechdecode.config import EvaluationConfig
from bids_speechdecode.decoding.explained import explain
from bids_speechdecode.decoding.frechet import distance, frechet, principal_components
from bids_speechdecode.decoding.shift import PENALTY, TwoSources, held_out_area, tell_apart
from bids_speechdecode.errors import DataError

SETTINGS = EvaluationConfig(n_bootstrap=300, n_permutations=99)
QUICK = EvaluationConfig(n_bootstrap=20, n_permutations=39)
SIZE = 5  # windows of a block


def draw(
    seed: int, *, n_blocks: int = 20, dimension: int = 6, shift: float = 0.0, paired: bool = False
) -> TwoSources:
    """Windows whose block has a mean of its own; the second source is moved in one dimension."""
    rng = np.random.default_rng(seed)
    number = np.repeat(np.arange(n_blocks), SIZE)
    content = rng.normal(size=(2, n_blocks, dimension))
    if paired:
        content[1] = content[0]
    targets = np.concatenate([part[number] for part in content])
    targets += rng.normal(size=targets.shape)
    second = np.repeat([False, True], len(number))
    targets[second, 0] += shift
    blocks = np.concatenate([number, number if paired else number + n_blocks])
    return TwoSources(targets, second, blocks)


def test_area_equals_scikit_learn() -> None:
    """Ridge, folds of whole blocks and the area are what they are said to be."""
    sources = draw(0, shift=1.0)
    fold = np.tile(np.repeat(np.arange(5), 4 * SIZE), 2)
    won = pairs = 0.0
    for k in range(5):
        train, test = fold != k, fold == k
        x, y = sources.targets[train], 2.0 * sources.second[train] - 1
        mean, scale = x.mean(axis=0), x.std(axis=0)
        model = Ridge(alpha=PENALTY * len(x)).fit((x - mean) / scale, y)
        scores = model.predict((sources.targets[test] - mean) / scale)
        n = sources.second[test].sum() * (~sources.second[test]).sum()
        won += n * roc_auc_score(sources.second[test], scores)
        pairs += n
    assert held_out_area(sources) == pytest.approx(won / pairs)
    assert tell_apart(sources, QUICK, np.random.default_rng(0)).auc == pytest.approx(won / pairs)


def test_more_dimensions_than_windows_give_the_same_scores() -> None:
    """The dual form is the primal one: added columns of zeros change nothing."""
    sources = draw(1, n_blocks=6, shift=1.0)
    wide = np.concatenate([sources.targets, np.zeros((60, 200))], axis=1)
    same = TwoSources(wide, sources.second, sources.blocks)
    assert held_out_area(same) == pytest.approx(held_out_area(sources), abs=1e-9)


@pytest.mark.parametrize("paired", [False, True])
def test_same_sources_are_told_apart_at_the_nominal_rate(paired: bool) -> None:
    """Windows of a block are alike: permuting windows instead would find a shift in noise."""
    found = [
        tell_apart(draw(seed, n_blocks=10, paired=paired), QUICK, np.random.default_rng(seed))
        for seed in range(120)
    ]
    n_false = sum(one.p <= 0.05 for one in found)
    assert stats.binomtest(n_false, 120, 0.05, alternative="greater").pvalue > 0.01
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("paired", [False, True])
def test_a_shift_is_found(paired: bool) -> None:
    """The test has power, and its interval is about the area."""
    found = tell_apart(draw(3, shift=2.0, paired=paired), SETTINGS, np.random.default_rng(0))
    assert found.p == found.p_min == 0.01
    assert 0.5 < found.ci_low < found.auc < found.ci_high <= 1


def test_few_blocks_are_refused() -> None:
    """Three blocks cannot be learned from and tested on."""
    with pytest.raises(DataError, match="Too few blocks"):
        tell_apart(draw(0, n_blocks=3), QUICK, np.random.default_rng(0))


def recorded(kind: str, seed: int = 0) -> tuple[TwoSources, np.ndarray]:
    """Return sources that differ in a property, in their targets, or both, as `kind` says."""
    rng = np.random.default_rng(seed)
    sources = draw(seed, n_blocks=40)
    level = rng.normal(size=len(sources.second))
    targets = sources.targets.copy()
    if kind != "another shift":
        level = level + 2.0 * sources.second
    if kind == "level":
        targets[:, 0] += 2.0 * level
    else:
        targets[:, 0] += 4.0 * sources.second
    return TwoSources(targets, sources.second, sources.blocks), level[:, None]


def separation(sources: TwoSources, properties: np.ndarray | None, within: bool = True) -> float:
    """Return the separation by scikit-learn, window by window."""
    second, apart = sources.second, []
    fold = np.tile(np.repeat(np.arange(5), len(second) // 10), 2)
    for k in range(5):
        train, targets = fold != k, sources.targets
        if properties is not None:
            sides = second[train, None] if within else np.zeros((train.sum(), 0))
            known = np.concatenate([properties[train], sides], axis=1)
            slopes = LinearRegression().fit(known, targets[train]).coef_[:, : properties.shape[1]]
            targets = targets - properties @ slopes.T
        mean, scale = targets[train].mean(axis=0), targets[train].std(axis=0)
        model = Ridge(alpha=PENALTY * train.sum())
        model.fit((targets[train] - mean) / scale, second[train])
        scores = model.predict((targets[~train] - mean) / scale)
        low, high = scores[~second[~train]], scores[second[~train]]
        apart.append((high.mean() - low.mean()) / np.sqrt((low.var() + high.var()) / 2))
    return float(np.mean(apart))


def test_share_equals_scikit_learn() -> None:
    """Sums of products of blocks are the windows, and a source is a column of the regression."""
    sources, level = recorded("both")
    properties = np.concatenate([level, level**2], axis=1)
    found = explain(sources, properties, QUICK, rng(0))
    full = separation(sources, None)
    assert found.share == pytest.approx(1 - separation(sources, properties) / full, abs=1e-4)
    pooled = separation(sources, properties, within=False)
    assert found.most == pytest.approx(1 - pooled / full, abs=1e-4)


def test_what_is_due_to_level_goes_with_level() -> None:
    """Only the level differs, and it moves the targets: all of the separation goes.

    Slopes that are not quite right leave a difference of either sign, so that less than all goes
    on average.
    """
    found = [explain(*recorded("level", seed), QUICK, rng(0)) for seed in range(15)]
    assert 0.75 < np.mean([one.share for one in found]) < 1.1


@pytest.mark.slow
def test_the_interval_of_the_share_covers_it() -> None:
    """Slopes and classifiers are learned anew in each draw: without that, it is far too narrow."""
    some = EvaluationConfig(n_bootstrap=300, n_permutations=1)
    found = [explain(*recorded("level", seed), some, rng(0)) for seed in range(60)]
    covered = sum(one.ci_low <= 1 <= one.ci_high for one in found)
    assert stats.binomtest(covered, 60, 0.95, alternative="less").pvalue > 0.01


def test_what_has_nothing_to_do_with_level_stays() -> None:
    """The level is the same in both sources, so that no slope can take the shift away."""
    found = explain(*recorded("another shift"), SETTINGS, np.random.default_rng(0))
    assert found.share == pytest.approx(0, abs=0.1)
    assert found.most == pytest.approx(0, abs=0.1)


def test_what_merely_differs_explains_nothing() -> None:
    """Level differs and does nothing to targets: slopes over both sources would blame it."""
    found = explain(*recorded("both"), SETTINGS, np.random.default_rng(0))
    assert found.share == pytest.approx(0, abs=0.15)
    assert found.most > 0.3


def test_unknown_properties_change_nothing() -> None:
    """A decay time that could not be estimated is at its source's mean."""
    sources, level = recorded("level")
    some = np.concatenate([level, np.full_like(level, np.nan)], axis=1)
    found = explain(sources, some, QUICK, np.random.default_rng(0))
    assert found.share == pytest.approx(
        explain(sources, level, QUICK, np.random.default_rng(0)).share
    )


# ------------------------------------------------------------------------------------ distance


def test_distance_of_known_gaussians() -> None:
    """Closed forms: along common axes, and against the matrix square root of scipy."""
    mean, zero = np.array([[3.0, 0.0, 4.0]]), np.zeros((1, 3))
    wide, narrow = np.diag([4.0, 9.0, 1.0])[None], np.eye(3)[None]
    assert frechet((zero, wide), (zero, wide))[0] == pytest.approx(0, abs=1e-9)
    assert frechet((mean, narrow), (zero, narrow))[0] == pytest.approx(25)
    assert frechet((zero, wide), (zero, narrow))[0] == pytest.approx((2 - 1) ** 2 + (3 - 1) ** 2)
    rng = np.random.default_rng(0)
    a, b = (x @ x.T for x in rng.normal(size=(2, 3, 5)))
    expected = 25 + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet((mean, a[None]), (zero, b[None]))[0] == pytest.approx(expected)


def test_distance_is_about_free_of_bias() -> None:
    """Samples of one Gaussian are apart; what is reported is not, and a true distance is kept."""
    same, apart, raw = [], [], []
    for seed in range(30):
        for shift, found in ((0.0, same), (2.0, apart)):
            sources = draw(seed, n_blocks=60, dimension=4, shift=shift)
            one = distance(sources, EvaluationConfig(n_bootstrap=100, n_permutations=1), rng(seed))
            found.append(one.value)
            if not shift:
                raw.append(one.raw)
    assert np.mean(raw) > 0.1
    assert abs(np.mean(same)) < 0.25 * np.mean(raw)
    assert np.mean(apart) == pytest.approx(4.0, abs=0.3)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("paired", [False, True])
def test_distance_finds_nothing_where_nothing_is(paired: bool) -> None:
    """False positives at the nominal rate, and a shift is found."""
    p = [distance(draw(s, paired=paired), QUICK, rng(s)).p for s in range(150)]
    n_false = sum(np.array(p) <= 0.05)
    assert stats.binomtest(n_false, 150, 0.05, alternative="greater").pvalue > 0.01
    found = distance(draw(0, shift=3.0, paired=paired), SETTINGS, rng(0))
    assert found.p == 0.01
    assert 0 < found.ci_low < found.value < found.ci_high


def test_components_equal_scikit_learn() -> None:
    """Scores up to their sign, and shares of the variance."""
    targets = np.random.default_rng(0).normal(size=(80, 6)) @ np.diag([5, 4, 3, 1, 1, 1])
    ours, theirs = principal_components(targets, 2), PCA(2).fit(targets)
    np.testing.assert_allclose(np.abs(ours.project(targets)), np.abs(theirs.transform(targets)))
    np.testing.assert_allclose(ours.share, theirs.explained_variance_ratio_)
