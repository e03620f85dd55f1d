"""``purerl diagnose``: diagnosis of gradients through an environment, with a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purerl.cli import flags
from purerl.cli.parser import Flag, Group, parse
from purerl.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from purerl.physics.diagnostics import Diagnosis

USAGE = "purerl diagnose ENVIRONMENT [flags]"

ABOUT = (
    "Compare gradients of the return through the dynamics with gradient estimates from returns alone, at growing "
    "horizons: a table, a picture, and the longest horizon at which gradients are neither biased nor mostly noise."
)

FLAGS = Group(
    "flags",
    [
        Flag(
            "horizons",
            "int",
            "horizons of the gradients in steps (default 1 2 4 8 ... 128, up to the time limit)",
            within="[1, inf)",
            many=True,
        ),
        Flag(
            "samples",
            "int",
            "pairs of perturbed rollouts per start state: more samples detect a smaller bias",
            512,
            "[8, inf)",
        ),
        Flag("starts", "int", "number of start states, each with its own random actions", 4, "[1, inf)"),
        Flag(
            "sigma",
            "float",
            "standard deviation of the perturbation, in units of half the range of an action",
            0.1,
            "(0, inf)",
        ),
        Flag("seed", "int", "random seed", 0, "[0, 4294967295]"),
        Flag("out", "str", "file of the picture", "gradients.png", metavar="PNG"),
    ],
)


def command(argv: Sequence[str]) -> int:
    """Run ``purerl diagnose`` with the words after it; returns the exit code."""
    words = list(argv)
    if not words or words[0].startswith("-"):
        if {"-h", "--help"} & set(words):
            parse(USAGE, f"{ABOUT}\nName an environment to see its options too.", [FLAGS], ["--help"])
        raise InputError("name an environment first, as in: purerl diagnose Pendulum-v1 (see purerl envs)")
    name = words.pop(0)
    from purerl.environments import environment_options, make, options_of

    options = {**environment_options(name), "differentiable": True}
    simulator = flags.env_group(name, options_of(name), options)
    given, _ = parse(USAGE, ABOUT, [FLAGS, simulator], words)
    values = {flag.name: given.get(flag.name, flag.default) for flag in FLAGS.flags}
    chosen = {"differentiable": True, **flags.given_in(simulator, given, flags.ENV_PREFIX)}
    out = Path(values["out"])
    if out.suffix.lower() != ".png":
        raise InputError(f"--out must name a .png file, got {out}")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: there is no directory {out.parent}")

    import jax

    from purerl.physics.diagnostics import check_actions, diagnose

    env = make(name, **chosen)
    check_actions(env)
    horizons = values["horizons"] or _default_horizons({**options, **chosen})
    starts, rollouts = values["starts"], 2 * values["samples"]
    print(
        f"{name}: {starts} starts, {rollouts:,} rollouts of {max(horizons)} steps from each; compiling comes first",
        flush=True,
    )
    diagnosis = diagnose(
        env,
        jax.random.key(values["seed"]),
        horizons=horizons,
        num_samples=values["samples"],
        sigma=values["sigma"],
        num_starts=starts,
    )
    _show(diagnosis)
    print(_conclusion(diagnosis))
    draw(diagnosis, name, out)
    print(out)
    return 0


def _default_horizons(options: Mapping[str, Any]) -> list[int]:
    """Horizons of the library up to the length of an episode."""
    from purerl.physics.diagnostics import HORIZONS

    limit = math.inf if options["episode_length"] is None else options["episode_length"] / options["action_repeat"]
    return [horizon for horizon in HORIZONS if horizon <= max(limit, 1)]


def _show(diagnosis: Diagnosis) -> None:
    """Print one row per horizon."""
    import numpy as np

    from purerl.cli.tables import Table

    headings = ["horizon", "steps", "gradient", "deviation", "roughness", "cosine", "bias", "interval", "biased"]
    table = Table([*headings, "growth", "not finite"])
    bias, interval = diagnosis.bias
    num_starts = len(diagnosis.growth)
    steps = np.mean(diagnosis.steps, axis=0)
    for i, horizon in enumerate(diagnosis.horizons):
        low, high = map(_number, interval[i])
        table.add(
            str(horizon),
            _number(steps[i]),
            _number(diagnosis.gradient_norm[i]),
            _number(diagnosis.relative_deviation[i]),
            _number(diagnosis.roughness[i]),
            _number(diagnosis.cosine[i]),
            _number(bias[i]),
            f"[{low}, {high}]",
            f"{diagnosis.num_biased[i]} of {num_starts}",
            _number(diagnosis.mean_growth[i]),
            f"{100 * diagnosis.nonfinite[i]:.3g} %",
        )
    table.show()
    print(
        "gradient: norm of the mean gradient; deviation: standard deviation of a single gradient / norm of the mean;\n"
        "roughness: size of the gradients / size that the variation of the returns suggests, largest over starts;\n"
        "cosine: between the mean gradient and the estimate from returns; bias: difference of the two at the start\n"
        "with the strongest evidence, with its interval; growth: exponent per step of a change of the state"
    )


def _conclusion(diagnosis: Diagnosis) -> str:
    """Recommended horizon and the reason, in one sentence."""
    horizons, obstacles, best = list(map(int, diagnosis.horizons)), diagnosis.obstacles, diagnosis.recommended_horizon
    if best is None:
        return f"No horizon is recommended: at {_steps(horizons[0])} {obstacles[0]}."
    if best == horizons[-1]:
        return f"Recommended horizon: {_steps(best)}, the longest one tested; no problem was found."
    onward = horizons.index(best) + 1
    return f"Recommended horizon: {_steps(best)}, because at {_steps(horizons[onward])} {obstacles[onward]}."


def _steps(number: int) -> str:
    return f"{number} step{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def draw(diagnosis: Diagnosis, title: str, out: Path) -> None:
    """Draw a diagnosis: norm and deviation of both gradients, their cosine, and the growth rate, against the horizon.

    Raises:
        InputError: if `out` cannot be written.
    """
    from purerl.cli.plot import picture

    with picture(out, 12.0, 3.8) as figure:
        _draw(diagnosis, figure)
        figure.suptitle(title)


def _draw(diagnosis: Diagnosis, figure: Figure) -> None:
    """Draw the three panels."""
    import numpy as np

    from purerl.cli.plot import COLORS

    size, angle, growth = figure.subplots(1, 3)
    horizons = diagnosis.horizons
    curves = (
        ("first order: norm", diagnosis.gradient_norm, COLORS[0], "-"),
        ("first order: deviation of one", diagnosis.deviation, COLORS[0], "--"),
        ("zeroth order: norm", diagnosis.zeroth_order_norm, COLORS[1], "-"),
        ("zeroth order: deviation of one pair", diagnosis.zeroth_order_deviation, COLORS[1], "--"),
    )
    for label, values, color, line in curves:
        size.plot(
            horizons, np.where(values > 0, values, np.nan), line, marker="o", markersize=3, color=color, label=label
        )
    size.set_yscale("log")
    size.set_title("gradient of the return")

    angle.plot(horizons, diagnosis.cosine, marker="o", markersize=3, color=COLORS[0], label="cosine")
    biased = diagnosis.num_biased > 0
    if biased.any():
        heights = np.nan_to_num(diagnosis.cosine[biased])
        angle.plot(horizons[biased], heights, "X", markersize=9, color=COLORS[1], label="biased")
    angle.set_ylim(-1.1, 1.1)
    angle.set_title("first against zeroth order")

    growth.plot(horizons, diagnosis.growth.T, color=COLORS[2], alpha=0.35, linewidth=0.8)
    growth.plot(horizons, diagnosis.mean_growth, marker="o", markersize=3, color=COLORS[2], label="mean over starts")
    growth.axhline(0.0, color="black", linewidth=0.6)
    growth.set_title("growth of the Jacobian")
    growth.set_ylabel("exponent per step")

    for axes in (size, angle, growth):
        _finish(axes, diagnosis)


def _finish(axes: Axes, diagnosis: Diagnosis) -> None:
    """Axes, grid and legend of a panel."""
    axes.set_xscale("log", base=2)
    axes.set_xticks([int(horizon) for horizon in diagnosis.horizons], [str(horizon) for horizon in diagnosis.horizons])
    axes.minorticks_off()
    axes.set_xlabel("horizon (steps)")
    if diagnosis.recommended_horizon is not None:
        axes.axvline(diagnosis.recommended_horizon, color="black", linestyle=":", label="recommended")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
