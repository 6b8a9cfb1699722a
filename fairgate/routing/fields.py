"""Takes arrays out of a file by name, and checks that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairgate.errors import ArtifactError

Array = NDArray[np.float32]


class Fields:
    """The arrays of one file. What is missing or does not fit is an ``ArtifactError`` that names
    the field and the value."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def has(self, name: str) -> bool:
        return name in self._arrays

    def bits(self, name: str, count: int) -> NDArray[np.bool_]:
        """``count`` bits, packed into bytes."""
        packed = self._arrays.get(name)
        if packed is None or packed.dtype != np.uint8 or packed.size * 8 != count:
            raise ArtifactError(f"{name}: expected {count} bits, got {packed}")
        return np.unpackbits(packed).astype(np.bool_)

    def take(self, name: str, *shape: int | None) -> Array:
        """The array ``name``; ``None`` in ``shape`` allows any length."""
        if name not in self._arrays:
            raise ArtifactError(f"{name}: is missing")
        array = self._arrays[name].astype(np.float32)
        fits = len(shape) == array.ndim and all(
            wanted in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise ArtifactError(f"{name}: expected the shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ArtifactError(
                f"{name}: expected finite numbers, got {array[~np.isfinite(array)][0]}"
            )
        return array
