"""The devices of a run, as its flags ask for them."""

from __future__ import annotations

from typing import Any

from purerl.cli.config import RunConfig
from purerl.errors import InputError


def of(config: RunConfig) -> list[Any]:
    """Devices that a run trains on.

    Raises:
        InputError: if there are not so many, or members and shards cannot be divided among them.
    """
    import jax

    from purerl.training import placement

    text, there = config.devices, jax.devices()
    if jax.process_count() > 1:
        # A process whose devices have nothing to do would not take part in the program.
        possible = placement.possible(config.num_members, config.shards, len(there))
        if text not in ("all", str(len(there))) or len(there) not in possible:
            raise InputError(
                f"all {len(there)} devices of the {jax.process_count()} processes must share {config.num_members} "
                f"members of {config.shards} shards each, which can be divided among {', '.join(map(str, possible))}"
            )
        return there
    if text == "all":
        return there[: placement.possible(config.num_members, config.shards, len(there))[-1]]
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--devices must be a whole number in [1, inf) or all, got {text!r}")
    number = int(text)
    if number > 1 and config.processes > 1:
        raise InputError("give either --devices or --processes, not both")
    if number > len(there):
        processes = f": use --processes {number} for several cores of a CPU" if there[0].platform == "cpu" else ""
        raise InputError(
            f"--devices {number} is more than JAX finds here, {len(there)} ({there[0].platform}){processes}"
        )
    possible = placement.possible(config.num_members, config.shards, number)
    if number not in possible:
        members = f"{config.num_members} members of {config.shards} shards each"
        raise InputError(
            f"--devices {number} cannot share {members} equally: possible are {', '.join(map(str, possible))}"
        )
    return there[:number]
