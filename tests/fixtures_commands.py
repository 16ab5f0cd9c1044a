"""Command lines in the tests' own process, where the tiny encoder is."""

import sys

from absl import flags

from trashseg_jax import export, main, predict, train


def train_two_steps(config, folder):
    """Trains a tiny run, and returns its folder."""
    config.train.update({"steps": 2, "eval_every": 2, "checkpoint_every": 2})
    config.optimizer.warmup_steps = 1
    train.train(config, folder)
    return folder


def _forget(module):
    """Makes a command's flags those of a new process."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    for source in ("trashseg_jax.main", module):
        for flag in flags.FLAGS.get_flags_for_module(source):
            flag.unparse()


def _call(monkeypatch, module, command, arguments, parse=main.parse_flags):
    argv = [module, "--nocompilation_cache", *map(str, arguments)]
    _forget(module)
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for overrides
    try:
        parse(argv)
        return command(argv)
    finally:
        _forget(module)


def evaluate(monkeypatch, *arguments):
    """`python -m trashseg_jax.main --mode=evaluate`."""
    return _call(monkeypatch, "trashseg_jax.main", main.main, ["--mode=evaluate", *arguments])


def calibrate(monkeypatch, *arguments):
    """`python -m trashseg_jax.main --mode=calibrate`."""
    return _call(monkeypatch, "trashseg_jax.main", main.main, ["--mode=calibrate", *arguments])


def predict_files(monkeypatch, *arguments):
    """`python -m trashseg_jax.predict`; returns the exit code."""
    return _call(monkeypatch, "trashseg_jax.predict", predict.main, arguments)


def export_folder(monkeypatch, *arguments):
    """`python -m trashseg_jax.export`."""
    return _call(monkeypatch, "trashseg_jax.export", export.main, arguments, parse=export.parse)


def tune_crf(monkeypatch, *arguments):
    """`python scripts/tune_crf.py`."""
    import tune_crf as script

    return _call(monkeypatch, "tune_crf", script.main, arguments)
