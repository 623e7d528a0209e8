"""The parts of Meta-World's rewards against the package's, and where the package refuses."""

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("metaworld.sawyer_xyz_env")  # this folder has the package's name

from metarl_jax.envs.metaworld import tools


def test_tolerances_and_products(x64):
    from metaworld.utils import reward_utils as theirs

    x = np.random.default_rng(0).uniform(-1, 2, (200, 3))
    for a, b, c in x:
        for ours, sigmoid in ((tools.tolerance, "long_tail"), (tools.gaussian_tolerance, "gaussian")):
            for margin in (0.0, abs(c)):
                want = theirs.tolerance(a, bounds=(0.1, 0.7), margin=margin, sigmoid=sigmoid)
                np.testing.assert_allclose(ours(jnp.asarray(a), 0.7, margin, lower=0.1), want, rtol=1e-12)
        p, q = np.clip([a, b], 0, 1)
        np.testing.assert_allclose(tools.hamacher(jnp.asarray(p), jnp.asarray(q)), theirs.hamacher_product(p, q))
    for point in np.random.default_rng(1).uniform(-0.2, 1.2, (200, 3)):
        zero, one = np.array([1.0, 0.1, 0.0]), np.array([0.0, 0.9, 1.0])
        want = theirs.rect_prism_tolerance(curr=point, zero=zero, one=one)
        np.testing.assert_allclose(tools.prism(*map(jnp.asarray, (point, zero, one))), want, rtol=1e-12)


@pytest.mark.parametrize("function", [tools.tolerance, tools.gaussian_tolerance])
def test_a_margin_below_zero_is_none(function):
    x = jnp.asarray([-1.0, 0.0, 0.05, 3.0])
    np.testing.assert_array_equal(function(x, 0.1, -0.5), [0, 1, 1, 0])


def test_progress_at_the_goal():
    np.testing.assert_allclose(tools.progress(0.2, jnp.zeros(())), 2200.0)
