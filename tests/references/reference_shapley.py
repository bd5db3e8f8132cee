"""Shapley values over all orders in which players may come, one by one. Shapley 1953, section 6."""

from itertools import permutations


def by_orders(values, n):
    """What each player adds to those before, averaged over the n! orders."""
    totals = [0.0] * n
    orders = list(permutations(range(n)))
    for order in orders:
        came = 0
        for i in order:
            totals[i] = totals[i] + (values[came | 1 << i] - values[came])
            came |= 1 << i
    return [total / len(orders) for total in totals]
