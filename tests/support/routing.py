"""Small made-up records for the router: what is hard can be told from the words and the form."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from fairgate.routing.learning.several_answers import chosen_by_score

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


def write_several(path: Path, count: int = 400, seed: int = 0) -> Path:
    """Labels as ``fairgate router label --samples 6`` writes them: the small model is right in one
    of three answers to what is hard, and what picks among them is right in most pairs."""
    random = np.random.default_rng(seed + 7)
    lines = []
    for text, hard in prompts(count, seed):
        chance = {"small": 0.35 if hard else 0.9, "large": 0.95}
        right = np.array([random.random(6) < p for p in chance.values()], float)
        chosen = chosen_by_score(2 * right + random.normal(size=right.shape), 3)
        lines.append(
            msgspec.json.encode(
                {
                    "prompt": text,
                    "scores": dict(zip(chance, right.tolist(), strict=True)),
                    "chosen": dict(zip(chance, chosen.tolist(), strict=True)),
                    "scorer": "verifier",
                }
            )
        )
    path.write_bytes(b"\n".join(lines))
    return path
