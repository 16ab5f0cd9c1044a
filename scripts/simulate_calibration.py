"""What the prior correction does where the posterior is known: a table of IoU over its strength.

    python scripts/simulate_calibration.py [--gamma=2]

Classes are Gaussians in the plane, as common as those of the Recycle Trash data; pixels are drawn
from them, so p(y | x) is known. In place of a network there is what minimises the loss exactly:
focal loss (gamma 0: cross-entropy) with the reference's "balanced alpha".
"""

import argparse

import jax.numpy as jnp
import numpy as np

from trashseg_jax import metrics
from trashseg_jax.refine import calibration
from trashseg_jax.refine.likelihood import log_softmax

NAMES = ("Background", "Paper", "Plastic", "General", "Styrofoam", "Glass", "Battery")
SHARES = np.array([0.70, 0.21, 0.03, 0.022, 0.015, 0.008, 0.0005])
ALPHA = np.array([1.0, 1.0, 3.0, 3.0, 7.0, 15.0, 148.0])
STRENGTHS = (0.0, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.2)
RADIUS, SPREAD = 2.2, 1.0  # of the circle on which the classes lie, and of each of them
COUNT = 200_000


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log posterior [n, k] of pixels, and their classes."""
    priors = SHARES / SHARES.sum()
    # The background in the middle, the others around it, alternately common and rare.
    angles = np.linspace(0, 2 * np.pi, len(priors) - 1, endpoint=False)
    centres = np.vstack([[0, 0], RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)])
    labels = rng.choice(len(priors), COUNT, p=priors)
    x = centres[labels] + SPREAD * rng.normal(size=(COUNT, 2))
    squares = ((x[:, None] - centres) ** 2).sum(-1) / SPREAD**2
    return log_softmax(np.log(priors) - squares / 2), labels


def minimiser(log_posterior: np.ndarray, *, gamma: float) -> np.ndarray:
    """Returns the logits [n, k] that minimise the weighted focal loss's expectation.

    By its first-order condition: with phi as in `calibration.undo_focal`, q_c / phi(q_c) is
    c's weighted posterior times a number, which is found by halving so that the q sum to 1.
    """
    log_odds = np.linspace(-40, 40, 20_001)
    log_q, rest = -np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)
    ratio = -gamma * log_q * np.exp(log_q - rest)
    log_h = log_q - gamma * rest - np.log1p(ratio)  # of q / phi(q); it rises with q
    weighted = log_posterior + np.log(ALPHA)
    low, high = np.full((len(weighted), 1), -300.0), np.full((len(weighted), 1), 300.0)
    for _ in range(60):
        middle = (low + high) / 2
        q = np.interp(weighted + middle, log_h, log_q)
        too_much = np.exp(q).sum(1, keepdims=True) > 1
        low, high = np.where(too_much, low, middle), np.where(too_much, middle, high)
    return np.interp(weighted + low, log_h, log_q)


def scores(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found = logits.argmax(1).astype(np.uint8)[None, None]
    given = labels.astype(np.uint8)[None, None]
    return metrics.iou(metrics.count_confusion(given, found, num_classes=len(NAMES))[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gamma", type=float, default=2.0)
    gamma = parser.parse_args().gamma
    log_posterior, labels = draw(np.random.default_rng(0))
    logits = minimiser(log_posterior, gamma=gamma)
    undone = np.asarray(calibration.undo_focal(jnp.asarray(logits), gamma=gamma))
    back = log_softmax(undone - np.log(ALPHA))
    print(f"gamma {gamma:g}; largest error of the posterior that comes back: ", end="")
    print(f"{np.abs(np.exp(back) - np.exp(log_posterior)).max():.1e}")
    for said, start in {"logits as they are": logits, "focal loss undone": undone}.items():
        print(f"\n{said}\n{'strength':>8}  {'mIoU':>6}  " + "  ".join(f"{n:>10}" for n in NAMES))
        for strength in STRENGTHS:
            found = scores(start - strength * np.log(ALPHA), labels)
            cells = "  ".join(f"{v:10.3f}" for v in found)
            print(f"{strength:8.1f}  {found.mean():6.3f}  {cells}")
    found = scores(log_posterior, labels)
    print(f"\nthe posterior itself: mIoU {found.mean():.3f}")


if __name__ == "__main__":
    main()
