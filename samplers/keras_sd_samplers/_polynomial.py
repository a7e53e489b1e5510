"""Weights of multistep methods: the values of past steps are continued by a polynomial."""

from __future__ import annotations

from collections.abc import Sequence


def weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """The weights of values at `nodes` that integrate every polynomial through them exactly.

    Args:
        nodes: Where the values are, all different.
        moments: The integral of ``u**k`` for k = 0, 1, ..., as many as there are nodes.

    Returns:
        Weights with ``sum(weight * node**k) == moments[k]``.
    """
    found = []
    for j, node in enumerate(nodes):
        basis = [1.0]  # coefficients of Lagrange's polynomial: 1 at this node, 0 at the others
        for other in (*nodes[:j], *nodes[j + 1 :]):
            lower = [*(other * c for c in basis), 0.0]
            basis = [(a - b) / (node - other) for a, b in zip([0.0, *basis], lower, strict=True)]
        found.append(sum(c * moment for c, moment in zip(basis, moments, strict=True)))
    return found


def adams(nodes: Sequence[float], end: float) -> list[float]:
    """Adams-Bashforth: the weights of values at `nodes`, the newest first, in the mean of their
    polynomial from the newest node to `end`. They add up to 1.
    """
    unit = [(node - nodes[0]) / (end - nodes[0]) for node in nodes]
    return weights(unit, [1 / (k + 1) for k in range(len(nodes))])
