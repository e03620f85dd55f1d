"""All of gymnax behind one contract, and the same numbers as gymnax itself."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment_contract import check_trajectory, check_types, play, without_effect
from flax import struct as flax_struct
from gymnax.environments import environment as gymnax_environment
from gymnax.environments import spaces as gymnax_spaces

import purerl
from purerl import InputError, struct
from purerl.environments import environment_names, make
from purerl.spaces import Box, Discrete

NAMES = [name for name in environment_names() if "/" not in name]


# What gymnax declares and never reads.
UNREAD = {
    "Acrobot-v1": {"params.link_length_2"},
    "Asterix-MinAtar": {"params.shot_cool_down"},
    "Seaquest-MinAtar": {"params.ramp_interval", "params.enemy_move_interval"},
    # It ends after its only step, whatever the limit.
    "SimpleBandit-bsuite": {"params.max_steps_in_episode"},
}
# Options with which everything that parameters are about happens within eight steps.
EVENTFUL = {
    "MountainCar-v0": {"goal_position": -0.6},
    "MountainCarContinuous-v0": {"goal_position": -0.5},
    "Seaquest-MinAtar": {"init_spawn_speed": 1, "diver_spawn_speed": 1, "enemy_shot_interval": 1},
    "MetaMaze-misc": {"maze_size": 3},
    "Pong-misc": {"width": 10, "height": 8},
}


def with_limit(env, limit):
    return struct.replace(
        env, params=env.params.replace(max_steps_in_episode=np.asarray(limit, env.params.max_steps_in_episode.dtype))
    )


def test_every_registered_environment_is_covered():
    assert len(NAMES) >= 25
    assert set(gymnax.registered_envs) - set(NAMES) <= {"MNISTBandit-bsuite"}


@pytest.mark.parametrize("name", NAMES)
def test_types(name):
    check_types(make(name))


@pytest.mark.parametrize("name", NAMES)
def test_episodes(name):
    env = make(name)
    compiled = play._cache_size()
    timesteps = jax.device_get(play(with_limit(env, 3), jax.random.key(0), 4, 8))
    check_trajectory(timesteps)
    done = timesteps.terminated | timesteps.truncated
    # The environment shows the state it ended in, not the start of another episode.
    assert np.all(timesteps.state.time[done] > 0)
    assert np.all(timesteps.truncated == ((timesteps.state.time >= 3) & ~timesteps.terminated))
    # The limit is a leaf: another one is the same program, and without it these episodes go on.
    timesteps = jax.device_get(play(with_limit(env, 100), jax.random.key(0), 4, 8))
    assert not np.any(timesteps.truncated)
    assert play._cache_size() == compiled + 1


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_acts(name):
    """Those that gymnax itself never reads are refused where they would be changed."""
    assert without_effect(make(name, **EVENTFUL.get(name, {}))) == UNREAD.get(name, set())


def test_what_follows_from_a_parameter_follows_it():
    """gymnax keeps CartPole's total mass and its pole's first moment beside what they are made of."""
    theirs, params = gymnax.make("CartPole-v1")
    masses, lengths = jnp.float32([0.05, 0.1, 1.0]), jnp.float32([0.3, 0.5, 2.0])
    env = make("CartPole-v1")
    state = env.reset(jax.random.key(0)).state.replace(theta=jnp.float32(0.1), theta_dot=jnp.float32(1.0))

    def ours(mass, length):
        varied = struct.replace(env, params=env.params.replace(masscart=2 * mass, masspole=mass, length=length))
        return varied.step(jax.random.key(0), state, jnp.int32(1)).obs

    def consistent(mass, length):
        changed = params.replace(masscart=2 * mass, masspole=mass, length=length)
        changed = changed.replace(total_mass=3 * mass, polemass_length=mass * length)
        return theirs.step_env(jax.random.key(0), state, 1, changed)[0]

    np.testing.assert_allclose(jax.vmap(ours)(masses, lengths), jax.vmap(consistent)(masses, lengths), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CartPole-v1", {"total_mass": 2.0}, "total_mass of CartPole-v1 follows from masscart and masspole: change"),
        (
            "Acrobot-v1",
            {"link_length_2": 2.0},
            "params.link_length_2 of .*Acrobot-v1.* changes nothing: .*link_length_1",
        ),
        ("Asterix-MinAtar", {"shot_cool_down": 3}, "params.shot_cool_down of .* changes nothing"),
    ],
)
def test_parameters_that_cannot_act_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        make(name, **options)
    env = make(name)
    (field,) = options
    with pytest.raises(InputError, match=message):
        purerl.Population(purerl.PPO(env=env), 2, {f"env.params.{field}": [1, 2]})


def test_bounds_of_actions_do_not_follow_a_member():
    """Within those of the environment a member's own are clipped; beyond, they would change nothing."""
    agent = purerl.PPO(env=make("Pendulum-v1"))
    purerl.Population(agent, 2, {"env.params.max_torque": np.float32([1.0, 2.0])})
    with pytest.raises(InputError, match=r"made for actions in Box\(\[1\], \[-2, 2\]\): .* up to \[-4, 4\]"):
        purerl.Population(agent, 2, {"env.params.max_torque": np.float32([1.0, 4.0])})


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "Breakout-MinAtar"])
def test_same_as_gymnax(name):
    """gymnax splits the key of a step into one for the transition and one for its reset."""
    theirs, params = gymnax.make(name)
    ours = make(name)
    # With the parameters as arguments, as in gymnax: folded constants round differently.
    our_step = jax.jit(lambda env, key, state, action: env.step(key, state, action))
    key = jax.random.key(0)
    obs, state = theirs.reset(key, params)
    timestep = jax.jit(ours.reset)(key)
    np.testing.assert_array_equal(timestep.obs, obs)
    for i in range(250):
        key = jax.random.fold_in(jax.random.key(1), i)
        action = ours.action_space.sample(key)
        obs, state, reward, terminated, truncated, info = theirs.step(key, state, action, params)
        timestep = our_step(ours, jax.random.split(key)[0], timestep.state, action)
        np.testing.assert_array_equal(timestep.obs, info["final_observation"])
        np.testing.assert_array_equal(timestep.reward, reward)
        assert (bool(timestep.terminated), bool(timestep.truncated)) == (
            bool(terminated),
            bool(truncated & ~terminated),
        )
        if timestep.done:
            break
    assert timestep.done


