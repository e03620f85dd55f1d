"""The smooth environments: physics from first principles, and gradients that are those of finite differences."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from environment_contract import check_trajectory, check_types, play, without_effect
from scipy.linalg import solve_discrete_are

from purerl import InputError, struct
from purerl.environments import smooth
from purerl.environments.smooth.integrate import rk4
from purerl.environments.smooth.linear_quadratic import LinearQuadratic, gain, value_matrix

KEY = jax.random.key(0)
NAMES = smooth.names()


def float64(tree):
    """A copy in double precision, past the constructors that make everything float32."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


@jax.jit
def roll(env, state, actions):
    """States ``[time + 1, n]`` and rewards ``[time]`` from `state` under `actions [time, m]`."""

    def step(state, action):
        timestep = env.step(KEY, state, action)
        return timestep.state, (timestep.state, timestep.reward)

    _, (states, rewards) = jax.lax.scan(step, state, actions)
    return jnp.concatenate([state[None], states]), rewards


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    env = smooth.unlimited(name)
    check_types(env)
    compiled = play._cache_size()
    timesteps = jax.device_get(play(env, KEY, 4, 8))
    check_trajectory(timesteps)
    assert not np.any(timesteps.terminated | timesteps.truncated)
    low, high = env.observation_space.bounds
    assert np.all((timesteps.obs >= low) & (timesteps.obs <= high))
    assert env.action_space.is_bounded
    # Starts are random. Parameters are leaves: another value is the same program.
    assert len(np.unique(timesteps.state[:, 0, 0])) == 4
    other = struct.replace(env, **{"R": [[0.2]]} if name == "smooth/lqr" else {"dt": 0.04})
    assert not np.allclose(play(other, KEY, 4, 8).reward, timesteps.reward)
    assert play._cache_size() == compiled + 1


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_acts(name):
    # The rail ends where starts are, so that its springs are met.
    options = {"rail_length": 0.01} if name == "smooth/cartpole-swingup" else {}
    assert without_effect(smooth.unlimited(name, **options)) == set()


@pytest.mark.parametrize("name", NAMES)
def test_options(name):
    options = {option: known.default for option, known in smooth.options(name).items()}
    assert all(isinstance(value, float | tuple) for value in options.values())
    made = smooth.unlimited(name, **options)
    assert jax.tree.structure(made) == jax.tree.structure(smooth.unlimited(name))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(made))
    assert smooth.EPISODE_LENGTH[name] > 0
    assert smooth.is_known(name)
    assert not smooth.is_known(name + "s")


def random_inputs(env, length, seed=0):
    """Actions ``[length, m]`` within half of the bounds."""
    return 0.5 * jax.vmap(env.action_space.sample)(jax.random.split(jax.random.key(seed), length))


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name):
    """Backward mode, forward mode and finite differences agree for actions, start state and every parameter."""
    env = smooth.unlimited(name)
    start, actions = env.reset(jax.random.key(1)).state, random_inputs(env, 10)
    if name == "smooth/bouncing-mass":
        # On soft ground, and low enough to reach it.
        env, start = struct.replace(env, stiffness=30.0), jnp.array([0.4, 0.0])
    if name == "smooth/cartpole-swingup":
        # On its way into a spring.
        start = jnp.array([2.35, 1.0, 2.0, 0.5])
    with jax.enable_x64(True):
        inputs, rebuild = jax.flatten_util.ravel_pytree(float64((env, start, actions)))
        direction = jax.random.normal(KEY, inputs.shape)
        nudges = 1e-6 * jnp.eye(len(inputs))

        def total(inputs):
            return jnp.sum(roll(*rebuild(inputs))[1])

        def three_ways(inputs):
            backward = jax.grad(total)(inputs)
            forward = jax.jvp(total, (inputs,), (direction,))[1]
            there, back = (jax.vmap(lambda nudge: total(inputs + nudge))(side) for side in (nudges, -nudges))
            return backward, forward, (there - back) / 2e-6

        backward, forward, differences, direction = jax.device_get((*jax.jit(three_ways)(inputs), direction))
    np.testing.assert_allclose(forward, backward @ direction, rtol=1e-9)
    np.testing.assert_allclose(differences, backward, rtol=1e-5, atol=1e-6 * np.abs(backward).max())
    # Nothing is cut off: every action, parameter and entry of the start counts.
    assert np.all(backward != 0.0)


