"""What an embedding table knows: who is near whom, what relates to what, and a plane to see it on.

In: vectors (V, C), one per token. Out: ids with cosines, points of a plane. Source: the concepts
file, "Embedding Vector" and "Analogical Relationships"; the slides, "Embedding matrix".
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def cosine(table_VxC: np.ndarray, vector_C: np.ndarray) -> np.ndarray:
    """cos(row, vector) = row · vector / (|row| |vector|), for every row.

    Args:
      table_VxC: vectors, float.
      vector_C: the one to compare with.

    Returns:
      (V,), from -1 to 1; 0 for a vector of length 0, which has no direction.
    """
    table, vector = np.asarray(table_VxC, np.float64), np.asarray(vector_C, np.float64)
    lengths = np.linalg.norm(table, axis=1) * np.linalg.norm(vector)
    return np.divide(table @ vector, lengths, out=np.zeros(len(table)), where=lengths > 0)


def nearest(
    table_VxC: np.ndarray, vector_C: np.ndarray, n: int, among: Iterable[int] | None = None
) -> list[tuple[int, float]]:
    """The rows that point most nearly in a vector's direction.

    Args:
      table_VxC: vectors, float.
      vector_C: the direction.
      n: how many at most.
      among: ids to choose from; None is all.

    Returns:
      (id, cosine), the nearest first.
    """
    cosines = cosine(table_VxC, vector_C)
    ids = np.arange(len(cosines)) if among is None else np.fromiter(among, int)
    best = ids[np.argsort(-cosines[ids], kind="stable")][:n]
    return [(int(i), float(cosines[i])) for i in best]


def analogy(table_VxC: np.ndarray, a: int, b: int, c: int) -> np.ndarray:
    """What is to c as b is to a: b - a + c, of vectors of length 1 (king - man + woman).

    Args:
      table_VxC: vectors, float.
      a, b, c: ids.

    Returns:
      The direction to look in, (C,).

    Source: Mikolov, Yih and Zweig 2013, "Linguistic regularities in continuous space word
    representations".
    """
    rows = np.asarray(table_VxC, np.float64)[[a, b, c]]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows[1] - rows[0] + rows[2]


def plane(table_NxC: np.ndarray) -> tuple[np.ndarray, float]:
    """Points of a plane: the vectors themselves if they have two numbers, else their PCA.

    Args:
      table_NxC: vectors, float.

    Returns:
      Points (N, 2), and the part of the variance that they keep, 0 to 1. Of the two mirror images
      of an axis, the one whose longest coordinate is positive.
    """
    table = np.asarray(table_NxC, np.float64)
    if table.shape[1] == 2:
        return table, 1.0
    u, s, _ = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)
    points = np.zeros((len(table), 2))
    points[:, : len(s[:2])] = u[:, :2] * s[:2]
    longest = np.abs(points).argmax(axis=0)
    points *= np.where(points[longest, [0, 1]] < 0, -1, 1)
    total = float(np.sum(s**2))
    return points, float(np.sum(s[:2] ** 2)) / total if total else 1.0
