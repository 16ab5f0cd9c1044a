"""What would spoil a training or its figures unseen: splits without labels, images in both."""

from typing import TYPE_CHECKING

from trashseg_jax.errors import InputError

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared
    from trashseg_jax.data.training_sets import TrainingSets

SHOWN = 10  # file names that a line names


def check_training(data: "Prepared", *, folder: str, allow_overlap: bool) -> None:
    """Raises InputError for a training split that teaches nothing, or that holds the other one.

    `folder` is the data set's, for the message.
    """
    where, pixels = folder, data.counts("train")[0].sum(0)
    if not pixels.any():
        raise InputError(
            f"{where}: the training split has no labelled pixel, all are ignored; check the "
            "annotations, and what config.data.class_map makes of their categories"
        )
    if not pixels[1:].any():
        raise InputError(
            f"{where}: no pixel of the training split is of another class than "
            f"{data.classes[0]}; check the annotations, and what config.data.class_map makes of "
            "their categories"
        )
    for part, whole in (("val", "train"), ("train", "val")):
        held = {digest for _, digest in data.images(whole)}
        # Of a share that is held out of one list, copies under other names are a warning's matter.
        refused = not (allow_overlap or data.held_out)
        if refused and all(digest in held for _, digest in data.images(part)):
            raise InputError(
                f"{where}: all {len(data.images(part))} images of {part} are in {whole} as well "
                f"({_names(shared_images(data, data))}), so the scores would be those of memorised "
                f"images; name another config.data.{part}_file, name one file as both to hold "
                "out a share of it, or pass --config.data.allow_overlap=True"
            )


def check_mixed(sets: "TrainingSets", *, allow_overlap: bool) -> None:
    """Raises InputError where sets that are mixed in teach nothing, or hold all of validation.

    Unlike a share that is held out, validation has no excuse to be in another data set.
    """
    digests = {digest for _, digest in sets.main.images("val")}
    own = {digest for _, digest in sets.main.images("train")}
    seen = own.copy()
    for one in sets.mixed_in:
        if not one.data.counts("train")[0].any():
            raise InputError(
                f"config.data.mix, {one.name}: has no labelled pixel, all are ignored; check its "
                "annotations and its class map"
            )
        new = {digest for _, digest in one.data.images("train")}
        seen |= new
        within = "all its images are validation images" if new <= digests else ""
        if digests <= seen and not digests <= own:
            within = "with it, all validation images are trained on"
        if within and not allow_overlap:
            raise InputError(
                f"config.data.mix, {one.name}: {within} "
                f"({_names(shared_images(sets.main, one.data))}), so the scores would be those of "
                "memorised images; leave it or these images out, or pass "
                "--config.data.allow_overlap=True"
            )


def find_mixed_warnings(sets: "TrainingSets") -> list[str]:
    """Returns a line for each set that is mixed in and shows no object, or validation images."""
    lines = []
    for one in sets.mixed_in:
        if not one.data.counts("train")[0][:, 1:].any():
            lines.append(
                f"{one.name}, which is mixed in, has no pixel of another class than "
                f"{sets.classes[0]}: is it annotated?"
            )
        if shared := shared_images(sets.main, one.data):
            count = len(sets.main.images("val"))
            lines.append(
                f"{len(shared)} of {count} validation images are training images of {one.name}, "
                f"which is mixed in: {_names(shared)}"
            )
    return lines


def find_warnings(data: "Prepared", *, split: str) -> list[str]:
    """Returns a line for each thing that is doubtful about the figures of `split`.

    Raises InputError where there is nothing to score.
    """
    pixels = data.counts(split)[0].sum(0)
    if not pixels.any():
        raise InputError(
            f"{data.builder.data_path}: split {split!r} has no labelled pixel, all are ignored; "
            "there is nothing to score: check its annotations, or pass another --config.eval.split"
        )
    lines = []
    if not pixels[1:].any():
        lines.append(
            f"split {split!r} has no pixel of another class than {data.classes[0]}: is it "
            "annotated? Its figures say nothing of the other classes"
        )
    if "train" in data.splits and (shared := shared_images(data, data)):
        count = len(data.images("val"))
        lines.append(
            f"{len(shared)} of {count} validation images are training images as well: "
            f"{_names(shared)}"
        )
    return lines


def shared_images(data: "Prepared", trained_on: "Prepared") -> list[tuple[str, str]]:
    """Returns the file names, in training and in validation, of images of the same bytes.

    Validation is that of `data`, training that of `trained_on`, which may be the same.
    """
    trained = {digest: name for name, digest in trained_on.images("train")}
    return [(trained[digest], name) for name, digest in data.images("val") if digest in trained]


def _names(shared: list[tuple[str, str]]) -> str:
    names = [val if train == val else f"{val} (train: {train})" for train, val in shared[:SHOWN]]
    more = len(shared) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
