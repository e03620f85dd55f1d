"""Exchange with Minari, the collection of offline data sets of the Farama Foundation (an optional extra).

Its data sets name an environment of Gymnasium; here only their arrays and spaces are used.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from purerl.demonstrations.data import Demonstrations
from purerl.errors import InputError
from purerl.spaces import Box, Discrete, Space


def from_minari(dataset: Any, num_episodes: int | None = None) -> Demonstrations:
    """Demonstrations from a Minari data set with discrete or box spaces.

    Args:
        dataset: a ``minari.MinariDataset``, or the name of a local one.
        num_episodes: the first so many episodes; None for all.

    Raises:
        InputError: if Minari is missing, the spaces are of another kind, or an episode neither terminates nor is
            truncated.
    """
    if isinstance(dataset, str):
        dataset = _minari().load_dataset(dataset)
    count = dataset.total_episodes if num_episodes is None else num_episodes
    observation_space, action_space = map(_from_gymnasium, (dataset.observation_space, dataset.action_space))
    episodes = [dataset[i] for i in range(min(count, dataset.total_episodes))]
    if not episodes:
        raise InputError("the Minari data set has no episodes")
    lengths = [len(episode.rewards) for episode in episodes]

    def joined(parts: list[Any], dtype: Any) -> np.ndarray:
        return np.concatenate([np.asarray(part) for part in parts]).astype(dtype)

    demonstrations = Demonstrations(
        obs=joined([episode.observations[:-1] for episode in episodes], observation_space.dtype),
        action=joined([episode.actions for episode in episodes], action_space.dtype),
        reward=joined([episode.rewards for episode in episodes], np.float32),
        terminated=joined([episode.terminations for episode in episodes], bool),
        truncated=joined([episode.truncations for episode in episodes], bool),
        next_obs=joined([episode.observations[1:] for episode in episodes], observation_space.dtype),
        starts=np.append(0, np.cumsum(lengths)[:-1]).astype(np.int32),
        observation_space=observation_space,
        action_space=action_space,
        source=f"minari {dataset.id}",
    )
    demonstrations.check()
    return demonstrations if num_episodes is None else demonstrations.first(num_episodes)


def to_minari(demonstrations: Demonstrations, name: str) -> Any:
    """A new local Minari data set called `name`, such as ``"cartpole/ppo-v0"``, with these demonstrations.

    Returns:
        The ``minari.MinariDataset``.

    Raises:
        InputError: if Minari is missing, or does not accept the data.
    """
    minari = _minari()
    from minari.data_collector import EpisodeBuffer  # pyright: ignore[reportMissingImports]

    buffers = []
    ends = np.append(np.asarray(demonstrations.starts)[1:], demonstrations.num_rows)
    for number, (start, end) in enumerate(zip(np.asarray(demonstrations.starts), ends, strict=True)):
        rows = slice(int(start), int(end))
        obs, next_obs = np.asarray(demonstrations.obs)[rows], np.asarray(demonstrations.next_obs)[rows]
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=np.concatenate([obs, next_obs[-1:]]),
                actions=np.asarray(demonstrations.action)[rows],
                rewards=np.asarray(demonstrations.reward)[rows].tolist(),
                terminations=np.asarray(demonstrations.terminated)[rows].tolist(),
                truncations=np.asarray(demonstrations.truncated)[rows].tolist(),
            )
        )
    try:
        return minari.create_dataset_from_buffers(
            dataset_id=name,
            buffer=buffers,
            observation_space=_to_gymnasium(demonstrations.observation_space),
            action_space=_to_gymnasium(demonstrations.action_space),
            algorithm_name=demonstrations.source or None,
            description=f"{demonstrations.env} {json.loads(demonstrations.env_options)}",
        )
    except (ValueError, AssertionError) as error:
        raise InputError(f"Minari does not accept {name!r}: {error}") from error


def _minari() -> Any:
    try:
        import minari  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("Minari is not installed: pip install 'purerl[minari]'") from error
    return minari


def _from_gymnasium(space: Any) -> Space:
    kind = type(space).__name__
    if kind == "Discrete" and int(space.start) == 0:
        return Discrete(int(space.n))
    if kind == "Box":
        dtype = np.float32 if space.dtype == np.float64 else space.dtype
        low, high = (tuple(np.asarray(bound, np.float64).reshape(-1).tolist()) for bound in (space.low, space.high))
        return Box(space.shape, low, high, dtype)
    raise InputError(f"only Discrete (from 0) and Box spaces can be used, got {space}")


def _to_gymnasium(space: Space) -> Any:
    from gymnasium import spaces

    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    low, high = (bound.astype(space.dtype) for bound in space.bounds)
    return spaces.Box(low, high, space.shape, space.dtype)
