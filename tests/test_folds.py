"""Folds: contiguous, apart by the embargo, and refused where too short."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_speechdecode.encoding.folds import contiguous_folds
from bids_speechdecode.errors import DataError


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(20, 200), min_size=1, max_size=4),
    n_folds=st.integers(2, 5),
    embargo=st.integers(0, 15),
    seed=st.integers(0, 99),
)
def test_blocks_are_contiguous_and_apart(
    lengths: list[int], n_folds: int, embargo: int, seed: int
) -> None:
    """Two blocks nearer than the embargo share context or response: the score would be too good."""
    segments = np.repeat(np.arange(len(lengths)) % 2, lengths)
    valid = np.random.default_rng(seed).random(len(segments)) > 0.1
    try:
        folds = contiguous_folds(segments, valid, n_folds, embargo)
    except DataError:
        return
    used = folds.block[folds.block >= 0]
    assert (np.diff(used) >= 0).all()
    assert set(used) == set(range(n_folds))
    assert valid[folds.block >= 0].all()
    for stretch, (a, b) in itertools.product(
        np.unique(folds.stretch), itertools.combinations(range(n_folds), 2)
    ):
        at = [np.flatnonzero((folds.block == k) & (folds.stretch == stretch)) for k in (a, b)]
        if all(len(where) for where in at):
            assert at[1].min() - at[0].max() >= embargo


def test_folds_are_of_equal_valid_length() -> None:
    """A long gap without responses must not leave one fold with half the data of another."""
    valid = np.ones(1000, bool)
    valid[:300] = False
    folds = contiguous_folds(np.zeros(1000, int), valid, 4, embargo=0)
    assert np.ptp(np.bincount(folds.block[folds.block >= 0])) <= 1


def test_nothing_is_left_out_between_stretches() -> None:
    """Where the audio differs there is nothing to keep apart, and data are dear."""
    folds = contiguous_folds(np.repeat([0, 1], 100), np.ones(200, bool), 2, embargo=30)
    assert (folds.block == np.repeat([0, 1], 100)).all()


def test_samples_are_the_same_for_every_lag() -> None:
    """Lags would be compared on different data; a sample counts if every lag has a response."""
    segments, valid = np.repeat([0, 1], [60, 40]), np.ones(100, bool)
    valid[20] = False
    lags = np.array([-3, 0, 5])
    folds = contiguous_folds(segments, valid, 2, embargo=8)
    expected = [
        t
        for t in range(100)
        if folds.block[t] >= 0
        and all(
            0 <= t + lag < 100 and segments[t + lag] == segments[t] and valid[t + lag]
            for lag in lags
        )
    ]
    assert np.concatenate(folds.list_rows(lags)).tolist() == expected


def test_inner_folds() -> None:
    """The outer fold's block must never be among its inner ones."""
    folds = contiguous_folds(np.zeros(30, int), np.ones(30, bool), 3, embargo=0)
    assert folds.inner == [[1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize(
    ("n", "n_folds", "embargo", "lags", "message"),
    [
        (100, 4, 60, [0], "too short for the embargo"),
        (100, 4, 10, [-3, 3, 20], "shorter than the range of the lags"),
        (100, 4, 20, list(range(-8, 9)), "fewer samples than there are lags"),
    ],
)
def test_too_little_data_is_named(
    n: int, n_folds: int, embargo: int, lags: list[int], message: str
) -> None:
    """A person must read what is too short, by how much, and what to do."""
    with pytest.raises(DataError, match=message) as error:
        contiguous_folds(np.zeros(n, int), np.ones(n, bool), n_folds, embargo).list_rows(
            np.array(lags)
        )
    assert "found:" in str(error.value)
    assert "to do:" in str(error.value)
