"""``purerl plan``: memory and layout of a training, before anything compiles."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

from purerl.cli.configure import configure
from purerl.cli.parser import Flag, parse_some
from purerl.errors import InputError

USAGE = "purerl plan ALGORITHM ENVIRONMENT [flags of purerl train] [--compile] [--json]"

ABOUT = """\
Print what a training would need, from shapes alone: bytes of each member by part of its state, members that are
computed together, devices, and how many members fit into memory.

flags:
  --compile  also compile the program: seconds, and the memory that XLA plans beside the state
  --json     print JSON
and all flags of purerl train (see purerl train ALGORITHM ENVIRONMENT --help)"""

_OWN = [Flag("compile", "bool", "compile the program"), Flag("json", "bool", "print JSON")]


def command(argv: Sequence[str]) -> int:
    """Run ``purerl plan`` with the words after it; returns the exit code."""
    words = [word for word in argv if word not in ("--compile", "--json")]
    if {"-h", "--help"} & set(words) or not words:
        print(f"usage: {USAGE}\n\n{ABOUT}")
        return 0
    if len(words) < 2 or words[0].startswith("-") or words[1].startswith("-"):
        raise InputError("name an algorithm and an environment, as in: purerl plan sac Pendulum-v1 --seeds 64")
    given = parse_some(_OWN, argv)
    config, _, _ = configure(words[0], words[1], words[2:])
    plan = _plan(config)
    if given.get("compile", False):
        plan |= _compiled(config)
    print(json.dumps(plan, indent=2) if given.get("json", False) else _text(config, plan))
    return 0


def _plan(config: Any) -> dict[str, Any]:
    """Numbers of bytes and members."""
    import jax

    from purerl import device_memory, struct
    from purerl.cli import devices

    population = config.population()
    state = jax.eval_shape(population.algorithm.init, jax.random.key(0))
    axes = struct.member_axes(state, shared=-1)
    parts, shared = {}, 0
    for field in dataclasses.fields(state):
        leaves = zip(*map(jax.tree.leaves, (getattr(state, field.name), getattr(axes, field.name))), strict=True)
        sizes = [(device_memory.num_bytes(leaf), axis) for leaf, axis in leaves]
        own = sum(size for size, axis in sizes if axis == 0)
        shared += sum(size for size, axis in sizes if axis != 0)
        if own:
            parts[field.name] = own
    member = sum(parts.values())
    on = devices.of(config)
    num_parts = config.processes if config.processes > 1 else max(1, len(on) // config.shards)
    members_here = -(-population.num_members // num_parts)
    limit = device_memory.device_bytes() // (config.processes if config.processes > 1 else 1)
    return {
        "members": population.num_members,
        "member_bytes": member,
        "parts": dict(sorted(parts.items(), key=lambda item: -item[1])),
        "shared_bytes": shared,
        "devices": len(on),
        "processes": config.processes,
        "shards": config.shards,
        "members_per_device": members_here,
        "group": population.part(0, members_here).group_size,
        "device_bytes": limit,
        "needed_bytes": members_here * member + shared,
        "fitting_members": max(0, (limit - shared) // max(member, 1)) * num_parts,
        "iterations": config.num_iterations,
        "steps_per_iteration": population.steps_per_iteration,
    }


def _compiled(config: Any) -> dict[str, Any]:
    """Seconds of compiling the training of the members of one device, and XLA's plan of memory."""
    import jax
    import jax.numpy as jnp

    from purerl.training import loop

    population = config.population()
    state = jax.eval_shape(population.init, jax.random.key(0))
    begun = time.perf_counter()
    metrics = jax.eval_shape(lambda state: loop.no_metrics(population, state), state)
    program = loop.advance.lower(population, state, jnp.int32(1), metrics).compile()
    seconds = time.perf_counter() - begun
    analysis = program.memory_analysis()
    temporary = None if analysis is None else int(analysis.temp_size_in_bytes)
    return {"compile_seconds": round(seconds, 1), "temporary_bytes": temporary}


def _text(config: Any, plan: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {_size(size)}" for name, size in list(plan["parts"].items())[:5])
    together = plan["members_per_device"]
    groups = f"in {-(-together // plan['group'])} groups of {plan['group']}" if plan["group"] < together else "at once"
    fits = plan["needed_bytes"] <= plan["device_bytes"]
    lines = [
        f"{config.title}: {config.total_steps:,} steps per member in {plan['iterations']:,} iterations of "
        f"{plan['steps_per_iteration']:,}",
        f"state of a member: {_size(plan['member_bytes'])} ({parts})",
        f"members: {plan['members']} x {_size(plan['member_bytes'])} = "
        f"{_size(plan['members'] * plan['member_bytes'] + plan['shared_bytes'])}",
        f"layout: {plan['devices']} devices, {plan['processes']} processes, {plan['shards']} shards; {together} "
        f"members each, computed {groups}",
        f"memory: {_size(plan['needed_bytes'])} of {_size(plan['device_bytes'])} for the states"
        + ("" if fits else "; THIS DOES NOT FIT"),
        f"at most {plan['fitting_members']:,} members of this size fit, temporary memory aside",
    ]
    if "compile_seconds" in plan:
        temporary = "unknown" if plan["temporary_bytes"] is None else _size(plan["temporary_bytes"])
        lines.append(f"compiled in {plan['compile_seconds']} s; temporary memory {temporary}")
    return "\n".join(lines)


def _size(number: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
