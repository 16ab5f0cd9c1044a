"""What is tried: a calibration or none, a CRF or none; and where better ones are looked for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trashseg_jax.configs.ranges import RANGES
from trashseg_jax.refine.calibration import Calibration
from trashseg_jax.settings import Config

CRF = (
    *("iterations", "gaussian_sxy", "gaussian_compat"),
    *("bilateral_sxy", "bilateral_srgb", "bilateral_compat"),
)
# A reach is the config's times a power of this. In steps, as on the device another reach, and
# another size of tiles, is another program to compile.
REACH_STEP = 2**0.5
REACH_STEPS = 4  # either way
FACTORS = {"srgb": (1 / 4, 4.0), "compat": (1 / 16, 4.0)}  # times the config's
STRENGTHS = (0.0, 1.5)
TEMPERATURES = (0.25, 4.0)
DIGITS = 3  # that a value is given to


@dataclasses.dataclass(frozen=True)
class Candidate:
    """How log-probabilities become classes."""

    calibrated: bool = False
    strength: float = 0.0
    temperature: float = 1.0
    crf: Mapping[str, Any] | None = None  # of CRF; None: none

    def calibration(self, prior: Calibration, *, images: str, count: int) -> Calibration | None:
        """Returns what a run would be given, said to be fitted on these; None for none."""
        if not self.calibrated:
            return None
        return dataclasses.replace(
            prior,
            strength=self.strength,
            temperature=self.temperature,
            images=images,
            num_images=count,
        )

    def describe(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


RAW = Candidate()


class Space(NamedTuple):
    """The candidates around a config's CRF, named by parameters.

    Without `calibrations` none is calibrated; `weights` says whether a strength changes anything.
    """

    crf: dict[str, Any]  # the config's own
    calibrations: bool
    weights: bool
    temperatures: tuple[float, float]

    def suggest(self, trial: Any) -> None:
        """Asks an optuna trial for all parameters of a candidate."""
        if self.calibrations and trial.suggest_categorical("calibrated", [False, True]):
            if self.weights:
                trial.suggest_float("strength", *STRENGTHS)
            trial.suggest_float("temperature", *self.temperatures, log=True)
        if not trial.suggest_categorical("crf", [False, True]):
            return
        trial.suggest_int("iterations", 1, max(self.crf["iterations"], 2))
        for term, keys in self._terms().items():
            trial.suggest_int(f"{term}_reach", -REACH_STEPS, REACH_STEPS)
            for key in keys:
                low, high = FACTORS[key.rpartition("_")[2]]
                trial.suggest_float(key, low * self.crf[key], high * self.crf[key], log=True)

    def _terms(self) -> dict[str, list[str]]:
        """Returns the terms that the config does not leave out, with what varies continuously."""
        keys = {
            "gaussian": ["gaussian_compat"],
            "bilateral": ["bilateral_srgb", "bilateral_compat"],
        }
        return {term: found for term, found in keys.items() if self.crf[f"{term}_compat"]}

    def candidate(self, params: Mapping[str, Any]) -> Candidate:
        """Returns what parameters stand for."""
        calibrated = params.get("calibrated", False)
        given = {key: rounded(params[key]) for key in ("strength", "temperature") if key in params}
        crf = self._crf(params) if params["crf"] else None
        return Candidate(calibrated, **given, crf=crf)

    def _crf(self, params: Mapping[str, Any]) -> dict[str, Any]:
        found = {**self.crf, "iterations": params["iterations"]}
        for term, keys in self._terms().items():
            reach = f"{term}_sxy"
            found[reach] = within(reach, self.crf[reach] * REACH_STEP ** params[f"{term}_reach"])
            found |= {key: within(key, params[key]) for key in keys}
        return found

    def first(self, fitted: Calibration | None) -> list[dict[str, Any]]:
        """Returns the parameters that are tried first: raw, calibrated, the config's CRF."""
        off = {"calibrated": False} if self.calibrations else {}
        reaches = {f"{term}_reach": 0 for term in self._terms()}
        own = {key: self.crf[key] for keys in self._terms().values() for key in keys}
        crf = {"crf": True, "iterations": self.crf["iterations"], **reaches, **own}
        raw, default = {**off, "crf": False}, {**off, **crf}
        if fitted is None:
            return [raw, default]
        on = {"calibrated": True, "temperature": fitted.temperature}
        on |= {"strength": fitted.strength} if self.weights else {}
        return [raw, {**on, "crf": False}, default, {**on, **crf}]


def make_space(config: Config, fitted: Sequence[Calibration], *, weights: bool) -> Space:
    """Returns the space around a config's CRF and, where any are `fitted`, its calibrations.

    Temperatures reach as far as those that were fitted by likelihood; `weights` says whether a
    strength changes anything.
    """
    asked = [*TEMPERATURES, *(one.temperature for one in fitted)]
    return Space(
        crf={key: config.crf[key] for key in CRF},
        calibrations=len(fitted) > 0,
        weights=weights,
        temperatures=(min(asked), max(asked)),
    )


def within(key: str, value: float) -> float:
    """Returns a value of `config.crf`, rounded, as near as its range allows."""
    rule: Any = RANGES[f"crf.{key}"]
    return rounded(min(max(value, rule.at_least), rule.at_most))


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
