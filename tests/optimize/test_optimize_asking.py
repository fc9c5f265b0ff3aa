"""What is asked for next, where the best is known."""

from itertools import islice

import torch

from optimize.asking import Tried, asks

SPACE = {"size": range(0, 101, 10), "kind": ("plain", "good")}


def told(size, kind):
    """Larger costs more and loses less; the good kind holds the limit from 40 on, the plain one from 70."""
    return Tried(
        {"size": size, "kind": kind}, size / 100, {"drop": ((40 if kind == "good" else 70) - size) / 100, "other": -1.0}
    )


def test_the_least_that_holds_is_found_in_few_tries():
    tried = [told(100, "plain"), told(0, "plain")]
    for _ in range(10):
        tried.append(told(**next(asks(SPACE, tried, 0))))
    held = [one for one in tried if one.excess["drop"] <= 0]
    assert min(held, key=lambda one: one.cost).params == {"size": 40, "kind": "good"}


def test_what_is_asked_next_is_something_else_and_the_same_for_the_same_seed():
    tried = [told(100, "plain"), told(0, "plain"), told(50, "good")]
    threads = torch.get_num_threads()
    asked = list(islice(asks(SPACE, tried, 0), 4))
    assert asked == list(islice(asks(SPACE, tried, 0), 4)) and torch.get_num_threads() == threads
    assert len({tuple(one.items()) for one in asked}) > 2
    assert all(one["size"] in SPACE["size"] and one["kind"] in SPACE["kind"] for one in asked)
