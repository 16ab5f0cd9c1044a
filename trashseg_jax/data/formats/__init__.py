"""The formats of data sets that can be read: a module each, which gives the same records.

Worker processes import this package: it needs neither jax nor tensorflow.
"""

from collections.abc import Callable

from trashseg_jax.data.formats import coco, masks
from trashseg_jax.data.records import DataFolder, Splits

# What config.data.format may be. A reader raises InputError for what is wrong with the data.
FORMATS: dict[str, Callable[[DataFolder], Splits]] = {
    "coco": coco.read_splits,
    "masks": masks.read_splits,
}
