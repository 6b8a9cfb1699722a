"""The recorded outcomes that are measured on, encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.base import Encoded
from fairgate.routing.encoders.minilm import MiniLM
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.encoders.registry import EncoderName
from fairgate.routing.learning import records
from fairgate.routing.learning.training import encode_all

PAIR_FILE = "routellm_mmlu_gsm8k.csv.gz"
PRO_FILE = "mmlu_pro_models.jsonl.gz"
NINE_FILE = "llmrouter_9models.jsonl.gz"
PRICES_FILE = "llmrouter_prices.json"
MATHS = "gsm8k"


@dataclass(frozen=True, slots=True)
class Recorded:
    """Records and their encoded prompts."""

    records: records.Records
    encoded: list[Encoded]
    tasks: NDArray[np.str_]


def recorded(path: Path, encoder: EncoderName, cache: Path) -> Recorded:
    """Read ``path`` and encode it; sentence embeddings are kept in the folder ``cache``."""
    outcomes = records.load(path)
    encoded = encode_all(NGrams(), outcomes.prompts)
    if encoder == "minilm":
        embeddings = embedded(outcomes.prompts, cache / f"{path.name}.minilm.npy")
        encoded = [
            one._replace(dense=np.concatenate([one.dense, more]))
            for one, more in zip(encoded, embeddings, strict=True)
        ]
    return Recorded(outcomes, encoded, np.array(outcomes.tasks))


def embedded(prompts: tuple[str, ...], kept: Path) -> NDArray[np.float32]:
    """MiniLM's embedding of each prompt, kept in the file ``kept``."""
    if not kept.exists():
        model = MiniLM.installed()
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.stack([model.embed(prompt) for prompt in prompts]))
    return np.asarray(np.load(kept), np.float32)
