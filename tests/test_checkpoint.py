"""What comes back is what was saved, or one clear error."""

import chex
import jax
import jax.numpy as jnp
import pytest
from test_contract import bits

from purerl import InputError, checkpoint


def state(**changes):
    tree = {
        "key": jax.random.key(1),
        "keys": jax.random.split(jax.random.key(2), 3),
        "params": [jnp.arange(3.0), jnp.ones((2, 2), jnp.int8)],
        "flag": jnp.bool_(True),
        "nothing": None,
        "empty": jnp.zeros((2, 0)),
        "carry": (),
    }
    return tree | changes


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path, 5, state())
    restored = checkpoint.restore(tmp_path, 5, jax.eval_shape(state))
    chex.assert_trees_all_equal(bits(restored), bits(state()))
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state())
    # Restored keys are keys.
    jax.random.normal(restored["key"])


def test_latest_and_how_many_are_kept(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None
    for iteration in (1, 2, 10):
        checkpoint.save(tmp_path, iteration, state())
    assert checkpoint.latest(tmp_path) == 10
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [2, 10]


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    checkpoint.save(tmp_path, 1, state())
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.latest(tmp_path) == 1
    checkpoint.save(tmp_path, 2, state())
    assert checkpoint.latest(tmp_path) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"params": [jnp.arange(4.0), jnp.ones((2, 2), jnp.int8)]}, r"params.0 is float32\[3\] there and float32\[4\]"),
        ({"flag": jnp.float32(1.0)}, r"flag is bool\[\] there and float32\[\] here"),
        ({"more": jnp.ones(1)}, r"more is nothing there and float32\[1\] here"),
        ({"flag": None}, r"flag is bool\[\] there and nothing here"),
    ],
)
def test_a_state_that_no_longer_fits_is_named(tmp_path, changes, words):
    checkpoint.save(tmp_path, 1, state())
    with pytest.raises(InputError, match=words):
        checkpoint.restore(tmp_path, 1, state(**changes))


def test_a_missing_checkpoint_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, state())
    with pytest.raises(InputError, match="no checkpoint of iteration 2"):
        checkpoint.restore(tmp_path, 2, state())
