"""PPO written the way PureJaxRL made popular (Lu et al. 2022, "Discovered policy optimisation", arXiv:2210.05639).

The whole training is one function of a key: a scan over updates, within it a scan over steps of vmapped gymnax
environments that reset themselves, one reverse scan for GAE, then epochs of minibatches shuffled by
`jax.random.permutation`. Written for this benchmark from that description; no line of it is theirs. Hyper-parameters
and networks are those of purerl's worker; actor and critic share nothing. What differs from purerl is what that style
leaves out: an episode that reaches its time limit counts as ended, and every step draws a fresh start state.

As a program it times one training and prints one JSON line.
"""

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax
from common import (
    CHANNELS,
    HIDDEN_SIZES,
    IMAGE_HIDDEN_SIZES,
    KERNEL,
    compiled,
    flags,
    is_image,
    ppo_settings,
    report,
    seconds,
)


class Torso(nn.Module):
    image: bool

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.orthogonal(2.0**0.5)
        if self.image:
            x = nn.relu(nn.Conv(CHANNELS, KERNEL, padding="VALID", kernel_init=init)(x))
            x = x.reshape(*x.shape[:-3], -1)
        for size in IMAGE_HIDDEN_SIZES if self.image else HIDDEN_SIZES:
            x = nn.Dense(size, kernel_init=init)(x)
            x = nn.relu(x) if self.image else nn.tanh(x)
        return x


class Networks(nn.Module):
    num_actions: int
    image: bool

    @nn.compact
    def __call__(self, obs):
        obs = obs.astype(jnp.float32)
        logits = nn.Dense(self.num_actions, kernel_init=nn.initializers.orthogonal(0.01))(Torso(self.image)(obs))
        value = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0))(Torso(self.image)(obs))
        return jax.nn.log_softmax(logits), value[..., 0]


def log_prob_of(log_probs, action):
    return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]


def make_train(env_name, num_envs, num_updates):
    """``train(key) -> (parameters, mean return of the episodes that ended in each update [num_updates])``."""
    env, env_params = gymnax.make(env_name)
    settings = ppo_settings(env_name)
    network = Networks(env.action_space(env_params).n, is_image(env_name))
    optimizer = optax.chain(
        optax.clip_by_global_norm(settings["max_grad_norm"]), optax.adam(settings["learning_rate"], eps=1e-5)
    )
    num_steps, num_minibatches = settings["rollout_length"], settings["num_minibatches"]
    gamma, trace, clip = settings["gamma"], settings["gamma"] * settings["gae_lambda"], settings["clip_eps"]
    reset = jax.vmap(env.reset, in_axes=(0, None))
    step = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    def loss(params, batch):
        obs, action, old_log_prob, old_value, advantage, target = batch
        log_probs, value = network.apply(params, obs)
        ratio = jnp.exp(log_prob_of(log_probs, action) - old_log_prob)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
        near = old_value + jnp.clip(value - old_value, -clip, clip)
        value_loss = 0.5 * jnp.maximum((value - target) ** 2, (near - target) ** 2).mean()
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
        return -surrogate.mean() + settings["value_coef"] * value_loss - settings["entropy_coef"] * entropy

    def act(carry, _):
        key, params, env_state, obs, running_return = carry
        key, action_key, step_key = jax.random.split(key, 3)
        log_probs, value = network.apply(params, obs)
        action = jax.random.categorical(action_key, log_probs)
        next_obs, env_state, reward, terminated, truncated, _ = step(
            jax.random.split(step_key, num_envs), env_state, action, env_params
        )
        done = terminated | truncated
        running_return = running_return + reward
        seen = (obs, action, log_prob_of(log_probs, action), value, reward, done, running_return)
        return (key, params, env_state, next_obs, jnp.where(done, 0.0, running_return)), seen

    def accumulate(carry, inputs):
        advantage, next_value = carry
        value, reward, done = inputs
        delta = reward + gamma * next_value * (1 - done) - value
        advantage = delta + trace * (1 - done) * advantage
        return (advantage, value), advantage

    def learn(carry, batch):
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss)(params, batch), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    def update(carry, _):
        key, params, opt_state, env_state, obs, running_return = carry
        (key, _, env_state, obs, running_return), seen = jax.lax.scan(
            act, (key, params, env_state, obs, running_return), length=num_steps
        )
        *acted, value, reward, done, returns = seen
        last_value = network.apply(params, obs)[1]
        _, advantage = jax.lax.scan(accumulate, (jnp.zeros(num_envs), last_value), (value, reward, done), reverse=True)
        batch = (*acted, value, advantage, advantage + value)
        batch = jax.tree.map(lambda leaf: leaf.reshape(num_steps * num_envs, *leaf.shape[2:]), batch)

        def epoch(carry, key):
            order = jax.random.permutation(key, num_steps * num_envs)
            minibatches = jax.tree.map(lambda leaf: leaf[order].reshape(num_minibatches, -1, *leaf.shape[1:]), batch)
            return jax.lax.scan(learn, carry, minibatches)

        key, epoch_key = jax.random.split(key)
        (params, opt_state), _ = jax.lax.scan(
            epoch, (params, opt_state), jax.random.split(epoch_key, settings["num_epochs"])
        )
        mean_return = (returns * done).sum() / done.sum()
        return (key, params, opt_state, env_state, obs, running_return), mean_return

    def train(key):
        key, params_key, reset_key = jax.random.split(key, 3)
        obs, env_state = reset(jax.random.split(reset_key, num_envs), env_params)
        params = network.init(params_key, obs)
        carry = (key, params, optimizer.init(params), env_state, obs, jnp.zeros(num_envs))
        carry, returns = jax.lax.scan(update, carry, length=num_updates)
        return carry[1], returns

    return train


def main():
    args = flags()
    train = make_train(args.env, args.num_envs, args.iterations)
    key = jax.random.key(args.seed)
    if args.seeds > 1:
        train, key = jax.vmap(train), jax.random.split(key, args.seeds)
    compile_seconds, program = compiled(train, key)
    seconds(program, key)  # caches and allocator
    run_seconds, (_, returns) = seconds(program, key)
    env_steps = args.iterations * args.num_envs * ppo_settings(args.env)["rollout_length"] * args.seeds
    report(compile_seconds, run_seconds, env_steps, jnp.nanmean(returns[..., -(1 + args.iterations // 10) :]))


if __name__ == "__main__":
    main()
