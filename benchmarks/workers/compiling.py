"""Traces and compiles what ``purerl train ALGORITHM ENVIRONMENT`` runs, and prints the seconds as one JSON line."""

import json
import sys
import time

import jax
import jax.numpy as jnp

from purerl.cli.configure import configure
from purerl.training import loop


def main():
    algorithm, env = sys.argv[1:]
    population = configure(algorithm, env, [])[0].population()
    seconds = {"tracing": 0.0, "compiling": 0.0}
    key = jax.random.key(0)  # which starts XLA
    state = jax.eval_shape(population.init, key)
    for program, inputs in (
        (jax.jit(population.init), (key,)),
        (loop.advance, (population, state, jnp.int32(0))),
    ):
        begun = time.perf_counter()
        lowered = program.lower(*inputs)
        traced = time.perf_counter()
        lowered.compile()
        seconds["tracing"] += traced - begun
        seconds["compiling"] += time.perf_counter() - traced
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
