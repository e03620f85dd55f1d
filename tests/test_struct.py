"""Frozen dataclasses as pytrees, and the checks on their fields."""

import dataclasses
import enum
import math
import pydoc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import purerl
from purerl import struct
from purerl.description import describe
from purerl.errors import InputError
from purerl.types import Scalar


@struct.dataclass
class Point:
    x: Any
    y: Any = 2.0
    name: str = struct.field(default="p", static=True)


@struct.dataclass
class Checked:
    rate: float = struct.field(default=0.5, within="[0, 1]")
    count: int = struct.field(default=4, static=True, within="[1, inf)")
    open: float = struct.field(default=0.5, within="(0, 1)")
    limit: "float | None" = struct.field(default=None, within="(0, inf]")
    flag: bool = struct.field(default=True, static=True)
    anything: Any = None

    def __post_init__(self) -> None:
        struct.check_fields(self)


@struct.dataclass
class Documented:
    """Of a test."""

    rate: "Scalar | None" = struct.field(
        default=None, help="step size, with a meaning so long that it needs another line", within="[0, inf)"
    )
    count: int = dataclasses.field(kw_only=True, metadata={"help": "how many"})
    anything: Any = Point(1)


def test_leaves_are_dynamic_fields_in_order_and_static_ones_are_structure():
    leaves, structure = jax.tree.flatten(Point(1.0, jnp.zeros(2)))
    assert leaves[0] == 1.0
    assert leaves[1].shape == (2,)
    assert len(leaves) == 2
    assert structure == jax.tree.structure(Point(5, 6))
    assert structure != jax.tree.structure(Point(5, 6, name="q"))
    assert jax.tree.unflatten(structure, [3, 4]) == Point(3, 4)


class Colour(enum.Enum):
    RED = 1


@struct.dataclass
class Named:
    """Has a representation of its own."""

    x: Any = 1

    def __repr__(self) -> str:
        return "its own"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        ("it's", '"it\'s"'),
        (np.float32(0.5), "np.float32(0.5)"),
        (jnp.float32(0.1), "float32(0.1)"),
        (np.zeros((4, 2), np.uint8), "uint8[4, 2]"),
        (jax.ShapeDtypeStruct((), np.int32), "int32[]"),
        (jax.random.key(0), "key<fry>[]"),
        (jax.random.split(jax.random.key(0)), "key<fry>[2]"),
        (jnp.tanh, "tanh"),
        (Point, "Point"),
        (Colour.RED, "Colour.RED"),
        ((), "()"),
        ((1,), "(1,)"),
        ([1, (2, None)], "[1, (2, None)]"),
        ({"a": jnp.zeros(3), 1: {}}, "{'a': float32[3], 1: {}}"),
        (jax.tree_util.Partial(max, jnp.zeros(2), key=abs), "Partial(max, float32[2], key=abs)"),
        (optax.EmptyState(), "EmptyState()"),
        (optax.TraceState({"w": jnp.zeros(1)}), "TraceState(trace={'w': float32[1]})"),
        (Point(Named(), y=jnp.zeros(0)), "Point(x=its own, y=float32[0], name='p')"),
        (purerl.MLP((8,)), "MLP(hidden_sizes=(8,), activation=tanh, layer_norm=False, name=None)"),
    ],
)
def test_descriptions_abbreviate_arrays_and_functions_only(value, text):
    assert describe(value) == text


def test_long_representations_are_indented_and_no_line_is_wide():
    tree = {"weights": [jnp.zeros((i, 7)) for i in range(20)], "point": Point(Point(1.0, name="n" * 50), name="m" * 40)}
    text = repr(Point(tree))
    assert text.startswith("Point(\n    x={\n        'weights': [\n            float32[0, 7], float32[1, 7], ")
    assert all(f"float32[{i}, 7]" in text for i in range(20))
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) == 15


def test_representations_of_tracers_and_of_deleted_arrays():
    shown = []
    jax.jit(lambda point: shown.append(repr(point)))(Point(jnp.zeros(3), jnp.float32(1.0)))
    deleted = jnp.float32(1.0)
    deleted.delete()
    assert [*shown, repr(Point(deleted))] == [
        "Point(x=float32[3], y=float32[], name='p')",
        "Point(x=float32[], y=2.0, name='p')",
    ]


