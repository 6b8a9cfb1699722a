"""Reads and writes safetensors files: named arrays and text, nothing that could run.

The format (https://huggingface.co/docs/safetensors): the length of a JSON header in 8 bytes, the
header, the arrays' bytes one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fairgate.errors import ArtifactError

Array = NDArray[Any]  # its type stands in the file

_TYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_MAX_HEADER = 16 * 1024 * 1024


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write ``arrays`` and ``metadata``; the same content gives the same bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in sorted(arrays.items()):
        header[name] = _Tensor(
            _NAMES[array.dtype], list(array.shape), (offset, offset + array.nbytes)
        )
        offset += array.nbytes
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in sorted(arrays.items()):
            file.write(np.ascontiguousarray(array).tobytes())


def read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays and the metadata in ``path``.

    Raises ``ArtifactError`` for a file that is missing or that is not what its header says.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}") from error
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(_MAX_HEADER, len(data) - 8):
        raise ArtifactError(
            f"{path}: not a safetensors file: header of {size} bytes in {len(data)}"
        )
    try:
        header = msgspec.json.decode(data[8 : 8 + size], type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__", b"{}"), type=dict[str, str])
        tensors = {n: msgspec.json.decode(raw, type=_Tensor) for n, raw in header.items()}
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{path}: header: {error}") from error
    body = memoryview(data)[8 + size :]
    return {n: _array(f"{path}: {n}", t, body) for n, t in tensors.items()}, metadata


def _array(where: str, tensor: _Tensor, body: memoryview) -> Array:
    dtype: np.dtype[Any] | None = _TYPES.get(tensor.dtype)
    if dtype is None:
        raise ArtifactError(
            f"{where}: dtype: expected one of {', '.join(_TYPES)}, got {tensor.dtype!r}"
        )
    begin, end = tensor.data_offsets
    if not 0 <= begin <= end <= len(body):
        raise ArtifactError(f"{where}: data_offsets: {[begin, end]} outside of {len(body)} bytes")
    if min(tensor.shape, default=0) < 0 or prod(tensor.shape) * dtype.itemsize != end - begin:
        raise ArtifactError(f"{where}: shape: {tensor.shape} does not fit {end - begin} bytes")
    return np.frombuffer(body[begin:end], dtype).reshape(tensor.shape)
