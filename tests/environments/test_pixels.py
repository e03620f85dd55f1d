"""CartPole from pictures: the dynamics are gymnax's, and the pictures tell position, angle and velocity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment_contract import check_trajectory, check_types, play

from purerl.environments import make, pixels
from purerl.environments.pixels import draw

KEY = jax.random.key(0)
NAME = "pixels/CartPole-v1"


def middle(row):
    """Where the light of a row ``[width]`` has its centre (m); 0 is the middle of the track."""
    columns = np.arange(row.size) - 0.5 * (row.size - 1)
    return pixels._PIXEL * np.sum(columns * row) / np.sum(row)


def picture(x, angle, length=1.0):
    return np.asarray(draw(jnp.float32(x), jnp.float32(angle), jnp.float32(length)))[..., 0]


def test_contract():
    env = make(NAME)
    check_types(env)
    compiled = play._cache_size()
    timesteps = jax.device_get(play(env, KEY, 4, 50))
    check_trajectory(timesteps)
    assert timesteps.terminated.any()
    assert np.all((timesteps.obs >= 0.0) & (timesteps.obs <= 1.0))
    # Parameters are leaves: others are the same program.
    limited = jax.device_get(play(make(NAME, gravity=1.0, length=0.3, episode_length=5), KEY, 4, 50))
    assert limited.truncated.any()
    assert not np.array_equal(limited.obs[:, 0], timesteps.obs[:, 0])
    assert play._cache_size() == compiled + 1


def test_dynamics_are_those_of_cartpole():
    seen, plain = (jax.device_get(play(make(name), KEY, 4, 50)) for name in (NAME, "CartPole-v1"))
    np.testing.assert_allclose(seen.state.env.theta, plain.state.theta, rtol=1e-4, atol=1e-6)
    for name in ("reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(plain, name))


@pytest.mark.parametrize("x", [-2.4, -1.0, 0.0, 0.33, 2.4])
@pytest.mark.parametrize("angle", [-0.2, 0.0, 0.07, 0.2])
def test_position_and_angle_can_be_read(x, angle):
    image = picture(x, angle)
    # The lowest row is the middle of the cart; the hinge is there too.
    np.testing.assert_allclose(middle(image[-1]), x, atol=0.015)
    height = 0.6
    row = image[-1 - round(height / pixels._PIXEL)]
    np.testing.assert_allclose(middle(row) - x, height * np.tan(angle), atol=0.005)


def test_everything_fits_into_the_picture():
    for x, angle in ((2.4, 0.21), (-2.4, -0.21), (0.0, 0.0)):
        image = picture(x, angle)
        assert np.all(image[0] == 0.0)
        assert image.sum() > 0.9 * picture(0.0, angle).sum()


def test_left_and_right_are_mirror_images():
    np.testing.assert_allclose(picture(-0.7, -0.1), picture(0.7, 0.1)[:, ::-1], atol=1e-5)


def test_a_movement_of_a_millimetre_is_seen():
    assert np.abs(picture(0.301, 0.1) - picture(0.3, 0.1)).max() > 0.005
    assert np.abs(picture(0.3, 0.101) - picture(0.3, 0.1)).max() > 0.005


def test_the_pole_is_as_long_as_it_is():
    lit = [picture(0.0, 0.0, length).sum() for length in (0.5, 0.8, 1.1)]
    np.testing.assert_allclose(np.diff(lit) * pixels._PIXEL, 0.3, atol=0.02)
    short, usual = (make(NAME, length=length).reset(KEY).obs for length in (0.25, 0.5))
    assert short.sum() < usual.sum()


def test_two_pictures_show_a_velocity():
    env = make(NAME)
    assert env.observation_space.shape[-1] == 2
    timestep = env.reset(KEY)
    np.testing.assert_array_equal(timestep.obs[..., 0], timestep.obs[..., 1])
    for _ in range(5):
        timestep = env.step(KEY, timestep.state, jnp.int32(1))
    before, now = np.moveaxis(np.asarray(timestep.obs), -1, 0)
    velocity = (middle(now[-1]) - middle(before[-1])) / 0.02
    np.testing.assert_allclose(velocity, timestep.state.env.x_dot, atol=0.3)
    assert make(NAME, frame_stack=1).observation_space.shape[-1] == 1
    assert make(NAME, frame_stack=4).observation_space.shape[-1] == 4
