"""Variance and bias of gradient estimators, each against a known exact gradient, as a picture and tables.

Left: variance for ``E cos(k x)``, ``x ~ N(1, 1)``, with respect to the mean, against the frequency k (a function of
Mohamed et al. 2020, section 3). Middle: variance for a function of a categorical choice, against the constant that is
added to it. Right: bias and standard deviation of Gumbel-softmax against the temperature. Bands are 95 % intervals.

Usage: python scripts/gradient_estimators.py --out docs/estimators.png
"""

import argparse
from functools import partial
from pathlib import Path

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from purerl import estimators  # noqa: E402
from purerl.cli.plot import COLORS, picture  # noqa: E402
from purerl.math.distributions import Categorical, Gaussian  # noqa: E402

NUM_SAMPLES = 32
LOGITS = jnp.array([0.3, -0.5, 1.0, 0.0])
TARGET = jnp.array([0.9, -0.4, 0.2, 1.3])
FREQUENCIES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
OFFSETS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
TEMPERATURES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
UNBIASED = {
    "score function": estimators.score_function,
    "antithetic score function": partial(estimators.score_function, antithetic=True),
    "leave one out": estimators.leave_one_out,
    "optimal baseline": estimators.optimal_baseline,
}

Rows = dict[str, list[estimators.Measurement]]


def quartic(offset, x):
    return offset + jnp.sum((x - TARGET) ** 4)


def against_frequency(key, num_estimates, frequencies) -> Rows:
    rows: Rows = {}
    for k in frequencies:
        found = estimators.compare(
            {**UNBIASED, "pathwise": estimators.pathwise},
            key,
            lambda mean: Gaussian(mean, jnp.zeros(1)),
            lambda x, k=k: jnp.cos(k * x[0]),
            jnp.ones(1),
            NUM_SAMPLES,
            exact=jnp.array([-k * np.exp(-0.5 * k**2) * np.sin(k)]),
            num_estimates=num_estimates,
        )
        for name, one in found.items():
            rows.setdefault(name, []).append(one)
    return rows


def against_offset(key, num_estimates, offsets) -> Rows:
    rows: Rows = {}
    for offset in offsets:
        f = partial(quartic, offset)
        found = estimators.compare(UNBIASED, key, Categorical, f, LOGITS, NUM_SAMPLES, num_estimates=num_estimates)
        for name, one in found.items():
            rows.setdefault(name, []).append(one)
    return rows


def against_temperature(key, num_estimates, temperatures) -> Rows:
    def measure(estimator):
        f = partial(quartic, 0.0)
        return estimators.measure(estimator, key, Categorical, f, LOGITS, NUM_SAMPLES, num_estimates=num_estimates)

    relaxed = [measure(partial(estimators.gumbel_softmax, temperature=t)) for t in temperatures]
    return {"Gumbel-softmax": relaxed, "straight-through": [measure(estimators.straight_through)]}


def table(title: str, heading: str, positions, rows: Rows) -> None:
    print(f"\n{title}\n\n| estimator | {heading} | variance | 95 % interval | bias | 95 % interval |")
    print("|---|---:|---:|---|---:|---|")
    for name, row in rows.items():
        for position, one in zip([""] if name == "straight-through" else positions, row, strict=True):
            variance = " to ".join(f"{bound:.3g}" for bound in one.variance_interval)
            bias = " to ".join(f"{bound:.2g}" for bound in one.bias_interval)
            print(f"| {name} | {position} | {one.variance:.3g} | {variance} | {one.bias:.2g} | {bias} |")


def draw(frequency: Rows, offset: Rows, temperature: Rows, out: Path) -> None:
    colors = dict(zip([*UNBIASED, "pathwise"], COLORS, strict=False))
    with picture(out, 8.0, 2.8) as figure:
        left, middle, right = figure.subplots(1, 3)
        for axes, positions, rows in ((left, FREQUENCIES, frequency), (middle, OFFSETS, offset)):
            positions = positions[: len(rows["leave one out"])]
            for name, row in rows.items():
                bounds = np.array([one.variance_interval for one in row]).T
                axes.plot(positions, [one.variance for one in row], "o-", markersize=3, color=colors[name], label=name)
                axes.fill_between(positions, *bounds, color=colors[name], alpha=0.2, linewidth=0)
            axes.set_yscale("log")
            axes.set_ylabel("variance")
        left.set_xscale("log", base=2)
        left.set_xlabel("frequency k")
        left.set_title("cos(k x), x normal", fontsize="medium")
        left.legend(frameon=False, fontsize="x-small", loc="lower right", borderaxespad=0.0)
        middle.set_xscale("symlog", linthresh=1.0)
        middle.set_xlim(left=-0.2)
        middle.set_xlabel("constant added to f")
        middle.set_title("f of a categorical choice", fontsize="medium")
        relaxed = temperature["Gumbel-softmax"]
        positions = TEMPERATURES[: len(relaxed)]
        bias = np.abs([one.bias for one in relaxed])
        bounds = np.sort(np.abs([one.bias_interval for one in relaxed]), axis=1).T
        right.plot(positions, bias, "o-", markersize=3, color=COLORS[0], label="Gumbel-softmax, bias")
        right.fill_between(positions, *bounds, color=COLORS[0], alpha=0.2, linewidth=0)
        deviation = np.sqrt([one.variance for one in relaxed])
        right.plot(positions, deviation, "o-", markersize=3, color=COLORS[1], label="Gumbel-softmax, deviation")
        (hard,) = temperature["straight-through"]
        right.axhline(abs(hard.bias), color=COLORS[2], linestyle="--", label="straight-through, bias")
        right.axhline(np.sqrt(hard.variance), color=COLORS[3], linestyle="--", label="straight-through, deviation")
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xlabel("temperature")
        right.set_ylabel("bias and deviation")
        right.set_title("relaxed samples", fontsize="medium")
        right.set_ylim(bottom=1e-3)
        right.legend(frameon=False, fontsize="x-small", loc="lower left", borderaxespad=0.0)
        for axes in (left, middle, right):
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-estimates", type=int, default=4000, help="independent estimates of each measurement")
    parser.add_argument("--points", type=int, default=6, help="measurements along each axis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("estimators.png"))
    args = parser.parse_args()
    key = jax.random.key(args.seed)
    frequencies, offsets, temperatures = (axis[: args.points] for axis in (FREQUENCIES, OFFSETS, TEMPERATURES))
    frequency = against_frequency(key, args.num_estimates, frequencies)
    table("cos(k x), x ~ N(1, 1)", "k", frequencies, frequency)
    offset = against_offset(key, args.num_estimates, offsets)
    table("constant + sum (x - t)^4, x one-hot", "constant", offsets, offset)
    temperature = against_temperature(key, args.num_estimates, temperatures)
    table("sum (x - t)^4, x relaxed", "temperature", temperatures, temperature)
    draw(frequency, offset, temperature, args.out)
    print(f"\n{args.out}")


if __name__ == "__main__":
    main()
