"""Contributions against closed forms, slow loops and every order of the blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from bids_speechdecode.config import ContributionConfig, EvaluationConfig
from bids_speechdecode.decoding import replacement
from bids_speechdecode.decoding.contrastive import relative_ranks
from bids_speechdecode.decoding.contributions import COLUMNS, electrode_contributions
from bids_speechdecode.decoding.encoder import (
    Encoder,
    EncoderSpec,
    LinearEncoder,
    WithHead,
    build_encoder,
)
from bids_speechdecode.decoding.gradients import integrate_gradients
from bids_speechdecode.decoding.neighbours import nearest_correlations
from bids_speechdecode.decoding.permutation import count_orders, order_blocks, plan_exchange
from bids_speechdecode.decoding.replacement import Retrieval
from bids_speechdecode.decoding.training import embed_windows
from bids_speechdecode.decoding.windows import WindowSet
from bids_speechdecode.errors import DataError

FAST = EvaluationConfig(n_bootstrap=100)
FEW = ContributionConfig(draws=100, n_permutations=199, ig_steps=8)
# A position for each of four channels, one of them not localised.
POSITIONS = ((-50.0, -20.0, 5.0), (-54.0, -20.0, 5.0), None, (40.0, 10.0, -20.0))
SPECS = [
    EncoderSpec("conv", 4, 24, 5, preset="small"),
    EncoderSpec("conv", 4, 24, 5, n_frames=6, preset="small", head=4),
    EncoderSpec("conv", 4, 24, 5, preset="small", spatial="attention", positions_mm=POSITIONS),
    EncoderSpec("linear", 4, 24, 5),
    EncoderSpec("linear", 4, 24, 5, n_frames=6),
]


def window_set(x: np.ndarray, audio: np.ndarray) -> WindowSet:
    """Return windows (N, C, T) laid end to end."""
    n, n_channels, n_samples = x.shape
    signal = x.transpose(0, 2, 1).reshape(-1, n_channels)
    return WindowSet(
        torch.tensor(signal, dtype=torch.float32),
        torch.arange(n) * n_samples,
        n_samples,
        torch.tensor(audio, dtype=torch.float32),
    )


def random_windows(spec: EncoderSpec, n: int, seed: int = 0) -> WindowSet:
    rng = np.random.default_rng(seed)
    shape = (spec.head or spec.dimension,)
    if spec.n_frames:
        shape = (spec.n_frames, *shape)
    x = rng.standard_normal((n, spec.n_channels, spec.n_samples))
    return window_set(x, rng.standard_normal((n, *shape)))


def reader(weights: np.ndarray, n_samples: int) -> LinearEncoder:
    """Return the encoder ``e = 1/2 + W mean_t x`` with W of shape (d, C)."""
    encoder = LinearEncoder(weights.shape[1], n_samples, weights.shape[0])
    spread = np.repeat(weights[:, :, None] / n_samples, n_samples, axis=2)
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.tensor(spread.reshape(len(weights), -1)))
        encoder.linear.bias.fill_(0.5)
    return encoder


def contributions(encoder, windows, blocks, shafts=None, settings=FEW, seed=0, **more):
    shafts = shafts or [""] * windows.n_channels
    rng = np.random.default_rng(seed)
    return electrode_contributions(encoder, windows, blocks, shafts, settings, FAST, rng, **more)


def slow_cosines(encoder: Encoder, x: torch.Tensor, audio: torch.Tensor) -> np.ndarray:
    """Similarity of each window with each candidate by the whole encoder and a loop."""
    with torch.no_grad():
        brain = encoder.eval()(x).flatten(1).double().numpy()
    audio = audio.flatten(1).double().numpy()
    return np.array([[e @ a / np.linalg.norm(e) / np.linalg.norm(a) for a in audio] for e in brain])


def slow_ranks(encoder: Encoder, x: torch.Tensor, audio: torch.Tensor) -> np.ndarray:
    """Relative rank of each window by a loop over candidates."""
    rows = enumerate(slow_cosines(encoder, x, audio))
    return np.array([np.mean(np.delete(cosine, i) > cosine[i]) for i, cosine in rows])


def slow_margins(encoder: Encoder, x: torch.Tensor, audio: torch.Tensor) -> np.ndarray:
    """Return by how many standard deviations of all candidates each true one is above them."""
    rows = enumerate(slow_cosines(encoder, x, audio))
    return np.array([(row[i] - np.mean(row)) / np.std(row, ddof=1) for i, row in rows])


def replaced_signal(x: torch.Tensor, channels, sources) -> torch.Tensor:
    """Return a copy of all windows in which some channels come from the windows `sources`."""
    changed = x.clone()
    changed[:, channels] = x[sources][:, channels]
    return changed


@pytest.mark.parametrize("spec", SPECS)
def test_equals_a_slow_loop(spec):
    # Shortcuts (rank-one change, basis of the output, integer sums) must not change the numbers:
    # here whole windows are rebuilt, go through the whole encoder, and are ranked by a loop.
    blocks = np.repeat([5, 1, 7], [5, 4, 5])
    windows = random_windows(spec, len(blocks))
    encoder = build_encoder(spec, seed=1)
    x, audio = windows.brain(torch.arange(14)), windows.targets
    result = contributions(encoder, windows, blocks, ["A", "B", "A", ""])
    members = {5: range(5), 1: range(5, 9), 7: range(9, 14)}
    draws = [[], []]  # for each window, from each of the two other blocks
    for i, block in enumerate(blocks):
        place = i - members[block][0]
        others = [other for name, other in members.items() if name != block]
        for draw, other in zip(draws, others, strict=True):
            draw.append(other[place % len(other)])
    intact = slow_ranks(encoder, x, audio)
    assert result.mean_rank == pytest.approx(intact.mean())

    def loss(channels):
        ranks = [slow_ranks(encoder, replaced_signal(x, channels, s), audio) for s in draws]
        return np.mean(ranks) - intact.mean()

    table = result.table()
    assert list(table) == list(COLUMNS)
    single = [loss([c]) for c in range(4)]
    np.testing.assert_allclose(table["contribution"], single, atol=1e-9)
    margin = slow_margins(encoder, x, audio).mean()
    for c in range(4):
        margins = [slow_margins(encoder, replaced_signal(x, [c], s), audio) for s in draws]
        assert table["margin_contribution"][c] == pytest.approx(margin - np.mean(margins), abs=1e-5)
    pair, lone = loss([0, 2]), loss([1])
    np.testing.assert_allclose(table["shaft_contribution"], [pair, lone, pair, np.nan])
    surplus = pair - single[0] - single[2]
    np.testing.assert_allclose(table["redundancy"], [surplus, 0, surplus, np.nan], atol=1e-9)
    for c in range(4):
        rest = [other for other in range(4) if other != c]
        ranks = [slow_ranks(encoder, replaced_signal(x, rest, s), audio) for s in draws]
        assert table["rank_alone"][c] == pytest.approx(np.mean(ranks))


def test_p_counts_every_order_of_the_blocks():
    # The permutation test reuses sums of pairs of blocks; each of the 24 orders is done in full.
    spec = SPECS[0]
    windows, encoder = random_windows(spec, 12, seed=3), build_encoder(spec, seed=3)
    x = windows.brain(torch.arange(12))
    result = contributions(encoder, windows, np.repeat(np.arange(4), 3))
    for c in range(4):
        means = []
        for order in itertools.permutations(range(4)):
            sources = [3 * block + j for block in order for j in range(3)]
            ranks = slow_ranks(encoder, replaced_signal(x, [c], sources), windows.targets)
            means.append(ranks.mean())
        expected = np.mean([mean <= means[0] + 1e-12 for mean in means])
        assert result.table()["p"][c] == pytest.approx(expected)
    assert result.p_min == pytest.approx(1 / 24)
    assert any("4 blocks" in note for note in result.notes)


def test_the_one_electrode_that_carries_the_sound():
    # In closed form: without it the sound of the other window comes first and the true one
    # anywhere among the rest, N / (2 (N - 1)); no other electrode is read, so none costs anything.
    rng = np.random.default_rng(0)
    n, n_samples = 120, 8
    audio = rng.standard_normal((n, n_samples))
    x = rng.standard_normal((n, 5, n_samples))
    x[:, 2] = audio
    encoder = LinearEncoder(5, n_samples, n_samples)
    with torch.no_grad():
        encoder.linear.weight.zero_()
        encoder.linear.weight[:, 2 * n_samples : 3 * n_samples] = torch.eye(n_samples)
        encoder.linear.bias.fill_(1e-3)
    settings = ContributionConfig(draws=2000, n_permutations=999)
    table = contributions(encoder, window_set(x, audio), np.arange(n) // 6, None, settings).table()
    chance = n / (2 * (n - 1))
    silent = [0, 1, 3, 4]
    assert table["contribution"][2] == pytest.approx(chance, abs=0.02)
    assert table["ci_low"][2] < table["contribution"][2] < table["ci_high"][2]
    assert table["p"][2] == table["p_min"][2] == 0.001
    assert table["rank_alone"][2] == 0
    assert (table["contribution"][silent] == 0).all()
    assert (table["p"][silent] == 1).all()
    assert table["rank_alone"][silent].to_numpy() == pytest.approx(chance, abs=0.05)


def test_electrodes_that_hear_are_told_from_those_that_do_not():
    # The picture that a clinician looks at: each electrode that carries a part of the sound is
    # above every electrode that the encoder reads for nothing.
    rng = np.random.default_rng(1)
    n, n_channels, n_hearing = 120, 20, 8
    audio = rng.standard_normal((n, n_hearing))
    x = 0.3 * rng.standard_normal((n, n_channels, 4))
    x[:, :n_hearing] += audio[:, :, None]
    weights = np.concatenate([np.eye(8), 0.3 * rng.standard_normal((8, 12))], axis=1)
    table = contributions(reader(weights, 4), window_set(x, audio), np.arange(n) // 6).table()
    hears = np.arange(n_channels) < n_hearing
    for name in ("contribution", "integrated_gradient"):
        assert table[name][hears].min() > table[name][~hears].max()
    assert table["rank_alone"][hears].max() < table["rank_alone"][~hears].min()
    assert (table["q"][hears] < 0.05).all()
    assert table["integrated_gradient"].sum() == pytest.approx(1)


def test_copies_on_a_shaft_stand_in_for_each_other():
    # The trap of single contacts: none of them matters, and the report must not say so of the area.
    rng = np.random.default_rng(2)
    n, d = 120, 24
    audio = rng.standard_normal((n, d))
    x = rng.standard_normal((n, 8, d))
    x[:, :5] = audio[:, None]
    encoder = LinearEncoder(8, d, d)
    with torch.no_grad():
        encoder.linear.weight.copy_(torch.eye(d).repeat(1, 8) * 0.2)
        encoder.linear.weight[:, 5 * d :] = 0
        encoder.linear.bias.zero_()
    shafts = ["LA"] * 5 + ["RB"] * 3
    result = contributions(encoder, window_set(x, audio), np.arange(n) // 6, shafts)
    table = result.table()
    assert (table["contribution"] == 0).all()
    assert (table["q"] == 1).all()
    assert (table["shaft_contribution"][:5] > 0.4).all()
    assert (table["shaft_q"][:5] < 0.05).all()
    assert (table["redundancy"][:5] > 0.4).all()
    assert (table["shaft_contribution"][5:] == 0).all()
    assert table["nearest_neighbour_r"][:5].to_numpy() == pytest.approx(1)
    assert "Shaft LA matters" in next(note for note in result.notes if "stand in" in note)
    assert not any("RB" in note for note in result.notes)


def smooth_noise(rng, n, phi):
    noise = rng.standard_normal(n)
    for i in range(1, n):
        noise[i] = phi * noise[i - 1] + np.sqrt(1 - phi**2) * noise[i]
    return noise


def silent_electrode(seed, lengths, draws, phi, whole):
    """Return both p of an electrode that is read but hears nothing, and the rank of all."""
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(len(lengths)), lengths)
    n, d = len(blocks), 4
    audio = rng.standard_normal((n, d))
    x = 0.7 * rng.standard_normal((n, d + 1, 2))
    x[:, :d] += audio[:, :, None]
    parts = [n] if whole else lengths
    noise = np.concatenate([smooth_noise(rng, length, phi) for length in parts])
    x[:, d] = noise[:, None]
    weights = np.concatenate([np.eye(d), rng.standard_normal((d, 1))], axis=1)
    settings = ContributionConfig(draws=draws, n_permutations=199, ig_steps=1)
    settings_of_ci = EvaluationConfig(n_bootstrap=1)
    result = electrode_contributions(
        reader(weights, 2), window_set(x, audio), blocks, [""] * 5, settings, settings_of_ci, rng
    )
    table = result.table()
    return table["p"][d], table["margin_p"][d], result.mean_rank


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lengths", "draws", "phi", "whole"),
    [
        ([8] * 16, 1, 0.0, False),
        ([8] * 16, 1, 0.9, False),
        ([8] * 7, 1000, 0.9, False),
        ([8] * 16, 1, 0.7, True),
        ([8, 9, 10, 7, 2, 8, 9, 3, 8, 8, 9, 8], 1000, 0.7, True),
    ],
)
def test_p_is_uniform_where_there_is_nothing(lengths, draws, phi, whole):
    # The promise behind every p, for pairs of blocks and one large group, for signals that change
    # slowly, also across the borders of blocks, and for blocks of unequal length.
    *both, rank = np.transpose(
        [silent_electrode(seed, lengths, draws, phi, whole) for seed in range(400)]
    )
    assert rank.mean() < 0.25  # the encoder decodes
    for p in both:
        assert stats.kstest(p, "uniform").pvalue > 0.01
        assert (p <= 0.05).mean() < 0.08


def test_what_one_seed_gives_it_gives_again():
    # A table that nobody can make again is no result.
    spec = SPECS[0]
    windows = random_windows(spec, 40)
    make = [
        contributions(build_encoder(spec), windows, np.arange(40) // 4, [*"AAB", ""])
        for _ in range(2)
    ]
    assert make[0].table().to_numpy().tobytes() == make[1].table().to_numpy().tobytes()
    assert make[0].summary() == make[1].summary()


def test_progress_adds_up_to_one():
    # A bar that ends at 80% or passes 100% tells nothing about the time left.
    spec = SPECS[0]
    told = []
    contributions(
        build_encoder(spec),
        random_windows(spec, 40),
        np.arange(40) // 4,
        [*"AAB", ""],
        on_progress=told.append,
    )
    assert sum(told) == pytest.approx(1)


def test_one_block_says_nothing_and_says_so():
    # A short test set must give blanks and words, not numbers.
    spec = SPECS[0]
    result = contributions(build_encoder(spec), random_windows(spec, 9), np.zeros(9), list("AABB"))
    blank = [name for name in COLUMNS if name not in ("integrated_gradient", "nearest_neighbour_r")]
    assert result.table()[blank].isna().all(axis=None)
    assert any("One block" in note for note in result.notes)
    assert np.isfinite(result.mean_rank)


def test_blocks_of_one_window_each_are_enough():
    # The smallest blocks that can change place.
    spec = SPECS[0]
    result = contributions(build_encoder(spec), random_windows(spec, 2), np.arange(2))
    assert result.p_min == 0.5
    assert any("No p below 0.5" in note for note in result.notes)


def test_few_blocks_for_many_electrodes_is_said():
    # q cannot reach 0.05 for a lone electrode, which a reader of "not significant" must know.
    rng = np.random.default_rng(0)
    x, audio = rng.standard_normal((40, 30, 2)), rng.standard_normal((40, 3))
    result = contributions(
        reader(rng.standard_normal((3, 30)), 2), window_set(x, audio), np.arange(40) // 5
    )
    assert any("cannot have a q below" in note for note in result.notes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad):
    # NaN compares as "not above": it would be the best rank of all.
    spec = SPECS[0]
    windows, blocks = random_windows(spec, 12), np.arange(12) // 3
    windows.signal[7 * 24 + 3, 1] = bad
    with pytest.raises(DataError, match="not finite"):
        contributions(build_encoder(spec), windows, blocks)
    windows = random_windows(spec, 12)
    windows.targets[5, 0] = bad
    with pytest.raises(DataError, match="not finite"):
        contributions(build_encoder(spec), windows, blocks)


def test_numbers_that_do_not_match_are_refused():
    # Wrong shafts or blocks would put a true number beside the wrong electrode.
    spec = SPECS[0]
    windows, encoder = random_windows(spec, 12), build_encoder(spec)
    with pytest.raises(DataError, match="block"):
        contributions(encoder, windows, np.arange(11))
    with pytest.raises(DataError, match="shaft"):
        contributions(encoder, windows, np.arange(12), ["A"])


@pytest.mark.parametrize("head", [None, 12])
@pytest.mark.parametrize("n_frames", [None, 5])
def test_ranks_in_the_basis_of_the_output_are_the_ranks(head, n_frames, monkeypatch):
    # Where a narrow last map is used to save time, the rank must be the one that evaluation gives.
    spec = EncoderSpec("conv", 4, 24, 300, n_frames=n_frames, preset="small", head=head)
    windows = random_windows(spec, 60)
    encoder = build_encoder(spec, seed=2)
    if isinstance(encoder, WithHead):
        encoder.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    retrieval = Retrieval(encoder, windows)
    expected = relative_ranks(embed_windows(encoder, windows), windows.targets)
    assert (retrieval.basis is None) == (head == 12)
    np.testing.assert_array_equal(retrieval.intact().ranks, 2 * expected.n_above + expected.n_tied)
    monkeypatch.setattr(replacement, "_BATCH_CPU", 7)
    np.testing.assert_array_equal(
        Retrieval(encoder, windows).intact().ranks, retrieval.intact().ranks
    )


def test_equal_sounds_share_their_ranks():
    # Two windows of silence have equal targets; neither may be called the better one.
    rng = np.random.default_rng(4)
    audio = rng.standard_normal((10, 4))
    audio[3] = audio[8]
    windows = window_set(rng.standard_normal((10, 4, 2)), audio)
    encoder = reader(rng.standard_normal((4, 4)), 2)
    expected = relative_ranks(embed_windows(encoder, windows), windows.targets)
    assert expected.n_tied[3] == expected.n_tied[8] == 1
    assert (Retrieval(encoder, windows).intact().ranks / 18 == expected.relative).all()


def trained_like(spec):
    """Return an encoder whose batch norms have statistics of data, as after training."""
    encoder = build_encoder(spec, seed=6)
    windows = random_windows(spec, 64, seed=9)
    with torch.no_grad():
        for _ in range(20):
            encoder.train()(3 * windows.brain(torch.arange(64)))
    return encoder.eval()


@pytest.mark.parametrize("spec", SPECS)
def test_integrated_gradients_add_up_and_equal_a_fine_sum(spec):
    # Completeness is what makes them shares; the fine sum differentiates by the signal itself.
    encoder, windows = trained_like(spec), random_windows(spec, 6, seed=7)
    result = integrate_gradients(encoder, windows, torch.tensor([1, 4]), 32)
    np.testing.assert_allclose(result.by_electrode.sum(1), result.gained, atol=2e-4)
    assert result.error < 1e-2
    encoder.double()
    audio = torch.nn.functional.normalize(windows.targets.flatten(1).double(), dim=1)
    steps = (torch.arange(400.0).double()[:, None, None] + 0.5) / 400
    for row, window in enumerate((1, 4)):
        x = windows.brain(torch.tensor([window])).double()
        points = (steps * x).requires_grad_()
        e = encoder(points).flatten(1)
        cosine = e @ audio.T / e.norm(dim=1, keepdim=True)
        (cosine[:, window] - cosine.mean(1)).sum().backward()
        fine = (x * points.grad.mean(0)).sum(2)[0]
        np.testing.assert_allclose(result.by_electrode[row], fine, atol=2e-4)


def test_shares_from_too_few_steps_are_blank():
    # Without an offset the cosine jumps at zero signal; a path that misses the jump shares nothing.
    rng = np.random.default_rng(8)
    audio = rng.standard_normal((60, 6))
    x = np.repeat(audio[:, :, None], 4, axis=2)
    encoder = reader(np.eye(6), 4)
    windows, blocks = window_set(x, audio), np.arange(60) // 5
    assert contributions(encoder, windows, blocks).table()["integrated_gradient"].sum() > 0.99
    encoder.linear.bias.data.zero_()
    result = contributions(encoder, windows, blocks)
    assert result.table()["integrated_gradient"].isna().all()
    assert any("more steps" in note for note in result.notes)


def test_a_share_of_nothing_is_blank():
    # At chance the path integral is about zero, and shares of it would be huge and mean nothing.
    spec = SPECS[0]
    windows = random_windows(spec, 60, seed=11)
    result = contributions(build_encoder(spec), windows, np.arange(60) // 5)
    assert result.table()["integrated_gradient"].isna().all()
    assert any("no share" in note for note in result.notes)


def test_nearest_correlation_is_pearson():
    # Against numpy; a flat channel has no correlation.
    rng = np.random.default_rng(5)
    x = rng.standard_normal((30, 5, 4)) + 3
    x[:, 1] += 2 * x[:, 0]
    x[:, 2] -= x[:, 1]
    x[:, 4] = 7
    r = np.corrcoef(x.transpose(1, 0, 2).reshape(5, -1)[:4])
    np.fill_diagonal(r, 0)
    expected = r[np.arange(4), np.abs(r).argmax(1)]
    found = nearest_correlations(window_set(x, np.zeros((30, 1))))
    np.testing.assert_allclose(found[:4], expected, atol=1e-6)
    assert np.isnan(found[4])


@pytest.mark.parametrize(
    ("n_windows", "n_blocks", "draws", "n_orders", "sizes"),
    [
        (1000, 100, 1000, 10000, [2] * 50),
        (89, 8, 1000, 10000, [8]),
        (1001, 77, 1000, 10000, [3] * 1 + [2] * 37),
        (1000, 20, 1000, 10000, [2] * 4 + [3] * 4),
        (1000, 5, 1000, 10000, [5]),
        (90, 30, 400, 10000, [6] * 5),
        (7, 1, 1000, 10000, [1]),
    ],
)
def test_groups_replace_enough_and_give_enough_orders(n_windows, n_blocks, draws, n_orders, sizes):
    # Too small groups: no small p. Too large ones: hours.
    blocks = np.arange(n_windows) * n_blocks // n_windows
    exchange = plan_exchange(blocks, draws, n_orders, np.random.default_rng(0))
    assert sorted(len(group) for group in exchange.groups) == sorted(sizes)
    assert sorted(np.concatenate(exchange.groups)) == list(range(n_blocks))
    assert len(exchange.target) >= min(draws, n_windows * (n_blocks - 1))
    group_of = {b: k for k, group in enumerate(exchange.groups) for b in group}
    for target, source in zip(exchange.target, exchange.source, strict=True):
        assert blocks[target] != blocks[source]
        assert group_of[blocks[target]] == group_of[blocks[source]]
    orders = order_blocks(exchange, n_orders, np.random.default_rng(0))
    assert orders.complete == (count_orders(sizes) <= n_orders)
    assert len(orders.orders) == min(n_orders, count_orders(sizes))
    assert (np.sort(orders.orders, axis=1) == np.arange(n_blocks)).all()


def test_blocks_of_like_length_change_places():
    # A short block among long ones would be used over and over.
    lengths = np.array([10, 3, 10, 3, 10, 3, 10, 3] * 4)
    blocks = np.repeat(np.arange(len(lengths)), lengths)
    exchange = plan_exchange(blocks, 1, 10000, np.random.default_rng(0))
    assert len(exchange.groups) == 16
    assert all(len(set(lengths[group])) == 1 for group in exchange.groups)
