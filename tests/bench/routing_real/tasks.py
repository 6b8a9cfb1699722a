"""Makes checkable prompts from a seed: arithmetic, strings, words and what programs print.

Each family has levels from 0, which a small model often gets right, to 4, which neither does. The
same seed gives the same prompts everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from random import Random

from fairgate.labelling.exact import Check
from fairgate.labelling.run import Prompt
from tests.bench.routing_real.words import (
    CAPITALS,
    CYCLES,
    FACTS,
    KINDS,
    NAMES,
    OPPOSITES,
    PLURALS,
    PRAISE,
    THINGS,
    UNITS,
    WORDS,
)

Made = tuple[str, Check]
Family = Callable[[Random, int], Made]

LEVELS = 5
NUMBER = "Reply with the number only."
WORD = "Reply with one word only."


def generated(seed: int, count: int) -> Iterator[Prompt]:
    """``count`` prompts, none twice, of all families and levels in turn; the rest is chance."""
    random = Random(seed)
    seen: set[str] = set()
    names = list(FAMILIES)
    turn = 0
    while len(seen) < count:
        name, level = names[turn % len(names)], turn // len(names) % LEVELS
        turn += 1
        text, check = FAMILIES[name](random, level)
        if text not in seen:
            seen.add(text)
            yield Prompt(text, task=name, check=check)


def _integer(random: Random, digits: int) -> int:
    return random.randint(10 ** (digits - 1), 10**digits - 1)


def _number(text: str, value: float) -> Made:
    return f"{text} {NUMBER}", Check(number=value)


def _says(word: str) -> Check:
    """The answer names ``word``, whatever stands around it."""
    return Check(regex=rf"(?i)(?<!\w){re.escape(word)}(?!\w)")


def add(random: Random, level: int) -> Made:
    a, b = _integer(random, level + 1), _integer(random, level + 1)
    return _number(f"What is {a} + {b}?", a + b)


def subtract(random: Random, level: int) -> Made:
    a, b = sorted((_integer(random, level + 1), _integer(random, level + 1)), reverse=True)
    return _number(f"What is {a} - {b}?", a - b)


def multiply(random: Random, level: int) -> Made:
    a, b = _integer(random, 1 + level // 2), _integer(random, 1 + (level + 1) // 2)
    return _number(f"What is {a} times {b}?", a * b)


def remainder(random: Random, level: int) -> Made:
    a, b = _integer(random, level + 1), random.randint(2, 3 + 3 * level)
    return _number(f"What is the remainder when {a} is divided by {b}?", a % b)


def expression(random: Random, level: int) -> Made:
    text, top = str(random.randint(1, 9)), 9 + 10 * level
    for _ in range(level + 1):
        sign, operand = random.choice("+-*"), random.randint(2, top)
        text = f"({text}) {sign} {operand}" if random.random() < 0.4 else f"{text} {sign} {operand}"
    value = eval(text, {"__builtins__": {}})
    return _number(f"Work out {text}.", value)


def sequence(random: Random, level: int) -> Made:
    first, step = random.randint(1, 9 + 20 * level), random.randint(1, 4 + 5 * level)
    if level < 3:
        terms = [first + k * step for k in range(6)]
    elif level == 3:
        terms = [first + k * step + k * k for k in range(6)]
    else:
        terms = [first, step]
        while len(terms) < 6:
            terms.append(terms[-1] + terms[-2])
    shown = ", ".join(str(term) for term in terms[:5])
    return _number(f"Which number comes next: {shown}, …?", terms[5])


def largest(random: Random, level: int) -> Made:
    numbers = random.sample(range(10**level, 10 ** (level + 1)), 2 + 2 * level)
    listed = ", ".join(str(n) for n in numbers)
    word, value = random.choice((("largest", max(numbers)), ("smallest", min(numbers))))
    return _number(f"Which of these numbers is the {word}: {listed}?", value)


def story(random: Random, level: int) -> Made:
    name, thing = random.choice(NAMES), random.choice(THINGS)
    top = 10 * (level + 1)
    have, more = random.randint(2, top), random.randint(2, top)
    text, value = f"{name} has {have} {thing} and gets {more} more.", have + more
    if level >= 1:
        given = random.randint(1, value - 1)
        text, value = f"{text} Then {name} gives {given} away.", value - given
    if level >= 2:
        boxes = random.randint(2, 3 + level)
        text = f"{text} {boxes} friends each bring as many as {name} has now."
        value *= 1 + boxes
    if level >= 3:
        price = random.randint(2, 9)
        text, value = f"{text} All of them are sold at {price} dollars each.", value * price
    asked = "dollars are paid" if level >= 3 else f"{thing} are there now"
    return _number(f"{text} How many {asked}?", value)


def convert(random: Random, level: int) -> Made:
    small, large, factor = random.choice(UNITS[: 3 + 2 * level])
    many = random.randint(2, 4 + 8 * level)
    if level >= 3:
        rest = random.randint(1, factor - 1)
        asked = f"How many {small} are {many} {large} and {rest} {small}?"
        return _number(asked, many * factor + rest)
    return _number(f"How many {small} are {many} {large}?", many * factor)


def prime(random: Random, level: int) -> Made:
    number = _integer(random, 1 + level) | 1
    is_prime = number > 1 and all(number % d for d in range(2, math.isqrt(number) + 1))
    if level == 0:
        word, right = random.choice((("even", number % 2 == 0), ("odd", number % 2 == 1)))
    else:
        word, right = "a prime number", is_prime
    check = Check(regex=_only("yes", "no") if right else _only("no", "yes"))
    return f"Is {number} {word}? Reply with yes or no only.", check


def repeat(random: Random, level: int) -> Made:
    words = " ".join(random.sample(WORDS, 1 + 2 * level))
    check = Check(regex=rf"(?i)^\W*{re.escape(words)}\W*$")
    return f"Repeat exactly, and write nothing else: {words}", check


def reverse(random: Random, level: int) -> Made:
    word = random.choice([w for w in WORDS if len(w) == 5 + level % 4])[: 3 + level]
    return f"Write the letters of '{word}' in reverse order. {WORD}", _says(word[::-1])


def count_letter(random: Random, level: int) -> Made:
    text = " ".join(random.sample(WORDS, 1 + level // 2))
    letter = random.choice(text.replace(" ", ""))
    return _number(f"How often does the letter '{letter}' occur in '{text}'?", text.count(letter))


def count_words(random: Random, level: int) -> Made:
    count = random.randint(2, 4 + 3 * level)
    return _number(f"How many words are in '{' '.join(random.choices(WORDS, k=count))}'?", count)


def pick_letter(random: Random, level: int) -> Made:
    word = random.choice([w for w in WORDS if len(w) >= 5])
    place = ("first", "last", "second", "third", "fourth")[level]
    index = {"first": 0, "last": -1, "second": 1, "third": 2, "fourth": 3}[place]
    check = Check(regex=rf"(?i)(?<!\w){word[index]}\W*$")
    return f"What is the {place} letter of '{word}'? Reply with the letter only.", check


def pick_word(random: Random, level: int) -> Made:
    words = random.sample(WORDS, 3 + level)
    place = random.randrange(1 + level)
    name = ("first", "second", "third", "fourth", "fifth")[place]
    text = f"What is the {name} word of '{' '.join(words)}'? {WORD}"
    return text, Check(regex=rf"(?i)^\W*{words[place]}\W*$")


def sort_words(random: Random, level: int) -> Made:
    words = random.sample(WORDS, 2 + level)
    ordered = ", ".join(sorted(words))
    text = f"Sort alphabetically, with commas between: {', '.join(words)}. Write only the list."
    return text, Check(contains=(ordered,))


def capital(random: Random, level: int) -> Made:
    countries = list(CAPITALS)
    country = random.choice(countries[9 * level : 9 * level + 10])
    return f"What is the capital of {country}? {WORD}", _says(CAPITALS[country])


def opposite(random: Random, level: int) -> Made:
    word = random.choice(list(OPPOSITES)[5 * level : 5 * level + 7])
    return f"What is the opposite of '{word}'? {WORD}", _says(OPPOSITES[word])


def calendar(random: Random, level: int) -> Made:
    cycle = random.choice(CYCLES)
    index, steps = random.randrange(len(cycle)), (1, -1, 2, random.randint(3, 9), 10)[level]
    kind = "day" if len(cycle) == 7 else "month"
    way = "before" if steps < 0 else "after"
    many = f"{abs(steps)} {kind}{'s' if abs(steps) > 1 else ''}"
    text = f"Which {kind} is {many} {way} {cycle[index]}? {WORD}"
    return text, _says(cycle[(index + steps) % len(cycle)])


def fact(random: Random, level: int) -> Made:
    question = random.choice(list(FACTS)[8 * level : 8 * level + 8])
    return f"{question} {('', WORD)[random.randrange(2)]}".rstrip(), _says(FACTS[question])


def category(random: Random, level: int) -> Made:
    kind, other = random.sample(list(KINDS), 2)
    word = random.choice(KINDS[kind][2 * level : 2 * level + 2] or KINDS[kind][-1:])
    shown = " or ".join(sorted((kind, other)))
    return f"Which of the two is '{word}': {shown}? {WORD}", Check(regex=_only(kind, other))


def opinion(random: Random, level: int) -> Made:
    kind, other = random.sample(list(PRAISE), 2)
    said = random.choice(PRAISE[kind][level : level + 2])
    if random.random() < 0.7:
        said = f"{random.choice(NAMES)} says: {said}"
    return f"Is this review positive or negative? {WORD}\n{said}", Check(regex=_only(kind, other))


def plural(random: Random, level: int) -> Made:
    word = random.choice(list(PLURALS)[4 * level : 4 * level + 4])
    asked = random.choice(("What is the plural of '{}'?", "Write the plural of the word '{}'."))
    return f"{asked.format(word)} {WORD}", _says(PLURALS[word])


def sentence(random: Random, level: int) -> Made:
    words = random.sample(WORDS, 1 + level)
    named = "the word" if level == 0 else "the words"
    text = f"Write one short sentence with {named} {', '.join(repr(w) for w in words)}."
    return text, Check(contains=tuple(words), max_words=20)


def extract(random: Random, level: int) -> Made:
    people = random.sample(NAMES, 1 + level)
    ages = {name: random.randint(18, 80) for name in people}
    told = " ".join(f"{name} is {age} years old." for name, age in ages.items())
    name = random.choice(people)
    return _number(f"{told} How old is {name}?", ages[name])


def _only(word: str, other: str) -> str:
    """Names ``word`` and not ``other``."""
    return rf"(?is)^(?!.*\b{other}\b).*\b{word}\b"


def printed(program: str, value: object) -> Made:
    text = f"What does this Python program print?\n\n{program}\n\nReply with the output only."
    check = Check(number=value) if isinstance(value, int) else Check(regex=rf"(?<!\w){value}\W*$")
    return text, check


def python_expression(random: Random, level: int) -> Made:
    a, b, c = (random.randint(2, 9 + 8 * level) for _ in range(3))
    programs = (
        (f"print({a} + {b})", a + b),
        (f"x = {a}\nprint(x * {b})", a * b),
        (f"x = {a}\ny = x - {b}\nprint(y + {c})", a - b + c),
        (f"x = {a * b}\nprint(x // {c} + x % {c})", a * b // c + a * b % c),
        (f"x = {a}\ny = {b}\nx, y = y, x + y\nprint(x * y - {c})", b * (a + b) - c),
    )
    return printed(*programs[level])


def python_string(random: Random, level: int) -> Made:
    word, other = random.sample(WORDS, 2)
    k = random.randint(1, 3)
    programs: tuple[tuple[str, object], ...] = (
        (f"print('{word}')", word),
        (f"print('{word}'.upper())", word.upper()),
        (f"print(len('{word}') + {k})", len(word) + k),
        (f"print('{word}'[{k}:{k + 2}] + '{other}'[:2])", word[k : k + 2] + other[:2]),
        (f"s = '{word}{other}'\nprint(s[::-1][{k}:{k + 4}])", (word + other)[::-1][k : k + 4]),
    )
    return printed(*programs[level])


def python_list(random: Random, level: int) -> Made:
    x = [random.randint(1, 9 + 10 * level) for _ in range(3 + level)]
    k = random.randrange(3)
    programs = (
        (f"x = {x}\nprint(x[{k}])", x[k]),
        (f"x = {x}\nprint(len(x))", len(x)),
        (f"x = {x}\nprint(sum(x))", sum(x)),
        (f"x = {x}\nprint(max(x) - min(x))", max(x) - min(x)),
        (
            f"x = {x}\nprint(sum(v * v for v in x if v % 2 == {k % 2}))",
            sum(v * v for v in x if v % 2 == k % 2),
        ),
    )
    return printed(*programs[level])


def python_loop(random: Random, level: int) -> Made:
    start, end, step = random.randint(0, 5), random.randint(2, 3 + 2 * level), random.randint(1, 4)
    body, value = f"    total += {step}", start
    for i in range(end):
        value += step if level < 2 else i * step if level < 4 else (i * i - step)
    if level >= 2:
        body = f"    total += i * {step}" if level < 4 else f"    total += i * i - {step}"
    return printed(f"total = {start}\nfor i in range({end}):\n{body}\nprint(total)", value)


def truth(random: Random, level: int) -> Made:
    terms = [random.choice(("True", "False")) for _ in range(1 + level)]
    text = terms[0]
    for term in terms[1:]:
        text += f" {random.choice(('and', 'or', 'and not', 'or not'))} {term}"
    text = text if level else f"not {text}"
    value = eval(text, {"__builtins__": {}})
    check = Check(regex=_only(str(value), str(not value)))
    return f"In Python, what is `{text}`? Reply with True or False only.", check


FAMILIES: dict[str, Family] = {
    f"{group}/{family.__name__}": family
    for group, families in {
        "arithmetic": (
            add, subtract, multiply, remainder, expression, sequence, largest, story, convert,
            prime,
        ),
        "text": (
            repeat, reverse, count_letter, count_words, pick_letter, pick_word, sort_words,
            capital, opposite, calendar,
        ),
        "language": (fact, category, opinion, plural, sentence, extract),
        "code": (python_expression, python_string, python_list, python_loop, truth),
    }.items()
    for family in families
}  # fmt: skip
