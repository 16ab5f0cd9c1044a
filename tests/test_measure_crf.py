"""The reference of docs/crf.md's accuracies against a brute force in one product."""

import measure_crf as script
import numpy as np
from fixtures_dense import OPTIONS, brute_force, scene


def test_exact_mean_field_is_the_brute_force_in_parts(monkeypatch):
    monkeypatch.setattr(script, "ROWS", 7)
    monkeypatch.setattr(script, "COLUMNS", 11)
    probs, image = scene(0)
    found = script.exact_marginals(probs, image, **OPTIONS)
    np.testing.assert_allclose(found, brute_force(probs, image, OPTIONS), atol=1e-6)


def test_figures_say_how_many_pixels_are_alike_and_how_far_q_is_off():
    exact = np.eye(2)[[[0, 0], [1, 1]]]
    q = np.eye(2)[[[0, 0], [1, 0]]]
    # IoU of the classes: 2/3 and 1/2; two of eight numbers are off by 1.
    assert script.describe([script.compare(q, exact)]) == "75.00 | 0.5000 | 0.583"
    # With a second image that is right throughout: 4/5 and 3/4; two of sixteen.
    both = [script.compare(q, exact), script.compare(exact, exact)]
    assert script.describe(both) == "87.50 | 0.3536 | 0.775"
