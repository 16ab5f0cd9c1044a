"""Mean field against a brute force over all pairs of pixels; the pool; its place in evaluation.

A whole evaluation with the CRF is in test_train.py.
"""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from trashseg_jax import build, crf, evaluate, train
from trashseg_jax.errors import InputError

OPTIONS = {
    "iterations": 2,
    "gaussian_sxy": 3.0,
    "gaussian_compat": 1.0,
    "bilateral_sxy": 4.0,
    "bilateral_srgb": 13.0,
    "bilateral_compat": 2.0,
}
WITHOUT_TERMS = OPTIONS | {"gaussian_compat": 0.0, "bilateral_compat": 0.0}
needs_pydensecrf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None,
    reason="pydensecrf2 is not installed (see requirements.txt)",
)


def scene(seed, height=6, width=5):
    """Noisy predictions of three classes over two regions of different grey."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), (height, width)).astype(np.float32)
    grey = np.where(np.arange(width)[:, None] < width // 2, 50, 180)
    image = (grey + rng.integers(0, 20, (height, width, 3))).astype(np.uint8)
    return probs, image


def brute_force(probs, image, options):
    """Algorithm 1 of Krähenbühl & Koltun with every pair of pixels, a pixel with itself too.

    Each kernel is D^-1/2 K D^-1/2 with D its row sums: pydensecrf's default, NORMALIZE_SYMMETRIC.
    """
    height, width, classes = probs.shape
    place = np.mgrid[:height, :width].reshape(2, -1).T.astype(float)
    color = image.reshape(-1, 3) / options["bilateral_srgb"]

    def kernel(features):
        k = np.exp(-((features[:, None] - features) ** 2).sum(-1) / 2)
        return k / np.sqrt(np.outer(k.sum(1), k.sum(1)))

    near = kernel(place / options["gaussian_sxy"])
    alike = kernel(np.concatenate([place / options["bilateral_sxy"], color], 1))
    pairwise = options["gaussian_compat"] * near + options["bilateral_compat"] * alike
    p = probs.reshape(-1, classes).astype(float)
    q = p
    for _ in range(options["iterations"]):
        q = p * np.exp(pairwise @ q)
        q /= q.sum(1, keepdims=True)
    return q.reshape(probs.shape)


@needs_pydensecrf
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({}, 0.035), ({"gaussian_compat": 0.0}, 0.035), ({"bilateral_compat": 0.0}, 0.006)],
)
@pytest.mark.parametrize("seed", range(4))
def test_marginals_are_the_brute_forces_within_the_lattices_error(seed, changes, tolerance):
    """pydensecrf filters approximately, on a permutohedral lattice: 0.030 in Q was measured here,
    0.004 with the Gaussian alone.

    In the brute force with both terms, other deviations, weights, a term or an iteration less
    gave 0.047 to 0.3.
    """
    options = OPTIONS | changes
    probs, image = scene(seed)
    expected = brute_force(probs, image, options)
    np.testing.assert_allclose(crf.marginals(probs, image, **options), expected, atol=tolerance)
    best = np.sort(expected, -1)
    clear = best[..., -1] - best[..., -2] > 2 * tolerance
    assert clear.mean() > 0.7
    refined = crf.refine(probs, image, **options)
    np.testing.assert_array_equal(refined[clear], expected.argmax(-1)[clear])


@needs_pydensecrf
def test_uniform_probabilities_stay_uniform():
    _, image = scene(0)
    uniform = np.full((6, 5, 4), 0.25, np.float32)
    np.testing.assert_allclose(crf.marginals(uniform, image, **OPTIONS), 0.25, atol=1e-6)


@needs_pydensecrf
def test_without_terms_the_probabilities_stay():
    probs, image = scene(1)
    actual = crf.marginals(probs, image, **WITHOUT_TERMS)
    np.testing.assert_allclose(actual, probs, atol=1e-5)  # clipped at 1e-5
    np.testing.assert_array_equal(
        crf.refine(probs, image, **WITHOUT_TERMS), probs.argmax(-1).astype(np.uint8)
    )


@needs_pydensecrf
def test_wrong_pixels_inside_a_region_of_one_colour_are_repaired():
    truth = np.repeat([[0, 1]], [12, 12], axis=1).repeat(24, axis=0)
    image = np.where(truth[..., None] == 0, [200, 40, 40], [40, 40, 200]).astype(np.uint8)
    wrong = np.random.default_rng(0).random(truth.shape) < 0.1
    probs = np.eye(3, dtype=np.float32)[np.where(wrong, 2, truth)] * 0.7 + 0.1
    assert np.any(probs.argmax(-1) != truth)
    options = OPTIONS | {"iterations": 5, "bilateral_compat": 5.0}
    np.testing.assert_array_equal(crf.refine(probs, image, **options), truth)


@needs_pydensecrf
def test_read_only_and_strided_arrays_are_taken_and_left_alone():
    probs, image = scene(2, 8, 10)
    probs.flags.writeable = image.flags.writeable = False
    before = image.copy()
    part = crf.refine(probs[1:7, 2:9], image[1:7, 2:9], **OPTIONS)
    expected = crf.refine(probs[1:7, 2:9].copy(), image[1:7, 2:9].copy(), **OPTIONS)
    np.testing.assert_array_equal(part, expected)
    np.testing.assert_array_equal(image, before)


@needs_pydensecrf
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_pool_gives_each_image_its_own_result(workers):
    """More images than may be pending, of different sizes."""
    scenes = [scene(seed, 6 + seed, 9) for seed in range(7)]
    with crf.CrfPool(workers, OPTIONS) as pool:
        futures = [pool.submit(*pair) for pair in scenes]
        results = [future.result() for future in futures]
        if pool._executor:
            loaded = "{'jax', 'tensorflow'} & set(__import__('sys').modules)"
            assert pool._executor.submit(eval, loaded).result() == set()
    for pair, result in zip(scenes, results, strict=True):
        np.testing.assert_array_equal(result, crf.refine(*pair, **OPTIONS))


@needs_pydensecrf
def test_worker_errors_reach_the_caller():
    with crf.CrfPool(1, OPTIONS | {"iterations": "many"}) as pool:
        future = pool.submit(*scene(0))
        with pytest.raises(TypeError):
            future.result()


def test_all_cores_are_the_default():
    pool = crf.CrfPool(-1, OPTIONS)
    assert pool._workers == crf.num_cores() >= 1


def test_module_that_workers_import_is_light():
    """What a spawned process imports for its task: this module."""
    code = "import sys, trashseg_jax.crf; print(*{'jax', 'tensorflow', 'flax'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert loaded.stdout.strip() == b""


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("workers", -2, "config.crf.workers=-2: must be 0 or more"),
        ("iterations", 0, "config.crf.iterations=0: must be positive"),
        ("bilateral_srgb", 0.0, "config.crf.bilateral_srgb=0.0: must be positive"),
        ("gaussian_compat", -1.0, "config.crf.gaussian_compat=-1.0: must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(tiny_config, key, value, line):
    config = tiny_config()
    config.crf[key] = value
    with pytest.raises(InputError, match=line):
        build.build_crf(config)


def test_missing_package_is_told_before_training(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)  # its import fails
    config = tiny_config()
    config.crf.enabled = True
    with pytest.raises(InputError, match="pip install pydensecrf2") as caught:
        train.train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class Immediate(crf.CrfPool):
    """Remembers what it was given and answers class 1 everywhere."""

    def __init__(self):
        super().__init__(0, OPTIONS)
        self.given = []

    def submit(self, probs, image):
        self.given.append((probs, image))
        future = crf.Future()
        future.set_result(np.ones(probs.shape[:2], np.uint8))
        return future


def scored_batches(count):
    """Batches of two 8x8 images with content of 5x8 pixels, the last one's second row a filler."""
    import jax.numpy as jnp

    for i in range(count):
        label = np.full((2, 8, 8), 255, np.uint8)
        label[:, :5] = 1
        yield {
            "id": np.array([2 * i, 2 * i + 1]),
            "image": np.full((2, 8, 8, 3), i, np.uint8),
            "label": label,
            "mask": np.array([True, i < count - 1]),
            "size": np.array([[5, 8], [5, 8]], np.int32),
            "probs": jnp.full((2, 8, 8, 3), i, jnp.float32),
        }


def test_padding_and_filling_rows_are_not_refined_and_count_nowhere():
    pool = Immediate()
    refined = list(evaluate.refine_batches(scored_batches(3), pool, num_classes=3))
    assert [batch["id"].tolist() for batch in refined] == [[0, 1], [2, 3], [4, 5]]
    assert [image[0, 0, 0] for _, image in pool.given] == [0, 0, 1, 1, 2]
    assert {probs.shape for probs, _ in pool.given} == {(5, 8, 3)}
    assert [int(batch["refined_confusion"][:, 1, 1].sum()) for batch in refined[:2]] == [80, 80]
    assert refined[2]["refined"].sum() == 40
    assert "probs" not in refined[0]


def test_batch_is_handed_out_after_the_next_one_went_in():
    pool = Immediate()
    refined = evaluate.refine_batches(scored_batches(3), pool, num_classes=3)
    counts = [len(pool.given) for _ in refined]
    assert counts == [4, 5, 5]
