"""Small made-up records for the router: what is hard can be told from the words and the form."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

EASY = ("sea", "tree", "dog", "house", "river", "bread", "song", "garden")
HARD = ("integral", "theorem", "manifold", "eigenvalue", "lemma", "kernel", "tensor", "measure")


def prompts(count: int, seed: int = 0) -> list[tuple[str, bool]]:
    """Prompts and whether each is hard."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(count):
        hard = bool(random.random() < 0.5)
        words = " ".join(random.choice(HARD if hard else EASY, 6))
        choices = "\n".join(f"{letter}. {random.integers(99)}" for letter in "ABCD") if hard else ""
        made.append((f"Question {number} about {words}?\n{choices}", hard))
    return made


def write_csv(path: Path, count: int = 400, seed: int = 0) -> Path:
    """Records of a pair: the large model is nearly always right, the small one where it is easy."""
    random = np.random.default_rng(seed + 1)
    lines = ["task,prompt,weak_correct,strong_correct,weak_words,strong_words"]
    for text, hard in prompts(count, seed):
        small = int(random.random() < (0.15 if hard else 0.9))
        large = int(random.random() < 0.95)
        lines.append(f'{"maths" if hard else "life"},"{text}",{small},{large},,')
    path.write_text("\n".join(lines) + "\n")
    return path


def write_lines(path: Path, count: int = 400, samples: int = 4) -> Path:
    """Records of three models as JSON lines, with several graded samples of each."""
    random = np.random.default_rng(5)
    lines = []
    for text, hard in prompts(count):
        center = {"tiny": 0.2 if hard else 0.7, "middle": 0.4 if hard else 0.8, "huge": 0.9}
        scores = {
            m: np.clip(random.normal(c, 0.1, samples), 0, 1).tolist() for m, c in center.items()
        }
        lines.append(msgspec.json.encode({"prompt": text, "task": int(hard), "scores": scores}))
    path.write_bytes(b"\n".join(lines))
    return path
