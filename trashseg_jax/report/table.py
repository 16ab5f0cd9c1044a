"""A run's figures as text: the table for the terminal, and the cells that the page shares."""

from functools import partial
from typing import Any

from trashseg_jax.refine.calibration import RAW

CELL = len("+0.0000")
RARE = 4  # classes whose scores by strength are shown: those whose weight is the largest
SUMMARY = {
    "miou": "mIoU",
    "miou_common": "mIoU, common",
    "miou_per_image": "mIoU per image",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixel acc.",
}
BOUNDARY = {"miou": "boundary_miou"}

# Of a calibration's figures, what has a row.
CALIBRATION = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel acc.",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "ECE",
    "static_ece": "static ECE",
}

# The kinds of `records.Label.notes`.
NOTES = {
    "crowds_as_class": "crowds (iscrowd), painted as their class",
    "crowds_ignored": "crowds (iscrowd), ignored in loss and metrics",
    "boxes_ignored": "boxes without an outline, ignored in loss and metrics",
    "empty": "annotations without a pixel in their image, left out",
    "copies": "annotations that repeat another one, left out",
    "left_out_parts": "parts of annotations with fewer than three points, left out",
    "clipped": "annotations that reached outside their image, clipped",
    "encoded_again": "JPEGs that TensorFlow can't decode, encoded again",
}


def format_table(figures: dict[str, Any]) -> str:
    """Returns metrics.json's figures as a table for the terminal."""
    width = max(map(len, [*figures["iou"], *SUMMARY.values()]))
    titles = score_titles(figures)
    columns = partial(_columns, titles)
    lines = [f"{'class':<{width}}{columns(titles)}  share of pixels"]
    for name, value in figures["iou"].items():
        cells = columns(class_scores(figures, name))
        share = figures["pixel_share"][name]
        note = "" if value != 0 else "  never hit" if share else "  not in the truth"
        lines.append(f"{name:<{width}}{cells}  {share:8.2%}{note}")
    for key, name in SUMMARY.items():
        lines.append(f"{name:<{width}}{columns(total_scores(figures, key))}".rstrip())
    if interval := figures["miou_interval"]:
        lines.append("95 % of resamples of the images: mIoU {:.4f} to {:.4f}".format(*interval))
    lines.append(
        f"{figures['dataset']}/{figures['split']}: {figures['num_images']} images, "
        f"{describe_weights(figures)}, loss {format_number(figures['loss'])}"
    )
    lines.append(describe_scoring(figures))
    return "\n".join([*lines, *data_notes(figures)])


def _columns(titles: list[str], cells: list[str]) -> str:
    both = zip(titles, cells, strict=True)
    return "".join(f"  {cell:>{max(len(title), CELL)}}" for title, cell in both)


def describe_weights(figures: dict[str, Any]) -> str:
    """Returns which weights were scored: a run's step, or models by their folders' names."""
    names = [model["name"] for model in figures.get("models", [])]
    if len(names) > 1:
        return f"the mean of {', '.join(names[:-1])} and {names[-1]}"
    return f"model {names[0]}" if names else f"step {figures['step']}"


def describe_scoring(figures: dict[str, Any]) -> str:
    """Returns which pixels were counted, how the network saw them, and what was done behind it."""
    scored = [figures, *figures.get("models", [])]
    calibrated = any("calibration" in one for one in scored)
    engine = figures.get("crf", {}).get("engine")  # which runs of earlier versions have not
    return (
        _describe_pixels(figures)
        + (", calibrated" if calibrated else "")
        + (f", CRF by {engine}" if engine else "")
    )


