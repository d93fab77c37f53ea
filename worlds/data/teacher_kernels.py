"""The compiled part of worlds/data/teacher.py: images from Philox words."""

from typing import Final

import numpy as np

from worlds.rng.compiled import compiled
from worlds.rng.kernels import word_rows
from worlds.rng.streams import TEACHER

_BLOCKS: Final = 256  # of four words; 4,092 of their bytes are used
# Of the octaves of 2, 4, 8, 16 and 32 cells, in 32nds.
_AMPLITUDES: Final = (9, 8, 5, 3, 1)


@compiled()
def fill_images(indices: np.ndarray, key: np.ndarray, out: np.ndarray) -> None:
    """Write the images of some indices (int64) to `out`, uint8 (B, 32, 32, 3)."""
    image, finer = np.zeros((32, 32, 3), np.int64), np.zeros((32, 32, 3), np.int64)
    noise = np.empty(16 * _BLOCKS, np.int64)
    for b in range(len(indices)):
        # The image's noise: signed bytes.
        words = word_rows(indices[b : b + 1], _BLOCKS, key, TEACHER, 0)[0]
        for k in range(len(noise)):
            noise[k] = np.int64((words[k >> 2] >> np.uint64(8 * (k & 3))) & np.uint64(255)) - 128
        # From 1 x 1 to 32 x 32 cells: enlarge what there is, and add finer noise.
        image[0, 0, :] = 0
        used, side = 0, 2
        for amplitude in _AMPLITUDES:
            for y in range(side):
                # The coarser image between its cells: 9, 3, 3 and 1 sixteenths of the nearest.
                near_y = y >> 1
                far_y = min(max(near_y + 2 * (y & 1) - 1, 0), (side >> 1) - 1)
                for x in range(side):
                    near_x = x >> 1
                    far_x = min(max(near_x + 2 * (x & 1) - 1, 0), (side >> 1) - 1)
                    gray = noise[used] + noise[used + 1] + noise[used + 2]
                    for c in range(3):
                        smooth = 9 * image[near_y, near_x, c] + 3 * image[far_y, near_x, c]
                        smooth += 3 * image[near_y, far_x, c] + image[far_y, far_x, c]
                        # Colors go together, as in photographs.
                        own = amplitude * (noise[used + c] + 2 * gray)
                        finer[y, x, c] = (smooth >> 4) + (own >> 5)
                    used += 3
            image, finer = finer, image
            side *= 2
        # To bytes around mid-gray.
        for y in range(32):
            for x in range(32):
                for c in range(3):
                    out[b, y, x, c] = min(max((3 * image[y, x, c] >> 2) + 128, 0), 255)
