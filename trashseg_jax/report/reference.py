"""The published figures of the six experiments that this project implements again."""

from trashseg_jax.data.taxonomy import CLASSES

# IoU of the classes in their order, on the 655 validation images of the competition's data set.
# fmt: off
IOU: dict[str, tuple[float, ...]] = {
    "reference U-Net":
        (.9472, .3215, .6834, .2977, .2478, .4147, .3806, .5683, .7865, 0., .2970),
    "focal":
        (.9411, .3232, .6823, .3066, .2617, .4105, .3398, .5991, .7805, 0., .3476),
    "focal, balanced alpha":
        (.9321, .3059, .6511, .2650, .2548, .3026, .3004, .5791, .7449, .6648, .2286),
    "dilated":
        (.9413, .3164, .6711, .1828, .3001, .3042, .3140, .6276, .7797, 0., .2567),
    "dilated, focal":
        (.9108, .2568, .5211, .1715, .2372, .3014, .2004, .3829, .6843, .4051, .2373),
    "CRF, focal, balanced alpha":
        (.8933, .2986, .5106, .2364, .1952, .3568, .2525, .5125, .6614, .2326, .1018),
}
# fmt: on
DATASET = "aistage"  # what config.data.name is for the same data set


def published(classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Returns each experiment's IoU by class, where the classes are the eleven, else nothing."""
    if classes != CLASSES:
        return {}
    return {title: dict(zip(CLASSES, iou, strict=True)) for title, iou in IOU.items()}
