import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metarl_jax.envs.tasks import TaskDistribution, as_arrays

HORIZON = 7


def continuous():
    return TaskDistribution(lambda key: {"goal": jax.random.uniform(key, (2,))}, HORIZON)


def finite(size):
    return TaskDistribution.from_members({"goal": jnp.arange(size) * 1.0, "id": jnp.arange(size)}, HORIZON)


def draw(tasks, num, seed=0):
    keys = jax.random.split(jax.random.key(seed), num)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(tasks.sample))(keys))


def rows(goals):
    return {np.asarray(goal).tobytes() for goal in goals}


def test_continuous_halves_are_deterministic_and_disjoint():
    train, test = continuous().split(3)
    again_train, again_test = continuous().split(3)
    for half, again in ((train, again_train), (test, again_test)):
        np.testing.assert_array_equal(draw(half, 100)["goal"], draw(again, 100)["goal"])
    other_test = continuous().split(4)[1]
    sets = [rows(draw(half, 200)["goal"]) for half in (train, test, other_test, continuous())]
    assert all(len(s) == 200 for s in sets)
    assert not any(sets[i] & sets[j] for i in range(4) for j in range(i))
    assert (train.part, test.part, train.held_out) == ("train", "test", True)


@pytest.mark.parametrize("size, num_test", [(8, 2), (101, 20)])
def test_finite_halves_partition_the_members(size, num_test):
    train, test = finite(size).split(5)
    train_ids, test_ids = (
        set(np.asarray(train.members["id"]).tolist()),
        set(np.asarray(test.members["id"]).tolist()),
    )
    assert len(test_ids) == num_test and not train_ids & test_ids and train_ids | test_ids == set(range(size))
    assert set(draw(train, 500)["id"].tolist()) <= train_ids
    assert set(draw(test, 500)["id"].tolist()) == test_ids
    np.testing.assert_array_equal(finite(size).split(5)[1].members["id"], test.members["id"])
    assert train.held_out and test.held_out


def test_members_keep_their_fields_together():
    drawn = draw(finite(30), 100)
    np.testing.assert_array_equal(drawn["goal"], drawn["id"])


@pytest.mark.parametrize("size", [1, 4, 7])
def test_small_sets_hold_nothing_out(size):
    tasks = finite(size)
    train, test = tasks.split(0)
    assert not (tasks.held_out or train.held_out or test.held_out)
    for half in (train, test):
        np.testing.assert_array_equal(half.members["id"], np.arange(size))


@pytest.mark.parametrize("tasks", [continuous(), finite(20)], ids=["continuous", "finite"])
def test_evaluation_tasks_are_the_held_out_ones(tasks):
    train, test = tasks.split(2)
    evaluation = tasks.evaluation_tasks(6, seed=2)
    np.testing.assert_array_equal(evaluation["goal"], tasks.evaluation_tasks(6, seed=2)["goal"])
    np.testing.assert_array_equal(evaluation["goal"], tasks.evaluation_tasks(9, seed=2)["goal"][:6])
    assert not np.array_equal(evaluation["goal"], tasks.evaluation_tasks(6, seed=3)["goal"])
    for half in (train, test):  # either half knows the test half of its own split
        np.testing.assert_array_equal(evaluation["goal"], half.evaluation_tasks(6, seed=2)["goal"])
    assert not rows(evaluation["goal"]) & rows(draw(train, 200)["goal"])


def test_finite_evaluation_cycles_through_the_test_members():
    _, test = finite(20).split(0)
    ids = finite(20).evaluation_tasks(10, seed=0)["id"]
    np.testing.assert_array_equal(ids, np.tile(test.members["id"], 3)[:10])


def test_a_training_half_can_be_split_again():
    train, test = finite(40).split(0)
    train, validation = train.split(0)
    ids = [set(np.asarray(part.members["id"]).tolist()) for part in (train, validation, test)]
    assert not ids[0] & ids[1] and set().union(*ids) == set(range(40))


def test_errors_name_the_fault():
    with pytest.raises(ValueError, match="num_tasks must be an integer of at least 1, got 0"):
        continuous().evaluation_tasks(0)
    with pytest.raises(ValueError, match="every leaf"):
        TaskDistribution.from_members({"a": jnp.zeros(3), "b": jnp.zeros(4)}, HORIZON)
    with pytest.raises(ValueError, match="every leaf"):
        TaskDistribution.from_members({"a": jnp.zeros(())}, HORIZON)
    with pytest.raises(ValueError, match="twice"):
        TaskDistribution.from_members({"a": jnp.zeros(10)}, HORIZON).split(0)


def test_as_arrays_gives_strong_dtypes():
    arrays = as_arrays({"f": 1.0, "i": 2, "b": True, "w": jnp.full((2,), 1.0)})
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in jax.tree.leaves(arrays))
    assert arrays["f"].dtype == jnp.float32 and arrays["i"].dtype == jnp.int32 and arrays["b"].dtype == bool


def test_members_in_numpy_are_drawn_as_those_in_jax():
    members = {"goal": np.arange(6.0), "id": np.arange(6)}
    own = draw(TaskDistribution.from_members(members, HORIZON), 20)
    jax.tree.map(np.testing.assert_array_equal, own, draw(finite(6), 20))


def test_a_list_of_tasks_is_told_how_it_is_stacked():
    with pytest.raises(ValueError, match="a list of tasks is stacked by jax.tree.map"):
        TaskDistribution.from_members([jnp.ones(()), jnp.zeros(())], 3)
