"""What an embedding table knows: who is near whom, what relates to what, and a plane to see it on.

In: vectors (V, C), one per token. Out: ids with cosines, points of a plane. Source: the concepts
file, "Embedding Vector" and "Analogical Relationships"; the slides, "Embedding matrix".
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def nearest(
    table_VxC: np.ndarray, vector_C: np.ndarray, n: int, among: Iterable[int] | None = None
) -> list[tuple[int, float]]:
    """(id, cosine) of the n rows that point most nearly in a vector's direction, nearest first.

    cos(row, vector) = row · vector / (|row| |vector|), -1 to 1; 0 where one has length 0, and so no
    direction. ``among``: ids to choose from; None is all.
    """
    table, vector = np.asarray(table_VxC, np.float64), np.asarray(vector_C, np.float64)
    lengths = np.linalg.norm(table, axis=1) * np.linalg.norm(vector)
    cosines = np.divide(table @ vector, lengths, out=np.zeros(len(table)), where=lengths > 0)
    ids = np.arange(len(table)) if among is None else np.fromiter(among, int)
    best = ids[np.argsort(-cosines[ids], kind="stable")][:n]
    return [(int(i), float(cosines[i])) for i in best]


def analogy(table_VxC: np.ndarray, a: int, b: int, c: int) -> np.ndarray:
    """The direction (C,) of what is to c as b is to a: b - a + c, of vectors of length 1.

    Source: Mikolov, Yih and Zweig 2013, "Linguistic regularities in continuous space word
    representations" (king - man + woman).
    """
    rows = np.asarray(table_VxC, np.float64)[[a, b, c]]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows[1] - rows[0] + rows[2]


def plane(table_NxC: np.ndarray) -> tuple[np.ndarray, float]:
    """Points of a plane: the vectors themselves if they have two numbers, else their PCA.

    Points (N, 2), and the part of the variance that they keep, 0 to 1. Of the two mirror images of
    an axis, the one whose longest coordinate is positive.
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