def _describe_pixels(figures: dict[str, Any]) -> str:
    if figures["resolution"] == "scaled":
        return f"pixels of images scaled to {figures['image_size']}"
    shown = {"fit": "scaled to", "tile": "in windows of"}[figures["scale"]]
    factor = figures.get("tile_scale", 1.0)  # which runs of earlier versions have not
    scaled = f" at {factor:g} of their scale" if factor != 1 else ""
    views = f", views: {figures['tta']}" if figures["tta"] else ""
    several = figures.get("models", [])[1:]  # the first one's size is the figures'
    sizes = dict.fromkeys([figures["image_size"], *(model["image_size"] for model in several)])
    seen = f"{shown} {' and '.join(map(str, sizes))}{scaled}{views}"
    return f"pixels of the photographs at their own size, {seen}"


def format_balance(derived: dict[str, Any]) -> str:
    """Returns config.json's `derived` as a table for the terminal."""
    alpha, priors, shares = derived["alpha"], derived["priors"], derived["image_shares"]
    width = max(len(name) for name in alpha)
    objects = derived.get("paste_objects", {})
    title = "  objects to paste" if objects else ""
    lines = [f"{'class':<{width}}  {'alpha':>9}  images with it  as drawn  pixels as drawn{title}"]
    for name, value in alpha.items():
        before, after = shares["before"][name], shares["after"][name]
        cell = f"  {objects[name]:16}" if objects else ""
        line = f"{name:<{width}}  {value:9.4g}  {before:14.1%}  {after:8.1%}"
        lines.append(f"{line}  {priors[name]:15.2%}{cell}")
    for one in derived.get("mix", []):
        images, share = f"{one['images']} training images", f"{one['share']:.1%} of those drawn"
        lines.append(f"{one['name']}: {images}, {share}")
    return "\n".join(lines)


def format_calibration(report: dict[str, Any]) -> str:
    """Returns calibration.json's figures as a table for the terminal: a column a method."""
    columns, fitted = report["two_fold"], report["calibration"]
    width = max(map(len, [*fitted["classes"], *CALIBRATION.values()]))
    head = "".join(f"  {name:>11}" for name in columns)
    lines = [f"{'IoU':<{width}}{head}"]
    for name in fitted["classes"]:
        values = [one["iou"][name] for one in columns.values()]
        cells = ["absent" if v is None else f"{v:.4f}" for v in values]
        lines.append(f"{name:<{width}}" + "".join(f"  {cell:>11}" for cell in cells))
    for key, name in CALIBRATION.items():
        cells = "".join(f"  {one[key]:>11.4f}" for one in columns.values())
        lines.append(f"{name:<{width}}{cells}")
    lines += _strength_rows(report, width)
    gain = columns[fitted["method"]]["gain_interval"]
    if gain:
        lines.append(
            "mIoU is over the classes in the truth here\n"
            f"{fitted['method']}: 95 % of resamples of the images change the mIoU by "
            "{:+.4f} to {:+.4f}".format(*gain)
        )
    lines.append(
        f"{fitted['dataset']}/{fitted['split']}, step {fitted['step']}: {report['num_images']} "
        f"images scaled to {report['image_size']}, each calibrated by what was fitted on the "
        "other half of them"
    )
    raw, kept = columns[RAW]["iou"], columns[fitted["method"]]["iou"]
    if lost := [name for name in fitted["classes"] if raw[name] and kept[name] == 0]:
        lines.append(f"{fitted['method']} loses what raw hit: {', '.join(lost)}")
    given = " (given)" if report["strength_given"] else ""
    lines.append(
        f"kept: {fitted['method']}, fitted on {fitted['num_images']} images "
        f"({fitted['images']}), strength {fitted['strength']:.3g}{given}, temperature "
        f"{fitted['temperature']:.3g}"
    )
    return "\n".join(lines)


def most_weighed(fitted: dict[str, Any]) -> list[str]:
    """Returns the few classes that the training raised most, which are the rare ones."""
    weights = dict(zip(fitted["classes"], fitted["log_weight"], strict=True))
    return sorted(weights, key=weights.__getitem__, reverse=True)[:RARE]


