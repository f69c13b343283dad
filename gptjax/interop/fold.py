"""The bias of lm_head, which GPT-2 has not, folded into ln_f and the head: the same logits.

In: ln_f's scale and bias, the head's kernel and bias. Out: another bias of ln_f and another kernel.
C channels, V vocabulary.
"""

import numpy as np


def fold(
    g_C: np.ndarray, b_C: np.ndarray, W_CxV: np.ndarray, c_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(b', W') with (g x + b') W' = (g x + b) W + c for all x that LayerNorm can give.

    The numbers x of a normalised vector add up to 0. So r = 1 / g, as a unit vector, is orthogonal
    to each g x: what is added to W along r, r uᵀ, meets the bias alone. With b' = b + t r, where t
    makes r·b' = 1, the logits gain uᵀ + t r W, and u = c - t Wᵀ r makes that c. Where a scale
    is 0, the channel holds b and nothing else: r is the unit vector of such channels, and the same
    holds. In float64, rounded to float32 once; a bias of zeros changes nothing.
    """
    if not c_V.any():
        return b_C, W_CxV
    g, b, c = (np.asarray(array, np.float64) for array in (g_C, b_C, c_V))
    r = _orthogonal(g)
    t = 1 - r @ b
    u, folded = c - t * (r @ W_CxV), np.array(W_CxV, np.float32)
    for row_V, r_c in zip(folded, r, strict=True):  # the whole r uᵀ would be another table
        row_V += r_c * u
    return (b + t * r).astype(np.float32), folded


def _orthogonal(g_C: np.ndarray) -> np.ndarray:
    """The unit vector that is orthogonal to g x, whatever the numbers x that add up to 0."""
    least = np.abs(g_C).min()
    r = least / g_C if least else np.where(g_C == 0, 1.0, 0.0)
    return r / np.linalg.norm(r)
