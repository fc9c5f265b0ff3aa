"""scikit-learn's digits, and a question about each, written by us: the answer is yes or no."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = ("", "is", "it", "not", "even", "odd", "more", "less", "than", "or", "round", *DIGITS)
LENGTH, EACH = 5, 8  # words of the longest question; questions a picture to learn from
ROUND = (0, 6, 8, 9)  # with a closed loop


def questions(digits: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A question about each digit, (N, 5) word numbers filled up with 0, and 1 where the answer is yes."""
    asked = [_question(int(digit), random) for digit in digits]
    numbers = np.zeros((len(asked), LENGTH), np.int64)
    for row, (text, _) in zip(numbers, asked, strict=True):
        words = text.split()
        row[: len(words)] = [WORDS.index(word) for word in words]
    return numbers, np.array([answer for _, answer in asked], np.int64)


def _question(digit: int, random: np.random.Generator) -> tuple[str, bool]:
    # half of the digits that are named are near the one that is seen, or "is it seven" would nearly always be a no
    one, other = (digit if random.random() < 0.4 else int(random.integers(10)) for _ in range(2))
    first, second = DIGITS[one], DIGITS[other]
    forms = (
        ("is it even", digit % 2 == 0),
        ("is it odd", digit % 2 == 1),
        ("is it round", digit in ROUND),
        (f"is it more than {first}", digit > one),
        (f"is it less than {first}", digit < one),
        (f"is it {first}", digit == one),
        (f"is it not {first}", digit != one),
        (f"is it {first} or {second}", digit in (one, other)),
    )
    return forms[int(random.integers(len(forms)))]


def splits() -> dict[str, dict[str, np.ndarray]]:
    """797 pictures with eight questions each to learn from, 400 to choose by and 600 to report on with two each."""
    digits = load_digits()
    x, y = (digits.images[:, None] / 16).astype(np.float32), digits.target
    x, x_test, y, y_test = train_test_split(x, y, test_size=600, stratify=y, random_state=0)
    x, x_validate, y, y_validate = train_test_split(x, y, test_size=400, stratify=y, random_state=0)
    parts = {"calibrate": (x, y, EACH), "validate": (x_validate, y_validate, 2), "test": (x_test, y_test, 2)}
    random = np.random.default_rng(0)
    found = {}
    for name, (pictures, numbers, each) in parts.items():
        text, answer = questions(np.repeat(numbers, each), random)
        found[name] = {"image": np.repeat(pictures, each, 0), "question": text, "y": answer}
    return found


def in_words(question: np.ndarray) -> str:
    """The text of a question's word numbers."""
    return " ".join(WORDS[number] for number in question if number)


def trivial() -> np.ndarray:
    """Answers on test that look at the question alone: how often it was a no, and a yes, in calibrate."""
    data = splits()
    counts: dict[bytes, list[int]] = {}
    for question, answer in zip(data["calibrate"]["question"], data["calibrate"]["y"], strict=True):
        counts.setdefault(question.tobytes(), [0, 0])[answer] += 1
    return np.array([counts.get(question.tobytes(), (1, 1)) for question in data["test"]["question"]], np.float32)