def _strength_rows(report: dict[str, Any], width: int) -> list[str]:
    """Returns every other point of the curve: what each strength makes of the rare classes."""
    curve, fitted = report["curve"], report["calibration"]
    rows = {"mIoU": curve["miou"], **{name: curve["iou"][name] for name in most_weighed(fitted)}}
    cells = {"prior's strength": [f"{strength:g}" for strength in curve["strength"]]}
    for name, values in rows.items():
        cells[name] = ["absent" if value is None else f"{value:.4f}" for value in values]
    width = max(width, *map(len, cells))
    lines = [
        "".join([f"{name:<{width}}", *(f"  {cell:>6}" for cell in row[::2])])
        for name, row in cells.items()
    ]
    where = f"these are of the {fitted['num_images']} images that it is fitted on"
    return ["", *lines, f"{where}; calibration.png has all strengths", ""]


def data_notes(figures: dict[str, Any]) -> list[str]:
    """Returns lines on what is doubtful, left out, read otherwise or not refined, if any."""
    return [*left_out(figures), *read_otherwise(figures), *not_refined(figures)]


def left_out(figures: dict[str, Any]) -> list[str]:
    """Returns lines on what is doubtful in the data, and on what was left out."""
    lines = [f"warning: {line}" for line in figures["warnings"]]
    if updates := figures["skipped_updates"]:
        lines.append(f"updates left out as not finite: {updates} of {figures['step']}")
    skipped = figures["skipped"]
    return [*lines, f"skipped as bad: {len(skipped)}", *skipped] if skipped else lines


def read_otherwise(figures: dict[str, Any]) -> list[str]:
    """Returns lines on annotations and images that were not read as they are."""
    notes = figures["data_notes"]
    return [f"{text}: {notes[kind]}" for kind, text in NOTES.items() if kind in notes]


def not_refined(figures: dict[str, Any]) -> list[str]:
    """Returns lines on the images that the CRF failed for."""
    failed = figures.get("crf", {}).get("failed", [])
    if not failed:
        return []
    lines = [f"image {image['id']}: {image['reason']}" for image in failed]
    return [f"the CRF failed, so that these count as predicted: {len(failed)}", *lines]


def score_titles(figures: dict[str, Any]) -> list[str]:
    refined = ["CRF", "change"] if "crf" in figures else []
    near = ["boundary", *refined] if _has_boundary(figures) else []
    return ["IoU", *refined, *near]


def class_scores(figures: dict[str, Any], name: str) -> list[str]:
    """Returns a class's IoU and, where a CRF ran, the refined one and the difference.

    The same of its boundary IoU follows, where that was counted.
    """
    cells = []
    for key in ("iou", "boundary_iou") if _has_boundary(figures) else ("iou",):
        both = [part[key][name] for part in _raw_and_refined(figures)]
        cells += ["absent" if v is None else f"{v:.4f}" for v in both] + _change(both)
    return cells


def total_scores(figures: dict[str, Any], key: str) -> list[str]:
    """Returns the same of one of SUMMARY; of the mIoU alone there is one along the boundaries."""
    cells = []
    for one in (key, BOUNDARY.get(key)) if _has_boundary(figures) else (key,):
        parts = _raw_and_refined(figures)
        both = [part[one] for part in parts] if one else []
        cells += [format_number(v) for v in both] + _change(both)
    return cells + [""] * (len(score_titles(figures)) - len(cells))


def _has_boundary(figures: dict[str, Any]) -> bool:
    return "boundary_iou" in figures  # runs of earlier versions have none


def _raw_and_refined(figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [figures, figures["crf"]] if "crf" in figures else [figures]


def _change(scores: list[float | None]) -> list[str]:
    """Returns the second less the first, if there are two; a class may be absent in one."""
    if len(scores) < 2:
        return []
    raw, refined = scores
    return ["" if raw is None or refined is None else f"{refined - raw:+.4f}"]


def format_number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
