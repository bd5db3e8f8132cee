"""Shapley values: how much of a whole each player accounts for, whatever the order in which they come."""

from collections.abc import Mapping
from math import factorial
from typing import Any

MOST = 5


def shapley_values(values: Mapping[int, Any]) -> list[Any]:
    """The exact Shapley value of every player of a set function.

    ``phi_i = sum_S |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))`` over all sets S without i: what player i adds to those that
    came before, averaged over all orders in which the n players may come. The values sum to ``v(all) - v(none)``; a player
    that never adds anything has exactly 0; two that always add alike have the same; and they are the only values for which
    that holds, and which add up where two functions do.

    Source: Shapley 1953, A value for n-person games (Contributions to the Theory of Games II), equation 12.

    Args:
        values: v of every set, a tensor or number, by the set's bits: player i is in where ``set >> i & 1``.

    Returns:
        a value for each player, in units and shape of v; NaN where v of any set is.

    Raises:
        ValueError: if v of a set is missing, or there are more than five players.

    Example:
        >>> shapley_values({0b00: 0.0, 0b01: 1.0, 0b10: 2.0, 0b11: 7.0})
        [3.0, 4.0]
    """
    n = len(values).bit_length() - 1
    if not 1 <= n <= MOST or set(values) != set(range(2**n)):
        raise ValueError(
            f"Shapley values of n players are computed of all 2**n sets of them, by their bits, n from 1 to {MOST}; "
            f"got {sorted(values)}. Of two players: {{0b00: 0.0, 0b01: 1.0, 0b10: 2.0, 0b11: 7.0}}."
        )
    return [_value(values, i, n) for i in range(n)]


def _value(values: Mapping[int, Any], i: int, n: int) -> Any:
    without = [players for players in values if not players >> i & 1]
    terms = []
    for players in without:
        size = players.bit_count()
        weight = factorial(size) * factorial(n - size - 1) / factorial(n)
        terms.append(weight * (values[players | 1 << i] - values[players]))
    return sum(terms[1:], terms[0])
