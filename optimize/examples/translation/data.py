"""Numbers from 0 to 9,999 and how they are said in English: four digits in, up to seven words out."""

import numpy as np

LENGTH = 8  # words of the longest, and the end
SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = (*SMALL, *TENS, "hundred", "thousand", "and")
LEARNED, CHOSEN, REPORTED = 4_000, 1_000, 2_000


def in_words(number: int) -> list[str]:
    """As in British English: two thousand and seventeen."""
    thousands, hundreds, rest = number // 1000, number // 100 % 10, number % 100
    words = [SMALL[thousands], "thousand"] if thousands else []
    words += [SMALL[hundreds], "hundred"] if hundreds else []
    if rest or not words:
        words += ["and"] if words else []
        words += [SMALL[rest]] if rest < 20 else [TENS[rest // 10 - 2], *([SMALL[rest % 10]] if rest % 10 else [])]
    return words


def splits() -> dict[str, dict[str, np.ndarray]]:
    """Digits (N, 4) int64, and word numbers (N, 8) int64, behind the last word -1; no number is in two splits."""
    numbers = np.random.default_rng(0).permutation(10_000)[: LEARNED + CHOSEN + REPORTED]
    digits = numbers[:, None] // (1000, 100, 10, 1) % 10
    words = np.full((len(numbers), LENGTH), -1)
    for row, number in zip(words, numbers, strict=True):
        said = in_words(int(number))
        row[: len(said)] = [WORDS.index(word) for word in said]
    ends = np.cumsum((LEARNED, CHOSEN))
    parts = zip(np.split(digits, ends), np.split(words, ends), strict=True)
    return {name: {"digits": x, "y": y} for name, (x, y) in zip(("calibrate", "validate", "test"), parts, strict=True)}


def trivial() -> np.ndarray:
    """The same sentence for each number of test: at each place the word that is most often there in calibrate."""
    data = splits()
    sentence = [np.bincount(place + 1).argmax() - 1 for place in data["calibrate"]["y"].T]
    return np.tile(sentence, (len(data["test"]["y"]), 1))
