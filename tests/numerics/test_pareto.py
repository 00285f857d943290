import numpy as np
import pytest

from nasopt.numerics.pareto import crowding_distance, hypervolume, knee_distances, non_domination_ranks, pareto_mask


def brute_force_ranks(points, violations):
    """Fronts peeled one by one from the definition of constrained domination."""

    def dominates(i, j):
        if violations[i] != violations[j]:
            return violations[i] < violations[j]
        if violations[i] > 0:
            return False
        return all(points[i] <= points[j]) and any(points[i] < points[j])

    ranks = np.full(len(points), -1)
    front = 0
    while (ranks < 0).any():
        left = np.flatnonzero(ranks < 0)
        ranks[[j for j in left if not any(dominates(i, j) for i in left)]] = front
        front += 1
    return ranks


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("replaced", [None, np.inf, -np.inf])
def test_ranks_and_mask_agree_with_the_definition(objectives, replaced):
    generator = np.random.default_rng(objectives)
    for _ in range(150):
        points = generator.integers(0, 4, (generator.integers(1, 14), objectives)).astype(float)
        if replaced is not None:
            points[points == 2] = replaced
        violations = np.maximum(generator.integers(-3, 3, len(points)), 0).astype(float)
        expected = brute_force_ranks(points, violations)
        np.testing.assert_array_equal(non_domination_ranks(points, violations), expected)
        np.testing.assert_array_equal(pareto_mask(points, violations), expected == 0)


def test_equal_points_share_a_rank_and_negative_violations_are_feasible():
    points = [[0, 1], [0, 1], [1, 0], [1, 1]]
    np.testing.assert_array_equal(pareto_mask(points), [True, True, True, False])
    np.testing.assert_array_equal(non_domination_ranks(points, [-1, 0, 0, -5]), [0, 0, 0, 1])


def test_infeasible_points_follow_by_violation():
    points = [[5, 5], [0, 0], [0, 1], [6, 6]]
    np.testing.assert_array_equal(non_domination_ranks(points, [0, 2, 1, 0]), [0, 3, 2, 1])
    np.testing.assert_array_equal(pareto_mask(points, [0, 2, 1, 0]), [True, False, False, False])
    np.testing.assert_array_equal(pareto_mask(points, [3, 2, 1, 3]), [False, False, True, False])


def test_crowding_distance_by_hand():
    # Widths 4 and 8; the second point: (3 - 0) / 4 + (8 - 4) / 8, the third: (4 - 1) / 4 + (6 - 0) / 8.
    points = [[0, 8], [1, 6], [3, 4], [4, 0]]
    np.testing.assert_allclose(crowding_distance(points), [np.inf, 3 / 4 + 4 / 8, 3 / 4 + 6 / 8, np.inf])


def test_crowding_distance_keeps_fronts_apart():
    points = np.array([[0, 8], [10, 10], [1, 6], [20, 0], [3, 4], [4, 0], [15, 9]], dtype=float)
    ranks = np.array([0, 1, 0, 1, 0, 0, 1])
    together = crowding_distance(points, ranks)
    for front in (0, 1):
        np.testing.assert_allclose(together[ranks == front], crowding_distance(points[ranks == front]))


def test_crowding_distance_of_what_has_no_width():
    np.testing.assert_array_equal(crowding_distance([[1, 2], [1, 2], [1, 2]]), [0, 0, 0])
    np.testing.assert_array_equal(crowding_distance(np.zeros((0, 3))), [])
    np.testing.assert_array_equal(
        crowding_distance([[np.inf], [np.inf], [0.0], [1.0], [2.0]]), [np.inf, 0, np.inf, 2, np.inf]
    )


def test_hypervolume_by_hand():
    # Two boxes of 2 x 1 and 1 x 2 up to (3, 3) that share 1 x 1.
    assert hypervolume([[1, 2], [2, 1]], [3, 3]) == pytest.approx(3.0)
    assert hypervolume([[1, 1, 1], [0, 3, 0]], [2, 2, 2]) == pytest.approx(1.0)
    assert hypervolume([[0, np.inf]], [1, 1]) == 0.0
    assert hypervolume(np.zeros((0, 2)), [1, 1]) == 0.0


@pytest.mark.parametrize(
    ("points", "reference"),
    [([[0, np.nan]], [1, 1]), ([[0, -np.inf]], [1, 1]), ([[0, 0]], [1]), ([[0, 0]], [1, np.inf])],
)
def test_hypervolume_refuses_what_has_none(points, reference):
    with pytest.raises(ValueError, match=r"NaN|infinity|shape"):
        hypervolume(points, reference)


def test_bad_shapes_and_nan_are_refused():
    with pytest.raises(ValueError, match="shape"):
        pareto_mask([1.0, 2.0])
    with pytest.raises(ValueError, match="NaN"):
        non_domination_ranks([[np.nan, 1.0]])
    with pytest.raises(ValueError, match=r"\(2,\)"):
        non_domination_ranks([[0, 1], [1, 0]], [0])
    with pytest.raises(ValueError, match="NaN"):
        pareto_mask([[0, 1]], [np.nan])


def test_ten_thousand_points():
    points = np.random.default_rng(0).random((10_000, 3))
    ranks = non_domination_ranks(points)
    assert len(crowding_distance(points, ranks)) == 10_000
    assert hypervolume(points, [1.0, 1.0, 1.0]) > 0.9
    np.testing.assert_array_equal(pareto_mask(points), ranks == 0)


def test_knee_distances_of_a_line_in_two_dimensions() -> None:
    """The extremes are (0, 1) and (1, 0) once normalised; (0.2, 0.3) lies (1 - 0.5) / sqrt(2) below their line."""
    found = knee_distances([[10.0, 200.0], [12.0, 130.0], [20.0, 100.0]])
    assert found == pytest.approx([0, 0.5 / 2**0.5, 0])


def test_knee_distances_of_a_plane_in_three_dimensions() -> None:
    """The extremes (0, 1, 1), (1, 0, 1), (1, 1, 0) lie in the plane x + y + z = 2."""
    found = knee_distances([[0.0, 1, 1], [1, 0, 1], [1, 1, 0], [0.25, 0.5, 0.5]])
    assert found == pytest.approx([0, 0, 0, 0.75 / 3**0.5], abs=1e-12)


def test_knee_distances_where_one_point_is_best_of_two_objectives() -> None:
    """The extremes (0, 1, 1) and (1, 0, 0) leave a pencil of planes; x + y/2 + z/2 = 1 has the shortest normal."""
    found = knee_distances([[0.0, 1, 1], [1, 0, 0], [0.25, 0.5, 0.25]])
    assert found == pytest.approx([0, 0, 0.375 / 1.5**0.5], abs=1e-12)


def test_knee_distances_of_one_point_and_of_none() -> None:
    assert knee_distances([[3.0, 4.0]]).shape == (1,)
    assert knee_distances(np.zeros((0, 2))).shape == (0,)
    with pytest.raises(ValueError, match="not finite"):
        knee_distances([[np.inf, 1.0], [0.0, 2.0]])
