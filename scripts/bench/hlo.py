"""What the text of a compiled program (HLO) tells of its operations."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "u64": 8}
WORKSPACE = "s8[33554432]"  # of cuBLAS, which it hardly touches
NO_WORK = ("parameter", "get-tuple-element", "tuple", "constant", "bitcast")
LINE = re.compile(r"^ +(?:ROOT )?%(\S+) = (.*?) ([\w-]+)\((.*)$", re.MULTILINE)
TRIP_COUNT = r'"known_trip_count":\{"n":"(\d+)"'
OTHER_COLLECTIVES = r" (all-gather|all-to-all|collective-permute|reduce-scatter)\("


class Operation(NamedTuple):
    kind: str  # HLO's, or the library's function
    moved: int  # bytes of its operands and of its result
    source: str  # the path of JAX functions and Flax modules


def operations(program: str) -> Iterator[Operation]:
    """Yields the operations of the entry computation; those of a loop's body as often as it runs.

    What a loop carries from one round to the next is not moved.
    """
    bodies = re.findall(r"^(ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL)
    computations = {name: body for _, name, body in bodies}
    (entry,) = (name for is_entry, name, _ in bodies if is_entry)
    yield from _operations(entry, computations)


def _operations(computation: str, computations: dict[str, str]) -> Iterator[Operation]:
    sizes: dict[str, int] = {}
    for line in LINE.finditer(computations[computation]):
        name, result, kind, rest = line.groups()
        sizes[name] = num_bytes(result)
        if kind == "while":
            body, rounds = re.search(r"body=%([\w.-]+)", rest), re.search(TRIP_COUNT, rest)
            if body is None or rounds is None:
                raise ValueError(f"the loop %{name} does not tell how often it runs")
            for one in _operations(body[1], computations):
                yield one._replace(moved=one.moved * int(rounds[1]))
        elif kind not in NO_WORK:
            operands = re.findall(r"%([\w.-]+)", rest.partition(")")[0])
            moved = sizes[name] + sum(sizes[operand] for operand in operands)
            function = re.search(r'custom_call_target="__([^"]*)"', rest)
            source = re.search(r'op_name="([^"]*)"', rest)
            yield Operation(function[1] if function else kind, moved, source[1] if source else "")


def all_reduces(program: str) -> list[int]:
    """Returns the bytes of the result of each all-reduce; refuses other kinds of collectives."""
    if other := re.search(OTHER_COLLECTIVES, program):
        raise ValueError(f"the program has a {other[1]}, which is not counted here")
    return [num_bytes(r) for r in re.findall(r" = (\S.*?) all-reduce(?:-start)?\(", program)]


def num_bytes(shapes: str) -> int:
    """Returns the bytes of all arrays in a type such as `(f32[8,4]{1,0}, u8[])`."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes.replace(WORKSPACE, ""))
    return sum(
        SIZES[dtype] * int(np.prod([int(side) for side in sides.split(",") if side]))
        for dtype, sides in arrays
    )
