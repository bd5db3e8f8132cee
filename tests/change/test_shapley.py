"""Exact Shapley values: those over all orders, and the properties that define them."""

import pytest
import torch
from reference_shapley import by_orders

from lightning_cam.change.shapley import shapley_values


def games(n, dtype=torch.float64, seed=0):
    """Any set function of n players, for 3 samples and 2 targets."""
    torch.manual_seed(seed)
    values = {players: torch.rand(3, 2, dtype=dtype) for players in range(2**n)}
    return values | {0: torch.zeros(3, 2, dtype=dtype)}


@pytest.mark.parametrize("n", range(1, 6))
def test_the_values_are_those_over_all_orders(n):
    values = games(n)
    for fast, slow in zip(shapley_values(values), by_orders(values, n), strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n", range(1, 6))
def test_the_values_sum_to_what_all_make_of_nothing(n, dtype, slack):
    values = games(n, dtype, seed=n)
    shares = shapley_values(values)
    assert all(share.dtype == dtype for share in shares)
    torch.testing.assert_close(sum(shares), values[2**n - 1] - values[0], rtol=0, atol=slack)


def test_a_player_that_adds_nothing_has_exactly_nothing_and_twins_have_the_same():
    values = games(4)
    idle = {players: values[players & ~0b0100] for players in values}
    assert torch.equal(shapley_values(idle)[2], torch.zeros(3, 2, dtype=torch.float64))
    # the second and the last are exchangeable
    swapped = lambda players: players & 0b0101 | (players & 0b0010) << 2 | (players & 0b1000) >> 2  # noqa: E731
    twins = {players: values[players] + values[swapped(players)] for players in values}
    torch.testing.assert_close(shapley_values(twins)[1], shapley_values(twins)[3], rtol=0, atol=1e-14)


def test_numbers_serve_as_well_and_arrays_too():
    assert shapley_values({0: 0.0, 1: 1.0, 2: 2.0, 3: 7.0}) == [3.0, 4.0]
    arrays = {players: values.numpy() for players, values in games(3).items()}
    slow = by_orders(arrays, 3)
    assert all(abs(fast - slow[i]).max() < 1e-14 for i, fast in enumerate(shapley_values(arrays)))


@pytest.mark.parametrize("players", range(8))
def test_a_sample_without_a_value_for_any_set_has_none_for_any_player(players):
    values = games(3)
    values[players][1, 0] = torch.nan
    for share in shapley_values(values):
        assert share.isnan().nonzero().tolist() == [[1, 0]]


@pytest.mark.parametrize("values", [{}, {0: 0.0}, {0: 0.0, 1: 1.0, 2: 2.0}, {0: 0.0, 2: 1.0}, games(6)])
def test_a_function_that_is_not_whole_or_of_too_many_players_is_refused(values):
    with pytest.raises(ValueError, match="all 2\\*\\*n sets of them, by their bits, n from 1 to 5; got") as refusal:
        shapley_values(values)
    line = str(refusal.value).partition("Of two players: ")[2].removesuffix(".")
    assert shapley_values(eval(line)) == [3.0, 4.0]
