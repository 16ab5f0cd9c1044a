"""The convolutions of a training step, each compiled alone: what nothing around them makes faster.

What a step takes besides them is the price of all the rest.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
from jax.extend.core import subjaxprs

from bench.interleave import Trial
from bench.model import make_step, program_facts
from bench.options import Options
from trashseg_jax.devices.compiling import compiler_options

# jax.lax writes both gradients as convolutions of permuted arrays. By where a specification has
# the batch of the input, or the outputs of the kernel, in [b, h, w, c] and [r, s, c, f].
CHANNELS_AS_BATCH = 3
INPUTS_AS_OUTPUTS = 2


def forward(options: Options) -> Trial:
    return run_alone(options, "forward")


def input_gradients(options: Options) -> Trial:
    return run_alone(options, "input gradient")


def kernel_gradients(options: Options) -> Trial:
    return run_alone(options, "kernel gradient")


def run_alone(options: Options, kind: str) -> Trial:
    """Runs all of the step's convolutions of a kind, one after another, on random numbers.

    Layers of the same shapes share a program. Depthwise convolutions are none on CPUs.
    """
    step, arguments = make_step(options)
    jaxpr = step.trace(*arguments).jaxpr.jaxpr
    programs, counts, facts = {}, Counter(), Counter()
    for equation in find_convolutions(jaxpr):
        if kind_of(equation) != kind:
            continue
        shapes = [variable.aval for variable in equation.invars]
        name = str((equation.params, shapes))
        if name not in programs:
            programs[name] = prepare(equation, shapes)
        counts[name] += 1
        facts.update(program_facts(programs[name][0]))
    if not programs:
        raise SystemExit(f"{options.encoder}: the step has no {kind} of a convolution")

    def run(count: int) -> None:
        for _ in range(count):
            for name, (program, operands) in programs.items():
                for _ in range(counts[name]):
                    program(*operands).block_until_ready()

    return Trial(run, options.batch, facts)


def find_convolutions(jaxpr: Any) -> Iterator[Any]:
    """Yields the equations of a program and of those within it that are convolutions."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
    for inner in subjaxprs(jaxpr):
        yield from find_convolutions(inner)


def kind_of(equation: Any) -> str:
    specification = equation.params["dimension_numbers"]
    if specification.lhs_spec[0] == CHANNELS_AS_BATCH:
        return "kernel gradient"
    return "input gradient" if specification.rhs_spec[0] == INPUTS_AS_OUTPUTS else "forward"


def prepare(equation: Any, shapes: list[Any]) -> tuple[Any, list[jax.Array]]:
    """Returns a convolution, compiled as a run's programs are, and operands for it."""
    bound = partial(equation.primitive.bind, **equation.params)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    operands = [
        jax.random.normal(key, shape.shape, shape.dtype)
        for key, shape in zip(keys, shapes, strict=True)
    ]
    program = jax.jit(bound, compiler_options=compiler_options()).lower(*operands).compile()
    return program, operands