def test_equal_environments_share_a_program():
    step = jax.jit(lambda env, key: env.step(key, env.reset(key).state, jnp.int32(0)).reward)
    for env in (make("CartPole-v1"), make("CartPole-v1"), make("CartPole-v1", gravity=1.0, episode_length=7)):
        step(env, jax.random.key(0))
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    ("name", "observation_space", "action_space"),
    [
        (
            "CartPole-v1",
            Box((4,), (-4.8, -np.inf, -0.418879, -np.inf), (4.8, np.inf, 0.418879, np.inf)),
            Discrete(2),
        ),
        ("Pendulum-v1", Box((3,), (-1.0, -1.0, -8.0), (1.0, 1.0, 8.0)), Box((1,), -2.0, 2.0)),
        ("Catch-bsuite", Box((10, 5), 0.0, 1.0), Discrete(3)),
        ("FourRooms-misc", Box((4,), 1.0, 11.0, np.int32), Discrete(4)),
        ("FrozenLake-misc", Discrete(16), Discrete(4)),
    ],
)
def test_spaces(name, observation_space, action_space):
    env = make(name)
    assert (env.observation_space.shape, env.observation_space.dtype, env.action_space) == (
        observation_space.shape,
        observation_space.dtype,
        action_space,
    )
    if isinstance(observation_space, Box):
        np.testing.assert_allclose(env.observation_space.bounds, observation_space.bounds, rtol=1e-6)


def test_options_go_where_they_belong():
    env = make("DeepSea-bsuite", size=5, unscaled_move_cost=1)
    assert env.observation_space.shape == (5, 5)
    assert env.params.unscaled_move_cost.dtype == np.float32
    # The default limit follows from the size.
    assert env.params.max_steps_in_episode == 5
    assert make("FrozenLake-misc", desc=["SF", "HG"]).observation_space == Discrete(4)
    assert make("FourRooms-misc", goal_fixed=[1, 1]).options == (("goal_fixed", (1, 1)),)
    assert make("Pendulum-v1", max_torque=3.0).action_space == Box((1,), -3.0, 3.0)


def test_deep_sea_ends_by_itself():
    timesteps = jax.device_get(play(make("DeepSea-bsuite", size=3), jax.random.key(0), 2, 6))
    np.testing.assert_array_equal(timesteps.terminated, np.tile([False, False, True], (2, 2)))
    assert not timesteps.truncated.any()


def test_physics_are_leaves():
    envs = jax.vmap(lambda g: make("Pendulum-v1", g=g))(jnp.array([1.0, 10.0, 20.0]))
    start = make("Pendulum-v1").reset(jax.random.key(1))

    def velocity(env):
        return env.step(jax.random.key(0), start.state, jnp.zeros(1)).state.theta_dot

    velocities = jax.vmap(velocity)(envs)
    assert len(set(velocities.tolist())) == 3
    slope = jax.grad(lambda g: velocity(make("Pendulum-v1", g=g)))(10.0)
    assert np.isfinite(slope)
    assert slope != 0.0


def test_gradients_pass_through_the_state():
    env = make("Pendulum-v1")

    def final_velocity(action):
        state = env.reset(jax.random.key(0)).state
        for _ in range(2):
            state = env.step(jax.random.key(0), state, action).state
        return state.theta_dot

    assert np.all(jax.grad(final_velocity)(jnp.zeros(1)) > 0.1)


@flax_struct.dataclass
class WalkState:
    position: float
    time: int