def test_sweeping_a_parameter():
    env, start = smooth.unlimited("smooth/pendulum"), jnp.array([1.0, 0.0])
    masses = jnp.array([0.5, 1.0, 2.0])
    actions = random_inputs(env, 5)
    swept = jax.vmap(lambda mass: roll(struct.replace(env, mass=mass), start, actions)[1])(masses)
    envs = jax.vmap(lambda mass: struct.replace(env, mass=mass))(masses)
    also = jax.vmap(roll, (0, None, None))(envs, start, actions)[1]
    for rewards, other, mass in zip(swept, also, (0.5, 1.0, 2.0), strict=True):
        alone = roll(smooth.unlimited("smooth/pendulum", mass=mass), start, actions)[1]
        np.testing.assert_allclose(rewards, alone, rtol=1e-5)
        np.testing.assert_allclose(other, alone, rtol=1e-5)
    assert np.all(np.ptp(swept, axis=0) > 1e-4)


def test_runge_kutta_is_of_fourth_order():
    """x' = x - x^2 has the solution 1 / (1 + exp(-t)) through (0, 1/2)."""
    with jax.enable_x64(True):
        half = jnp.full((1,), 0.5, jnp.float64)
        found = np.array([rk4(lambda x: x - x**2, half, 4.0, n)[0] for n in (32, 64, 128)])
    errors = np.abs(found - 1.0 / (1.0 + np.exp(-4.0)))
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 4.0, atol=0.1)


# What Lagrange needs to know of a mechanical system: the energies, and where which forces act.


def pendulum_energies(env, q, qd):
    return 0.5 * env.mass * env.length**2 * qd[0] ** 2, env.mass * env.gravity * env.length * jnp.cos(q[0])


def pendulum_forces(env, q, qd, action):
    return jnp.stack([action[0] - env.damping * qd[0]])


def cartpole_energies(env, q, qd):
    half, mass = env.pole_length, env.pole_mass

    def middle_of_the_pole(q):
        return jnp.stack([q[0] + half * jnp.sin(q[1]), half * jnp.cos(q[1])])

    velocity = jax.jvp(middle_of_the_pole, (q,), (qd,))[1]
    turning = 0.5 * mass * (2.0 * half) ** 2 / 12.0 * qd[1] ** 2
    kinetic = 0.5 * env.cart_mass * qd[0] ** 2 + 0.5 * mass * jnp.sum(velocity**2) + turning
    compression = jnp.maximum(jnp.abs(q[0]) - env.rail_length, 0.0)
    return kinetic, mass * env.gravity * middle_of_the_pole(q)[1] + 0.5 * env.spring_stiffness * compression**2


def cartpole_forces(env, q, qd, action):
    return jnp.stack([action[0] - env.friction * qd[0], jnp.zeros_like(qd[0])])


def quadrotor_energies(env, q, qd):
    kinetic = 0.5 * env.mass * (qd[0] ** 2 + qd[1] ** 2) + 0.5 * env.inertia * qd[2] ** 2
    return kinetic, env.mass * env.gravity * q[1]


def quadrotor_forces(env, q, qd, action):
    def rotor(q, side):
        return q[:2] + side * env.arm_length * jnp.stack([jnp.cos(q[2]), jnp.sin(q[2])])

    upwards = jnp.stack([-jnp.sin(q[2]), jnp.cos(q[2])])
    thrusts = env.hover_thrust * (1.0 + action)
    return sum(thrust * jax.jacobian(rotor)(q, side).T @ upwards for thrust, side in zip(thrusts, (-1, 1), strict=True))


