"""Which image comes at which place of the training stream: a pure function of seed and place.

Nothing is stored, so a resumed run needs only its step, and any number of hosts sees one stream.
"""

from functools import lru_cache

import numpy as np


def uniform_index(position: int, *, seed: int, size: int) -> int:
    """Returns the record, of `size`, at `position`: each epoch is a new permutation of all."""
    epoch, offset = divmod(position, size)
    return int(permutation(seed, epoch, size)[offset])


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order of an epoch, int64 [size], from Philox keyed by seed and epoch."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(size)