class Walk(gymnax_environment.Environment):
    """Steps left and right on a line; ends at 2."""

    def __init__(self, stride: int = 1, drift: float | None = None):
        self.stride, self.drift = stride, drift or 0

    @property
    def default_params(self):
        return gymnax_environment.EnvParams(max_steps_in_episode=5)

    def reset_env(self, key, params):
        return jnp.zeros(1), WalkState(0, 0)

    def step_env(self, key, state, action, params):
        position = state.position + self.stride * (2 * action - 1) + self.drift
        return position.reshape(1) * 1.0, WalkState(position, state.time + 1), jnp.float32(1.0), position >= 2, {}

    def observation_space(self, params):
        return gymnax_spaces.Box(-9, 9, (1,))

    def action_space(self, params):
        return gymnax_spaces.Discrete(2)


@pytest.fixture
def registered_walk():
    gymnax.register("Walk-test", Walk)
    gymnax.register("WalkFactory-test", lambda **options: Walk(**options))
    yield
    for name in ("Walk-test", "WalkFactory-test"):
        gymnax.registration._registry.pop(name)
        gymnax.registered_envs.remove(name)


def test_a_users_environment(registered_walk):
    env = purerl.make("Walk-test", stride=2)
    check_types(env)
    timestep = env.step(jax.random.key(0), env.reset(jax.random.key(0)).state, 1)
    assert (timestep.obs[0], timestep.reward, bool(timestep.terminated)) == (2.0, 1.0, True)
    assert "Walk-test" in environment_names()
    assert make("WalkFactory-test", stride=3).options == (("stride", 3),)
    with pytest.raises(InputError, match="cannot make WalkFactory-test with strid=3"):
        make("WalkFactory-test", strid=3)


def test_a_state_that_changes_type_is_reported(registered_walk):
    """`position` starts as a whole number and becomes a fraction; rounding it would be silent."""
    env = make("Walk-test", drift=0.5)
    with pytest.raises(InputError, match=r"Walk-test: the state.position is float32\[\] after a step and int32"):
        env.step(jax.random.key(0), env.reset(jax.random.key(0)).state, 1)


def test_a_state_set_by_hand_is_accepted():
    env = make("CartPole-v1")
    state = env.reset(jax.random.key(0)).state
    timestep = env.step(jax.random.key(0), state.replace(time=499), jnp.int32(0))
    assert bool(timestep.truncated)
    assert not bool(timestep.terminated)


def test_downloads_are_explained(monkeypatch):
    def no_network():
        raise OSError("no route to host")

    monkeypatch.setattr("gymnax.utils.load_mnist.load_mnist", no_network)
    with pytest.raises(InputError, match=r"MNISTBandit-bsuite is not available here: .*no route to host"):
        make("MNISTBandit-bsuite")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CartPole-v1", {"gravitas": 1.0}, "unknown option of CartPole-v1 'gravitas': did you mean 'gravity'"),
        ("CartPole-v1", {"gravity": "heavy"}, "gravity of CartPole-v1 must be a number, got 'heavy'"),
        ("CartPole-v1", {"gravity": True}, "gravity of CartPole-v1 must be a number, got True"),
        ("CartPole-v1", {"gravity": float("nan")}, "must be a number, got nan"),
        ("CartPole-v1", {"gravity": [1.0, 2.0]}, r"must be a single value, got shape \(2,\)"),
        ("CartPole-v1", {"gravity": None}, "must be"),
        ("CartPole-v1", {"episode_length": 0}, r"episode_length must lie in \[1, inf\), got 0"),
        ("CartPole-v1", {"episode_length": 2.5}, "episode_length must be a whole number, got 2.5"),
        ("CartPole-v1", {"episode_length": 5, "max_steps_in_episode": 6}, "give one of them"),
        ("PointRobot-misc", {"dense_reward": 1}, "dense_reward of PointRobot-misc must be true or false, got 1"),
        ("MemoryChain-bsuite", {"memory_length": 2.5}, "memory_length of MemoryChain-bsuite must be a whole number"),
        ("MemoryChain-bsuite", {"num_bits": "two"}, "num_bits of MemoryChain-bsuite must be a whole number"),
        ("DeepSea-bsuite", {"action_mapping_key": jax.random.key(0)}, "must be a plain value"),
        ("FrozenLake-misc", {"map_name": "9x9"}, "cannot make FrozenLake-misc with map_name='9x9': map_name must be"),
        ("FrozenLake-misc", {"reward_schedule": [1.0]}, "reward_schedule of FrozenLake-misc must have 3 entries"),
        ("MetaMaze-misc", {"maze_size": 4}, "cannot make MetaMaze-misc with maze_size=4: AssertionError"),
        ("Catch-bsuite", {"rows": -1}, "cannot make Catch-bsuite with rows=-1"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        make(name, **options)
    assert "\n" not in str(error.value)


def test_leaves_are_strong_arrays():
    for leaf in jax.tree.leaves(make("CartPole-v1", gravity=5).params):
        assert leaf.dtype in (np.float32, np.int32)
