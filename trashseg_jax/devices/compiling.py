"""What programs are compiled for, and options for XLA that make them faster."""

import functools

import jax

CPU_OPTIONS = {
    # Off: YNNPACK's convolutions, which are the default on CPUs, take about twice as long as
    # Eigen's for 64 channels and more, forward and for weight gradients (docs/benchmarks.md).
    "xla_cpu_experimental_ynn_fusion_type": "",
    # Updates the donated state in place; without it every array of it is copied first.
    "xla_cpu_copy_insertion_use_region_analysis": True,
}


def on_cpu() -> bool:
    """Says whether programs are compiled for CPUs, whose fast forms of some operations differ."""
    return jax.default_backend() == "cpu"


@functools.cache
def compiler_options() -> dict[str, str | bool]:
    """Returns what to pass to `jax.jit` as `compiler_options` on this backend."""
    if not on_cpu():
        return {}
    if _are_known(CPU_OPTIONS):  # all at once: each question is a program
        return dict(CPU_OPTIONS)
    return {name: value for name, value in CPU_OPTIONS.items() if _are_known({name: value})}


def _are_known(options: dict[str, str | bool]) -> bool:
    """Tells whether this release of XLA has the options: they come and go."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
