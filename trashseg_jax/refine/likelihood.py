"""Temperature and bias of logits, those under which held-out labels are most likely."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

LOWEST, HIGHEST = 0.01, 100.0  # temperatures
STEPS = 50  # of Newton's method, which needs about six
ENOUGH = 1e-10  # of the gradient's largest entry
Matrix = Float[np.ndarray, "n k"]


class Fit(NamedTuple):
    temperature: float
    bias: Float[np.ndarray, "k"]


def fit(logits: Matrix, labels: Integer[np.ndarray, "n"], *, bias: bool) -> Fit:
    """Returns the maximum of the likelihood of softmax(logits / temperature + bias).

    Guo et al. 2017: temperature scaling, and with a `bias` by class what lies between that and
    their vector scaling. In 1 / temperature and bias the likelihood is concave, so Newton's method
    finds the one maximum. The bias of a class that no label has stays 0: it would go to minus
    infinity. The others sum to 0, as only their differences count.
    """
    logits = logits.astype(np.float64)
    num_classes = logits.shape[1]
    free = np.zeros(1 + num_classes, bool)
    free[0] = True
    if bias:
        free[1:] = np.bincount(labels, minlength=num_classes) > 0
    theta = np.array([1.0, *[0.0] * num_classes])
    loss = _loss(theta, logits, labels)
    for _ in range(STEPS):
        gradient, hessian = _derivatives(theta, logits, labels)
        if np.abs(gradient[free]).max() < ENOUGH:
            break
        step = np.zeros_like(theta)
        # Least squares: a constant added to all of the biases changes nothing.
        step[free] = np.linalg.lstsq(hessian[np.ix_(free, free)], gradient[free], rcond=1e-12)[0]
        theta, loss, moved = _search(theta, step, loss, logits, labels)
        if not moved:
            break
    theta[1:][free[1:]] -= theta[1:][free[1:]].mean() if free[1:].any() else 0.0
    return Fit(1 / theta[0], theta[1:])


def _search(theta, step, loss, logits, labels):
    """Halves Newton's step until it gains, within the range of temperatures."""
    for halvings in range(30):
        tried = theta - step / 2**halvings
        tried[0] = np.clip(tried[0], 1 / HIGHEST, 1 / LOWEST)
        if (reached := _loss(tried, logits, labels)) < loss:
            return tried, reached, True
    return theta, loss, False


def _loss(theta, logits, labels) -> float:
    """The mean negative log-likelihood."""
    log_p = log_softmax(logits * theta[0] + theta[1:])
    return float(-log_p[np.arange(len(labels)), labels].mean())


def _derivatives(theta, logits, labels):
    """The gradient and the Hessian of `_loss`, by 1 / temperature and the biases."""
    p = np.exp(log_softmax(logits * theta[0] + theta[1:]))
    count, num_classes = p.shape
    mean = (p * logits).sum(1)  # of an example's logits
    truth = logits[np.arange(count), labels]
    by_bias = p.mean(0) - np.bincount(labels, minlength=num_classes) / count
    gradient = np.array([(mean - truth).mean(), *by_bias])
    hessian = np.empty((1 + num_classes, 1 + num_classes))
    hessian[0, 0] = ((p * logits**2).sum(1) - mean**2).mean()
    hessian[0, 1:] = hessian[1:, 0] = (p * (logits - mean[:, None])).mean(0)
    hessian[1:, 1:] = np.diag(p.mean(0)) - p.T @ p / count
    return gradient, hessian


def log_softmax(logits: Matrix) -> Matrix:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
