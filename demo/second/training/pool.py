"""Pictures and latents that are drawn once and kept in a file: training never waits for drawing.

Scene i of a pool is a pure function of the pool's seed and i, so the scenes themselves are not
stored. A pool grows while others read it: `<name>.json` says how many entries are ready.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from demo.second import scenes

picture_shape = (scenes.size_px, scenes.size_px, 3)
training_seed = 1
held_out_seed = 20_260_102
picture_room = 20_000
latent_room = 100_000
_part = 64


def scene_at(index: int, seed: int = training_seed) -> scenes.Scene:
    """Scene `index` of the endless row of scenes that belongs to `seed`."""
    return scenes.random_scene(np.random.default_rng([seed, index]))


def picture_at(index: int, seed: int = training_seed) -> np.ndarray:
    """Its picture as (128, 128, 3) uint8."""
    return (scenes.render(scene_at(index, seed)) * 255.0 + 0.5).astype(np.uint8)


class Pool:
    """An array file with room for many entries of which the first `ready` hold data."""

    def __init__(self, folder: Path, name: str) -> None:
        self.array_path = folder / f"{name}.npy"
        self.count_path = folder / f"{name}.json"
        self._entries: np.ndarray | None = None

    @property
    def ready(self) -> int:
        """Entries that can be read now."""
        if not self.count_path.is_file():
            return 0
        return int(json.loads(self.count_path.read_text())["ready"])

    @property
    def entries(self) -> np.ndarray:
        """(size, ...) memory map, read only."""
        if self._entries is None:
            self._entries = np.load(self.array_path, mmap_mode="r")
        return self._entries

    def fill(
        self,
        room: int,
        shape: tuple[int, ...],
        dtype: type,
        make: Callable[[range], np.ndarray],
        size: int | None = None,
    ) -> None:
        """Make the entries that are missing, in parts.

        Args:
            room: entries of the file, if it is made now.
            shape: of one entry.
            make: entries (n, *shape) of a range of indices.
            size: stop at so many entries; at the file's end if None.
        """
        if not self.array_path.is_file():
            np.lib.format.open_memmap(
                self.array_path, mode="w+", dtype=dtype, shape=(room, *shape)
            ).flush()
            self._say(0)
        array = np.load(self.array_path, mmap_mode="r+")
        end = len(array) if size is None else min(size, len(array))
        for start in range(self.ready, end, _part):
            stop = min(start + _part, end)
            array[start:stop] = make(range(start, stop))
            array.flush()
            self._say(stop)

    def _say(self, ready: int) -> None:
        part = self.count_path.with_suffix(".part")
        part.write_text(json.dumps({"ready": ready}))
        os.replace(part, self.count_path)


def fill_pictures(folder: Path, size: int) -> Pool:
    """The pool of pictures, drawn as far as it is missing."""
    pool = Pool(folder, "pictures")

    def drawn(part: range) -> np.ndarray:
        return np.stack([picture_at(i) for i in part])

    pool.fill(picture_room, picture_shape, np.uint8, drawn, size)
    return pool
