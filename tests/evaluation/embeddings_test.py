"""Neighbours, analogies and the plane of an embedding table, on points whose answer is known."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gptjax.evaluation import embeddings


def test_the_nearest_point_the_same_way_however_long():
    table = np.array([[1, 0], [5, 0.1], [0, 1], [-1, 0], [0, 0]], float)
    found = embeddings.nearest(table, table[0], 5, among=range(1, 5))
    assert [i for i, _ in found] == [1, 2, 4, 3]
    np.testing.assert_allclose([c for _, c in found], [0.9998, 0, 0, -1], atol=1e-4)
    assert [i for i, _ in embeddings.nearest(table, table[0], 2)] == [0, 1]


def test_an_analogy_is_the_fourth_corner():
    man, woman, king, queen = [1, 0, 0.1], [0, 1, 0.1], [1, 0, 1.0], [0, 1, 1.0]
    table = np.array([man, king, woman, queen, [0.5, 0.5, 0]])
    direction = embeddings.analogy(table, 0, 1, 2)
    assert embeddings.nearest(table, direction, 1, among=[3, 4])[0][0] == 3


@given(st.integers(0, 99))
def test_how_long_the_rows_are_changes_no_analogy(seed):
    rng = np.random.default_rng(seed)
    table, lengths = rng.normal(size=(6, 3)), np.exp(3 * rng.normal(size=(6, 1)))
    answers = []
    for rows in (table, table * lengths):
        direction = embeddings.analogy(rows, 0, 1, 2)
        answers.append(dict(embeddings.nearest(rows, direction, 6)))
    assert list(answers[0]) == list(answers[1])
    np.testing.assert_allclose(list(answers[0].values()), list(answers[1].values()), atol=1e-9)


@given(st.integers(1, 6), st.integers(3, 5), st.integers(0, 99))
def test_the_plane_keeps_distances_when_the_points_lie_in_one(n, c, seed):
    rng = np.random.default_rng(seed)
    flat = rng.normal(size=(n, 2))
    basis, _ = np.linalg.qr(rng.normal(size=(c, 2)))
    points, kept = embeddings.plane(flat @ basis.T + rng.normal(size=c))

    def distances(p):
        return np.linalg.norm(p[:, None] - p[None], axis=-1)

    np.testing.assert_allclose(distances(points), distances(flat), atol=1e-9)
    assert kept > 1 - 1e-9
    np.testing.assert_array_equal(embeddings.plane(flat)[0], flat)