# Energies, forces, which entries of the state are coordinates and which velocities, and how to have no forces.
MECHANICS = {
    "smooth/pendulum": (pendulum_energies, pendulum_forces, [0], [1], {"damping": 0.0}, 0.0),
    "smooth/cartpole-swingup": (
        cartpole_energies,
        cartpole_forces,
        [0, 2],
        [1, 3],
        {"friction": 0.0, "rail_length": 9.0},
        0.0,
    ),
    "smooth/quadrotor": (quadrotor_energies, quadrotor_forces, [0, 1, 2], [3, 4, 5], {}, -1.0),
}


@pytest.mark.parametrize("name", MECHANICS)
def test_equations_of_motion(name):
    """d/dt dL/dq' - dL/dq = forces, solved for q''."""
    energies, forces, coordinates, velocities, _, _ = MECHANICS[name]

    def lagrange(env, q, qd, action):
        def lagrangian(q, qd):
            kinetic, potential = energies(env, q, qd)
            return kinetic - potential

        mass_matrix = jax.hessian(lagrangian, 1)(q, qd)
        momentum_change = jax.jacobian(jax.grad(lagrangian, 1), 0)(q, qd) @ qd
        rest = jax.grad(lagrangian)(q, qd) - momentum_change + forces(env, q, qd, action)
        return jnp.linalg.solve(mass_matrix, rest)

    def motion(env, state, action):
        """The derivative of the state by time: where a step of no length is heading."""

        def step(dt):
            return struct.replace(env, dt=dt).step(KEY, state, action).state

        return jax.jvp(step, (0.0,), (1.0,))[1]

    rng = np.random.default_rng(0)
    env = smooth.unlimited(name)
    # Other parameters than the defaults, some of which are 1.
    env = jax.tree.map(lambda leaf: leaf * np.float32(rng.uniform(0.7, 1.3)), env)
    states = rng.normal(scale=2.0, size=(16, 2 * len(coordinates))).astype(np.float32)
    actions = rng.normal(size=(16, *env.action_space.shape)).astype(np.float32)
    q, qd = states[:, coordinates], states[:, velocities]
    expected = jax.jit(jax.vmap(functools.partial(lagrange, env)))(q, qd, actions)
    found = np.asarray(jax.jit(jax.vmap(functools.partial(motion, env)))(states, actions))
    np.testing.assert_allclose(found[:, coordinates], qd, rtol=1e-6)
    np.testing.assert_allclose(found[:, velocities], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MECHANICS)
def test_energy_is_conserved(name):
    energies, _, coordinates, velocities, no_friction, no_thrust = MECHANICS[name]
    env = smooth.unlimited(name, **no_friction)
    start = jnp.linspace(0.3, 0.8, 2 * len(coordinates))
    states = np.asarray(roll(env, start, jnp.full((100, *env.action_space.shape), no_thrust))[0])
    kinetic, potential = jax.vmap(functools.partial(energies, env))(states[:, coordinates], states[:, velocities])
    exchanged = np.ptp(kinetic)
    assert exchanged > 0.5
    np.testing.assert_allclose(kinetic + potential, kinetic[0] + potential[0], rtol=0.0, atol=1e-4 * exchanged)


def test_the_pendulum_has_to_swing():
    """The motor alone stops where its torque balances the weight; pushing along with the motion gets to the top."""
    env = smooth.unlimited("smooth/pendulum")
    hanging = jnp.array([jnp.pi, 0.0])
    pushed = roll(env, hanging, jnp.full((200, 1), env.max_torque))[0]
    assert np.all(np.cos(pushed[:, 0]) < 0.0)

    def along(state, _):
        torque = env.max_torque * jnp.where(state[1] >= 0.0, 1.0, -1.0)
        state = env.step(KEY, state, torque[None]).state
        return state, state

    swung = jax.lax.scan(along, hanging, None, 200)[1]
    assert np.any(np.cos(swung[:, 0]) > 0.95)


