"""Turns public exam questions into checkable prompts: MMLU's choices and GSM8K's numbers.

Of the data sets' files only those questions are taken that the records of the bench hold as well,
so that what was kept back of them for judging stays unseen.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import msgspec

from fairgate.labelling.exact import Check
from fairgate.labelling.run import Prompt
from fairgate.routing.learning.records import Records
from tests.bench.routing.data import MATHS

CHOICE = "Reply with the letter of the right choice only."
NUMBER = "Reply with the number only."
_ANSWER = "\nAnswer:"


class _Solved(msgspec.Struct):
    """A line of GSM8K's ``test.jsonl``."""

    question: str
    answer: str


def choices(known: Records, folder: Path, seed: int, count: int) -> Iterator[Prompt]:
    """``count`` questions of ``folder``, which holds MMLU's ``SUBJECT_test.csv``."""
    right: dict[str, str] = {}
    for file in sorted(folder.glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as text:
            for question, *options, letter in csv.reader(text):
                listed = [f"{c}. {o}" for c, o in zip("ABCD", options, strict=True)]
                right["\n".join([question, *listed])] = letter
    asked = dict(zip(known.prompts, known.tasks, strict=True))
    found = {
        question: task
        for prompt, task in asked.items()
        if (question := prompt.removesuffix(_ANSWER)) in right
    }
    for question in _drawn(found, seed, count):
        check = Check(equals=right[question])
        yield Prompt(f"{question}\n{CHOICE}", task=found[question], check=check)


def sums(known: Records, file: Path, seed: int, count: int) -> Iterator[Prompt]:
    """``count`` word problems of GSM8K's ``test.jsonl``."""
    with file.open("rb") as lines:
        solved = [msgspec.json.decode(line, type=_Solved) for line in lines]
    asked = {prompt.strip() for prompt in known.prompts}
    right = {
        one.question.strip(): float(one.answer.partition("####")[2].replace(",", ""))
        for one in solved
        if one.question.strip() in asked
    }
    for question in _drawn(right, seed, count):
        yield Prompt(f"{question} {NUMBER}", task=MATHS, check=Check(number=right[question]))


def texts(known: Records) -> list[str]:
    """What the prompts made of ``known`` may be, to find their labels by."""
    choices = [prompt.removesuffix(_ANSWER) + f"\n{CHOICE}" for prompt in known.prompts]
    return choices + [f"{prompt.strip()} {NUMBER}" for prompt in known.prompts]


def _drawn(questions: Iterable[str], seed: int, count: int) -> list[str]:
    random = Random(seed)
    ordered = sorted(questions)
    return random.sample(ordered, min(count, len(ordered)))