def test_agents_and_states_fit_a_screen():
    agent = purerl.PPO(env=purerl.make("CartPole-v1"))
    assert len(repr(agent).splitlines()) <= 25
    assert len(repr(jax.eval_shape(agent.init, jax.random.key(0))).splitlines()) <= 80


def test_docstrings_list_the_fields():
    assert struct.dataclass(type("Plain", (), {"__doc__": "Plain."})).__doc__ == "Plain."
    assert Documented.__doc__ == (
        """Of a test.

Attributes:
    rate (number, schedule or None): step size, with a meaning so long that it needs another line
        (default None; range [0, inf))
    count (int): how many (required)
    anything (Any): see its class (default Point(x=1, y=2.0, name='p'))"""
    )
    text = pydoc.render_doc(purerl.PPO, renderer=pydoc.plaintext)
    assert "     num_envs (int): environments stepped side by side (default 4; range [1, inf))\n" in text


def test_static_fields_decide_what_is_compiled_and_leaves_do_not():
    traces = []

    @jax.jit
    def total(point):
        traces.append(point.name)
        return point.x + point.y

    assert [total(Point(1.0, 2.0)), total(Point(5.0, 2.0)), total(Point(1.0, 1.0, "q"))] == [3.0, 7.0, 2.0]
    assert traces == ["p", "q"]


def test_paths_name_the_fields():
    paths = [
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path({"a": Point(1, Point(2, 3))})
    ]
    assert paths == ["['a'].x", "['a'].y.x", "['a'].y.y"]


def test_fields_cannot_be_assigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Point(1.0).x = 2.0


def test_rebuilding_from_leaves_runs_no_checks():
    """JAX puts axis numbers, None, tracers and sentinels where numbers were."""
    node = Checked()
    out_of_range = jax.tree.map(lambda x: x + 7.0, node)
    assert (out_of_range.rate, out_of_range.count) == (7.5, 4)
    assert jax.tree.map(lambda _: "sentinel", node).rate == "sentinel"
    assert jax.tree.map(lambda _: None, node).open is None
    members = jax.tree.map(lambda x: jnp.full(3, x), node)
    axes = jax.tree.map(lambda _: 0, node)
    np.testing.assert_array_equal(jax.vmap(lambda c: c.rate + c.open, in_axes=(axes,))(members), np.ones(3))


def test_none_is_structure():
    assert jax.tree.structure(Checked(limit=None)) != jax.tree.structure(Checked(limit=1.0))


def test_replace_returns_a_checked_copy():
    node = Checked()
    assert (struct.replace(node, rate=0.25).rate, node.rate) == (0.25, 0.5)
    with pytest.raises(InputError, match=r"rate must lie in \[0, 1\], got 2.0"):
        struct.replace(node, rate=2.0)


@pytest.mark.parametrize(
    "good",
    [
        {"rate": 0},
        {"rate": 0.0},
        {"rate": 1.0},
        {"rate": np.float32(0.3)},
        {"rate": jnp.array([0.0, 0.5, 1.0])},
        {"rate": jnp.bfloat16(0.5)},
        {"count": 1},
        {"count": np.int64(10**6)},
        {"open": 1e-9},
        {"limit": 3},
        {"limit": math.inf},
        {"flag": False},
        {"flag": np.bool_(True)},
        {"anything": "anything"},
    ],
)
def test_values_inside_pass(good):
    ((name, value),) = good.items()
    np.testing.assert_array_equal(getattr(Checked(**good), name), value)


