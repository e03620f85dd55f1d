"""Actors of Ray: the results of one process, also after an actor was killed. Needs the extra `ray`, of 200 MB."""

import os
import signal
import sys

import jax
import numpy as np
import pytest
from test_parts import BATCH, build

from purerl import InputError
from purerl.training import ray_worker
from purerl.training.in_process import InProcess


def test_without_ray_there_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"--engine ray needs the library Ray: pip install 'purerl\[ray\]'"):
        ray_worker.check()


def numbers(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.slow
def test_actors_learn_what_processes_learn_although_one_is_killed() -> None:
    ray = pytest.importorskip("ray")
    key, undisturbed = jax.random.key(0), InProcess(build())
    with ray_worker.parts(build, 2, deadline=300.0) as actors:
        for members in (undisturbed, actors):
            members.compile_init()
            members.init(key)
            members.compile_evaluation(BATCH, explore=False)
        first, second = (members.advance(2) for members in (undisturbed, actors))
        for one, other in zip(numbers(first), numbers(second), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
        saved = actors.state()  # a checkpoint
        undisturbed.advance(2)
        actors.advance(2)
        actor = actors._workers[1]._actor_now  # type: ignore[attr-defined]
        os.kill(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)
        one, other = undisturbed.advance(2), actors.advance(2)
        for left, right in zip(numbers(one), numbers(other), strict=True):
            np.testing.assert_allclose(right, left, rtol=1e-3, atol=1e-4)
        states = undisturbed.state(), actors.state()
        assert int(states[1].iteration) == int(saved.iteration) + 4
        for left, right in zip(*(numbers(state.params) for state in states), strict=True):
            np.testing.assert_allclose(right, left, rtol=1e-3, atol=1e-4)
    ray.shutdown()