def follow(env, start, gains):
    """The discounted costs of ``u = -K x`` with gains ``[time, m, n]``."""

    def step(state, gain_t):
        timestep = env.step(KEY, state, -gain_t @ state)
        return timestep.state, -timestep.reward

    return jax.lax.scan(step, start, gains)[1]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_the_riccati_equation_gives_the_least_cost(gamma):
    rng = np.random.default_rng(0)
    env = smooth.unlimited(
        "smooth/lqr",
        A=0.5 * rng.normal(size=(3, 3)),
        B=rng.normal(size=(3, 2)),
        Q=np.diag([1.0, 0.5, 0.0]),
        R=[[0.3, 0.1], [0.1, 0.2]],
    )
    assert (env.observation_space.shape, env.action_space.shape) == ((3,), (2,))
    start, horizon = jnp.array([1.0, -2.0, 0.5]), 6
    gains = jnp.stack([gain(env, value_matrix(env, gamma, k), gamma) for k in reversed(range(horizon))])

    def cost(gains):
        return jnp.sum(gamma ** jnp.arange(horizon) * follow(env, start, gains))

    least, slope = jax.jit(jax.value_and_grad(cost))(gains)
    np.testing.assert_allclose(least, start @ value_matrix(env, gamma, horizon) @ start, rtol=1e-5)
    np.testing.assert_allclose(slope, 0.0, atol=1e-4)
    assert cost(gains + 0.1) > 1.01 * least


def test_a_long_horizon_solves_the_algebraic_riccati_equation():
    env = LinearQuadratic()
    value = np.asarray(value_matrix(env, 1.0, 200))
    np.testing.assert_allclose(value, solve_discrete_are(env.A, env.B, env.Q, env.R), rtol=1e-4)


def test_the_reward_of_a_linear_system_is_that_of_the_state_left():
    timestep = LinearQuadratic().step(KEY, jnp.array([2.0, 1.0]), jnp.array([3.0]))
    np.testing.assert_allclose(timestep.reward, -(4.0 + 0.1 + 0.9), rtol=1e-6)
    np.testing.assert_allclose(timestep.state, [2.0 + 0.1 + 0.015, 1.0 + 0.3], rtol=1e-6)


DROPS = jnp.linspace(0.7, 0.8, 64)
DROPPED_FOR = 10


def height_after_dropping(env, num_steps, height):
    actions = jnp.zeros((num_steps, 1))
    return roll(env, jnp.stack([height, 0.0]), actions)[0][-1, 0]


def dropped(height, env, time):
    """Height of a hard ball at `time`, and its slope by the height it was dropped from; after at most one bounce."""
    g, e = float(env.gravity), float(env.restitution)
    impact = np.sqrt(2.0 * height / g)
    after = time - impact
    speed = g * impact
    up = e * speed * after - 0.5 * g * after**2
    slope = ((1.0 + e) * g * after / speed) - e
    return np.where(after < 0.0, height - 0.5 * g * time**2, up), np.where(after < 0.0, 1.0, slope)


def test_hard_ground_reflects():
    env = smooth.unlimited("smooth/bouncing-mass")
    heights = jax.vmap(lambda h: height_after_dropping(env, DROPPED_FOR, h))(DROPS)
    expected, _ = dropped(np.asarray(DROPS), env, DROPPED_FOR * 0.05)
    # A substep late in noticing, and less of a bounce where the ground is only just felt.
    assert np.median(np.abs(heights - expected)) < 0.03
    states = np.asarray(roll(env, jnp.array([1.0, 0.0]), jnp.zeros((40, 1)))[0])
    assert states[:, 0].min() > -0.03
    height = states[:, 0]
    tops = height[1:-1][(height[1:-1] > height[:-2]) & (height[1:-1] > height[2:])]
    np.testing.assert_allclose(tops[:2], [0.8**2, 0.8**4], atol=0.03)


def test_bounces_never_gain_energy():
    """A perfect one keeps it; a little is lost where a substep ends so close to the ground that it is half felt."""
    env = smooth.unlimited("smooth/bouncing-mass", restitution=1.0)
    states = np.asarray(jax.vmap(lambda h: roll(env, jnp.stack([h, 0.5]), jnp.zeros((40, 1)))[0])(DROPS))
    energy = float(env.gravity) * states[..., 0] + 0.5 * states[..., 1] ** 2
    assert np.all(np.max(states[:, -15:, 0], axis=1) < 1.5)
    assert np.diff(energy).max() < 1e-3
    assert np.median(energy[:, -1] / energy[:, 0]) > 0.99