@pytest.mark.parametrize("one", [1, 1.0, np.int64(1), np.float64(1.0), np.array(1)])
def test_numbers_in_fields_of_floats_are_floats_however_they_are_written(one):
    assert type(Checked(rate=one).rate) is float
    assert Checked(rate=np.array([one, one])).rate.dtype == np.float32
    assert Checked(rate=jnp.array([one, one])).rate.dtype == jnp.float32


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rate": -1e-9}, r"rate must lie in \[0, 1\], got -1e-09"),
        ({"rate": 1.1}, r"rate must lie in \[0, 1\]"),
        ({"rate": math.nan}, r"rate must lie in \[0, 1\]"),
        ({"rate": math.inf}, r"rate must lie in \[0, 1\]"),
        ({"rate": jnp.array([0.5, 1.5])}, r"rate must lie in \[0, 1\]"),
        ({"rate": np.array([0.5, np.nan])}, r"rate must lie in \[0, 1\]"),
        ({"rate": "0.5"}, "rate must be a number, got '0.5'"),
        ({"rate": None}, "rate must be a number, got None"),
        ({"rate": True}, "rate must be a number, got True"),
        ({"rate": [[0.5], [0.5, 0.5]]}, "rate must be a number"),
        ({"rate": 0.5 + 0j}, "rate must be a number"),
        ({"open": 0.0}, r"open must lie in \(0, 1\)"),
        ({"open": 1.0}, r"open must lie in \(0, 1\)"),
        ({"count": 0}, r"count must lie in \[1, inf\), got 0"),
        ({"count": 2.0}, "count must be a whole number, got 2.0"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"count": None}, "count must be a whole number, got None"),
        ({"limit": 0.0}, r"limit must lie in \(0, inf\]"),
        ({"limit": -math.inf}, r"limit must lie in \(0, inf\]"),
        ({"limit": math.nan}, r"limit must lie in \(0, inf\]"),
        ({"limit": 1e40}, r"limit must be at most 3.4028235e\+38, got 1e\+40"),
        ({"limit": 10**400}, "limit must be at most"),
        ({"limit": 1e-40}, r"limit must lie in \(0, inf\], got 1e-40"),  # 0 on a device
        ({"open": 1.0 - 1e-12}, r"open must lie in \(0, 1\)"),
        ({"count": 2**31}, "count must be at most 2147483647, got 2147483648"),
        ({"count": np.array([1, 2**31])}, r"count must be at most 2147483647, got \[1, 2147483648\]"),
        ({"count": 10**30}, "count must be at most 2147483647"),
        ({"flag": 1}, "flag must be true or false, got 1"),
        ({"flag": "yes"}, "flag must be true or false, got 'yes'"),
        ({"flag": None}, "flag must be true or false, got None"),
    ],
)
def test_values_outside_are_input_errors(bad, message):
    with pytest.raises(InputError, match=message):
        Checked(**bad)


def test_an_open_infinite_end_excludes_infinity():
    struct.check_value("x", 1e30, "float", "[0, inf)")
    with pytest.raises(InputError):
        struct.check_value("x", math.inf, "float", "[0, inf)")


def test_annotations_count_whether_written_as_types_or_strings():
    for annotation in (int, "int", int | None, "int | None"):
        with pytest.raises(InputError, match="whole number"):
            struct.check_value("n", 1.5, annotation, "")
    for annotation in (int | None, "int | None"):
        struct.check_value("n", None, annotation, "[1, 2]")


@pytest.mark.parametrize("written", ["Scalar", "types.Scalar", "purerl.types.Scalar", Scalar])
def test_a_scalar_is_one_however_its_annotation_is_written(written):
    """Also in a module without postponed annotations, as users write them."""
    optional = f"{written} | None" if isinstance(written, str) else written | None
    made = dataclasses.make_dataclass("Made", [("rate", written), ("maybe", optional)])
    assert all(map(struct.is_scalar, dataclasses.fields(made)))
    struct.check_value("maybe", None, optional, "[0, 1]")
    for annotation in (written, optional):
        with pytest.raises(InputError, match=r"rate must lie in \[0, 1\], got 2"):
            struct.check_value("rate", 2.0, annotation, "[0, 1]")
    with pytest.raises(InputError, match="rate must be a number or a schedule, got None"):
        struct.check_value("rate", None, written, "[0, 1]")


def test_tracers_pass_the_checks_and_no_recompile_follows():
    traces = []

    @jax.jit
    def build(rate):
        traces.append(rate)
        return Checked(rate=rate).rate * 2.0

    assert build(0.25) == 0.5
    assert build(9.0) == 18.0  # has no value while tracing, so cannot be refused
    assert len(traces) == 1
    np.testing.assert_array_equal(jax.vmap(lambda r: Checked(rate=r).rate)(jnp.arange(3.0)), jnp.arange(3.0))


def test_axes_of_shards_follow_the_declarations():
    @struct.dataclass
    class Memory:
        rows: jax.Array
        position: jax.Array = struct.field(shared=True)

    @struct.dataclass
    class State:
        key: jax.Array
        memory: Memory = struct.field(per_shard=True)
        params: dict

    key = jax.random.key(0)
    axes = struct.shard_axes(State(key, Memory(jnp.zeros(3), jnp.int32(0)), {"w": jnp.zeros(2)}), own=1, equal=-1)
    assert axes == State(1, Memory(1, -1), {"w": -1})
