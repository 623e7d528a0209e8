"""How successes are counted: ours, one episode a goal, and as Meta-World's package counts them."""

import numpy as np
import pytest

from metarl_jax.reproductions import meta_world, pictures
from metarl_jax.reproductions.meta_world import HORIZON, package_count


def test_the_package_counts_an_early_success_again():
    """Four goals, the first solved after 50 steps, the others never: it says 1, where 1 of 4 is solved."""
    solved_at = np.full((4, 3), HORIZON)
    solved_at[0] = 49
    assert package_count(solved_at) == 1.0
    assert (solved_at[:, 0] < HORIZON).mean() == 0.25


def test_it_counts_right_where_all_goals_take_as_long():
    assert package_count(np.full((20, 3), HORIZON)) == 0.0
    assert package_count(np.full((20, 3), HORIZON - 1)) == 1.0
    solved_at = np.full((10, 3), HORIZON)
    solved_at[3] = HORIZON - 2  # it finishes first, by one step; then goals 0 and 1, unsolved
    assert package_count(solved_at) == pytest.approx(1 / 3)


def test_claims_of_a_cell():
    solved_at = np.full((2, 3, 10, 3), HORIZON)
    solved_at[1, :, :5] = 100
    before, after, more, counted = meta_world._claims("reach", solved_at)
    assert (before.ours, after.ours, more.ours, counted.ours) == (0.0, 0.5, 0.5, 1.0) and more.passed


def test_the_picture_of_many_cells(tmp_path):
    curves = {f"cell {i}": (np.arange(1, 4) * 1e5, np.random.default_rng(i).uniform(size=(3, 2, 2))) for i in range(6)}
    assert pictures.success_curves(tmp_path / "curves.png", curves).stat().st_size > 10_000