def test_gradients_through_hard_contact_miss_the_jumps():
    """Exact until the ground is touched; then the slope of a stair, of the wrong sign. Soft ground has no stairs."""

    @functools.partial(jax.jit, static_argnames="num_steps")
    def slopes(env, num_steps, nudge):
        def height(h):
            return height_after_dropping(env, num_steps, h)

        by_gradient = jax.vmap(jax.grad(height))(DROPS)
        by_difference = (jax.vmap(height)(DROPS + nudge) - jax.vmap(height)(DROPS - nudge)) / (2.0 * nudge)
        return by_gradient, by_difference

    hard = smooth.unlimited("smooth/bouncing-mass")
    by_gradient, by_difference = slopes(hard, 6, 0.05)
    np.testing.assert_allclose(by_gradient, 1.0, rtol=1e-5)
    np.testing.assert_allclose(by_difference, 1.0, rtol=1e-4)

    by_gradient, by_difference = slopes(hard, DROPPED_FOR, 0.1)
    _, expected = dropped(np.asarray(DROPS), hard, DROPPED_FOR * 0.05)
    assert np.all(expected < -0.1)
    np.testing.assert_allclose(np.median(by_gradient), 1.0, rtol=1e-3)
    np.testing.assert_allclose(np.median(by_difference), np.median(expected), atol=0.15)

    soft = struct.replace(hard, stiffness=10.0)
    by_gradient, by_difference = slopes(soft, DROPPED_FOR, 0.01)
    np.testing.assert_allclose(by_gradient, by_difference, atol=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pendulum", {"mas": 1.0}, "unknown option of smooth/pendulum 'mas': did you mean 'mass'"),
        ("pendulum", {"episode_lengt": 1}, "unknown option of smooth/pendulum 'episode_lengt': did you mean 'episode_"),
        ("pendulum", {"mass": 0.0}, r"mass must lie in \(0, inf\), got 0.0"),
        ("pendulum", {"mass": float("inf")}, r"mass must lie in \(0, inf\), got inf"),
        ("pendulum", {"mass": "heavy"}, "mass of smooth/pendulum must be a number, got 'heavy'"),
        ("pendulum", {"mass": [1.0, 2.0]}, r"mass of smooth/pendulum must be a single value, got shape \(2,\)"),
        ("pendulum", {"damping": -1}, r"damping must lie in \[0, inf\), got -1"),
        ("pendulum", {"max_torque": -2.0}, r"max_torque must lie in \(0, inf\), got -2.0"),
        ("cartpole-swingup", {"pole_mass": -0.1}, r"pole_mass must lie in \(0, inf\), got -0.1"),
        ("quadrotor", {"inertia": float("nan")}, "inertia of smooth/quadrotor must be a number, got nan"),
        ("bouncing-mass", {"restitution": 1.5}, r"restitution must lie in \[0, 1\], got 1.5"),
        ("bouncing-mass", {"stiffness": 0}, r"stiffness must lie in \(0, inf\), got 0"),
        ("lqr", {"A": 1.0}, r"A of smooth/lqr must be an array with 2 axes, got shape \(\)"),
        ("lqr", {"A": [[1.0, float("inf")], [0.0, 1.0]]}, r"A must lie in \(-inf, inf\)"),
        ("lqr", {"A": [[1.0]]}, r"must have the shapes \[n, n\], \[n, m\], \[n, n\], \[m, m\]; A has \[1, 1\]"),
        ("lqr", {"R": [[0.0]]}, r"R must be symmetric and positive definite, got \[\[0.0\]\]"),
        ("lqr", {"Q": [[1.0, 0.5], [0.0, 1.0]]}, "Q must be symmetric and positive semi-definite"),
        ("lqr", {"Q": [[1.0, 2.0], [2.0, 1.0]]}, "Q must be symmetric and positive semi-definite"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        smooth.unlimited(f"smooth/{name}", **options)
    assert "\n" not in str(error.value)
