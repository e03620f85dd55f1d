"""Probability distributions over actions: categorical, Gaussian, Gaussian squashed by tanh, deterministic.

An event is the last axis (for `Categorical`, the axis of the logits); every method works for one event and for any
leading axes that all arrays share.

A sample of a distribution is called *raw*; log-probabilities are those of raw samples, exactly. `TanhGaussian` samples
before squashing: a probability ratio at a stored raw sample never needs ``atanh``, which is infinite where ``tanh`` has
rounded to one. `action` maps a raw sample to the action.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from purerl import struct

Array = jax.Array


@struct.dataclass
class Categorical:
    """Categorical distribution over ``0 .. n - 1`` with probabilities ``softmax(logits)``.

    Attributes:
        logits: ``[..., n]`` unnormalised log-probabilities; ``-inf`` excludes a choice, at least one must be finite.
    """

    logits: Array

    def sample(self, key: Array) -> Array:
        """Sample ``[...]``, int32."""
        return jax.random.categorical(key, self.logits).astype(jnp.int32)

    def log_prob(self, raw: Array) -> Array:
        """Log-probability ``[...]`` of the integers ``raw [...]``."""
        return jnp.take_along_axis(jax.nn.log_softmax(self.logits), raw[..., None], axis=-1)[..., 0]

    def sample_and_log_prob(self, key: Array) -> tuple[Array, Array]:
        """Sample and its log-probability."""
        raw = self.sample(key)
        return raw, self.log_prob(raw)

    def mode(self) -> Array:
        """Most probable integer, the first of several."""
        return jnp.argmax(self.logits, axis=-1).astype(jnp.int32)

    def entropy(self, key: Array) -> Array:
        """Exact entropy ``[...]`` in nats; `key` is not used, but all distributions take it."""
        del key
        log_p = jax.nn.log_softmax(self.logits)
        return -_expectation(log_p, log_p)

    def kl(self, other: Categorical) -> Array:
        """Exact ``KL(self || other) [...]`` in nats."""
        log_p = jax.nn.log_softmax(self.logits)
        return _expectation(log_p, log_p - jax.nn.log_softmax(other.logits))

    def action(self, raw: Array) -> Array:
        """Action of a raw sample: the sample itself."""
        return raw


@struct.dataclass
class Gaussian:
    """Normal distribution with independent components (diagonal covariance).

    Attributes:
        mean: ``[..., n]``.
        log_std: ``[..., n]``, logarithm of the standard deviation.
    """

    mean: Array
    log_std: Array

    def sample(self, key: Array) -> Array:
        """Sample ``[..., n]``, differentiable in the parameters."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape, self.mean.dtype)

    def log_prob(self, raw: Array) -> Array:
        """Log-density ``[...]`` at ``raw [..., n]``."""
        z = (raw - self.mean) * jnp.exp(-self.log_std)
        return jnp.sum(-0.5 * z**2 - self.log_std - 0.5 * math.log(2.0 * math.pi), axis=-1)

    def sample_and_log_prob(self, key: Array) -> tuple[Array, Array]:
        """Sample and its log-density."""
        raw = self.sample(key)
        return raw, self.log_prob(raw)

    def mode(self) -> Array:
        """Mean of the distribution."""
        return self.mean

    def entropy(self, key: Array) -> Array:
        """Exact differential entropy ``[...]`` in nats; `key` is not used, but all distributions take it."""
        del key
        return jnp.sum(self.log_std + 0.5 * math.log(2.0 * math.pi * math.e), axis=-1)

    def kl(self, other: Gaussian) -> Array:
        """Exact ``KL(self || other) [...]`` in nats."""
        log_ratio = self.log_std - other.log_std
        z = (self.mean - other.mean) * jnp.exp(-other.log_std)
        # (s^2 - 1) / 2 - log s with s = exp(log_ratio); expm1 keeps it exact for the small KLs of PPO.
        return jnp.sum(0.5 * (jnp.expm1(2.0 * log_ratio) + z**2) - log_ratio, axis=-1)

    def action(self, raw: Array) -> Array:
        """Action of a raw sample: the sample itself, not clipped to the bounds of the action space."""
        return raw


@struct.dataclass
class TanhGaussian:
    """Gaussian squashed into ``(-1, 1)`` by ``tanh`` (Haarnoja et al. 2018, "Soft Actor-Critic", appendix C).

    Raw samples ``u`` are those of the Gaussian, before squashing; densities are those of the action ``tanh(u)``.

    Attributes:
        mean: ``[..., n]``, mean of the Gaussian.
        log_std: ``[..., n]``, logarithm of the standard deviation of the Gaussian.
    """

    mean: Array
    log_std: Array

    @property
    def gaussian(self) -> Gaussian:
        """Distribution before squashing."""
        return Gaussian(self.mean, self.log_std)

    def sample(self, key: Array) -> Array:
        """Raw sample ``u [..., n]``, differentiable in the parameters."""
        return self.gaussian.sample(key)

    def log_prob(self, raw: Array) -> Array:
        """Log-density ``[...]`` of the action ``tanh(raw)``: ``log N(u) - sum log(1 - tanh(u)^2)``."""
        return self.gaussian.log_prob(raw) - _log_det_tanh(raw)

    def sample_and_log_prob(self, key: Array) -> tuple[Array, Array]:
        """Raw sample and the log-density of its action."""
        raw = self.sample(key)
        return raw, self.log_prob(raw)

    def mode(self) -> Array:
        """Mean of the Gaussian, whose action is the median; the squashed density may peak elsewhere."""
        return self.mean

    def entropy(self, key: Array) -> Array:
        """One-sample estimate ``[...]`` of the action's entropy in nats, which has no closed form.

        Unbiased and differentiable in the parameters: the Gaussian's exact entropy plus the log-determinant of
        ``tanh`` at a sample drawn with `key`.
        """
        return self.gaussian.entropy(key) + _log_det_tanh(self.sample(key))

    def kl(self, other: TanhGaussian) -> Array:
        """Exact ``KL(self || other) [...]`` in nats, equal to that of the Gaussians: a bijection does not change it."""
        return self.gaussian.kl(other.gaussian)

    def action(self, raw: Array) -> Array:
        """Action of a raw sample: ``tanh(raw)``."""
        return jnp.tanh(raw)


Distribution = Categorical | Gaussian | TanhGaussian


@struct.dataclass
class Deterministic:
    """Deterministic distribution: a single action with probability one. It has a mode and no density.

    Attributes:
        value: ``[..., n]`` between -1 and 1.
    """

    value: Array

    def mode(self) -> Array:
        """Action of the distribution."""
        return self.value

    def action(self, raw: Array) -> Array:
        """Action of a raw sample: the sample itself."""
        return raw


def _expectation(log_p: Array, value: Array) -> Array:
    """Expectation ``sum p * value`` over the last axis; terms of probability 0 are 0 even where `value` is infinite."""
    p = jnp.exp(log_p)
    return jnp.sum(p * jnp.where(p > 0, value, 0.0), axis=-1)


def _log_det_tanh(u: Array) -> Array:
    """Log-determinant ``sum log(1 - tanh(u)^2)`` over the last axis, finite where ``tanh`` rounds to one."""
    return jnp.sum(2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u)), axis=-1)
