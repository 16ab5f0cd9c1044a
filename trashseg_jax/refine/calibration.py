"""Logits whose probabilities can be believed: what the training did to them is taken back.

docs/calibration.md tells why and how. Imports neither TensorFlow nor Flax.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.errors import InputError, show
from trashseg_jax.rules import Number, OneOf, Rule

FILE = "calibration.json"  # in a run's folder
METHODS = ("temperature", "bias", "prior")
RAW = "raw"  # what calibrations are compared with
IMAGES = ("even", "odd", "all")
LEAST_REST = 1e-6  # of 1 - p: where the focal loss itself is clamped


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A map on logits, and the images that it was fitted on.

    The calibrated logits are (undone - strength * log_weight) / temperature + bias, `undone` being
    those that `undo_focal` returns. The methods leave out what they have no use for: "temperature"
    has that alone, "bias" both that are fitted by likelihood, "prior" all but the bias.
    """

    classes: tuple[str, ...]
    method: str  # of METHODS
    gamma: float  # of the focal loss that is undone; 0: of none
    log_weight: tuple[float, ...]  # see alphas.log_effective_weights
    strength: float
    temperature: float
    bias: tuple[float, ...]
    # What it was fitted on, of which images of a split (IMAGES), and the run's step.
    dataset: str
    split: str
    images: str
    num_images: int
    step: int

    def apply(self, logits: Float[Array, "*b k"]) -> Float[Array, "*b k"]:
        """Returns the calibrated logits, whose softmax are the probabilities."""
        undone = undo_focal(logits, gamma=self.gamma)
        moved = undone - self.strength * jnp.asarray(self.log_weight, jnp.float32)
        return moved / self.temperature + jnp.asarray(self.bias, jnp.float32)

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))  # which knows no tuples

    def digest(self) -> str:
        """Returns 16 hex digits of all that it is."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Returns what metrics.json says of it."""
        keys = ("method", "strength", "temperature", "dataset", "split", "images", "num_images")
        return {"digest": self.digest(), **{key: getattr(self, key) for key in keys}}


def calibrated(
    logits: Float[Array, "*b k"], calibration: Calibration | None
) -> Float[Array, "*b k"]:
    """Returns the logits as they are to be used: as they are, where there is no calibration."""
    return logits if calibration is None else calibration.apply(logits)


def undo_focal(logits: Float[Array, "*b k"], *, gamma: float) -> Float[Array, "*b k"]:
    """Returns logits of the posterior, of those that minimise the focal loss; it keeps their order.

    The minimiser q has q_y / phi(q_y) proportional to the (weighted) posterior, with
    phi(q) = (1 - q)^gamma - gamma (1 - q)^(gamma - 1) q log q (Charoenphakdee et al. 2021,
    theorem 11). Gamma 0 is cross-entropy, whose minimiser is the posterior.
    """
    logits = logits.astype(jnp.float32)
    if not gamma:
        return logits
    log_q = jax.nn.log_softmax(logits)
    rest = jnp.maximum(-jnp.expm1(log_q), LEAST_REST)  # 1 - q
    log_phi = gamma * jnp.log(rest) + jnp.log1p(-gamma * jnp.exp(log_q) * log_q / rest)
    return log_q - log_phi


def announce(calibration: Calibration, *, of: str) -> str:
    """Returns the line that says that a model's probabilities are calibrated."""
    found = calibration
    return (
        f"{of}: its probabilities are calibrated ({found.method}, strength {found.strength:.3g}, "
        f"temperature {found.temperature:.3g}, fitted on {found.num_images} images of "
        f"{found.dataset}/{found.split})"
    )


# What is stored.

WEIGHT = Number(at_least=-1000, at_most=1000)
RULES: dict[str, Rule] = {
    "method": OneOf(METHODS),
    "gamma": Number(at_least=0, at_most=20),
    "strength": Number(at_least=-10, at_most=10),
    "temperature": Number(above=0, at_most=1000),
    "images": OneOf(IMAGES),
    "num_images": Number(whole=True, at_least=1),
    "step": Number(whole=True, at_least=0),
}
BY_CLASS = ("log_weight", "bias")
TEXTS = ("dataset", "split")


def from_json(content: Any, *, path: Path, classes: Sequence[str]) -> Calibration:
    """Returns the calibration of a json object in the file `path`, for a model of these `classes`.

    Raises InputError, which names the file, for what is missing, unknown or out of its range, and
    for other classes or another order of them.
    """
    names = [field.name for field in dataclasses.fields(Calibration)]
    if not isinstance(content, dict) or sorted(content) != sorted(names):
        raise InputError(
            f"{path}: the calibration has {_keys(content)}; it must have {', '.join(names)}: "
            "calibrate the run again"
        )
    for key, rule in RULES.items():
        if not rule.holds(content[key]):
            raise _fault(path, key, content[key], rule.says)
    for key in TEXTS:
        if not isinstance(content[key], str):
            raise _fault(path, key, content[key], "text")
    for key in BY_CLASS:
        values = content[key]
        if not isinstance(values, list) or len(values) != len(classes):
            raise _fault(path, key, values, f"a list of {len(classes)} numbers, one a class")
        if not all(map(WEIGHT.holds, values)):
            raise _fault(path, key, values, f"a list of numbers, each {WEIGHT.says}")
    if content["classes"] != list(classes):
        raise InputError(
            f"{path}: was fitted for the classes {show(content['classes'])}, and the model has "
            f"{show(list(classes))}; they must be the same in the same order: calibrate again"
        )
    values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return Calibration(**values)


def read(path: Path, *, classes: Sequence[str]) -> Calibration:
    """Returns the calibration in a run's calibration.json; raises InputError as `from_json`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not json ({error}); calibrate the run again") from error
    found = content.get("calibration") if isinstance(content, dict) else content
    return from_json(found, path=path, classes=classes)


def of_run(workdir: Path, *, classes: Sequence[str], step: int) -> Calibration | None:
    """Returns the calibration of a run's weights after `step`; None where it was never calibrated.

    Raises InputError where it is that of another step, besides what `read` refuses.
    """
    path = workdir / FILE
    if not path.exists():
        return None
    found = read(path, classes=classes)
    if found.step != step:
        raise InputError(
            f"{path}: was fitted to the weights of step {found.step}, and these are of step "
            f"{step}; run --mode=calibrate again, or do without it (--config.eval.calibration="
            "False, of predict --nocalibration)"
        )
    return found


def _fault(path: Path, key: str, value: Any, says: str) -> InputError:
    return InputError(f"{path}: the calibration's {key!r} is {show(value)}; it must be {says}")


def _keys(content: Any) -> str:
    return ", ".join(sorted(map(str, content))) if isinstance(content, dict) else show(content)
