"""What chapter 03 estimates, counted exactly."""

import math
from collections import Counter, defaultdict

import pytest

from moe_tutorial.corpus import load_corpus, ngram_losses


def test_first_targets_of_a_window_are_as_hard_as_others_for_the_counted_rival():
    train, validation = load_corpus("fables")
    losses = ngram_losses(train, validation, 5)
    followers = count_followers(train)
    size = len(set(train + validation))
    for seq_len, expected in ((64, 1.268), (128, 1.257)):
        extra = (
            0.0  # what the first three targets of each window lose, compared with the whole text
        )
        for start in range(0, len(validation) - 4, seq_len):
            for i in (start + 1, start + 2, start + 3):
                whole = validation[max(0, i - 4) : i + 1]
                extra += math.log(probability(whole, followers, size))
                extra -= math.log(probability(validation[start : i + 1], followers, size))
        exact = losses[4] + extra / (len(validation) - 1)
        estimate = (sum(losses[1:4]) + (seq_len - 3) * losses[4]) / seq_len
        assert exact == pytest.approx(expected, abs=0.001)
        assert estimate == pytest.approx(exact, abs=0.001)


def count_followers(text):
    followers = defaultdict(Counter)
    for n in range(5):
        for i in range(n, len(text)):
            followers[text[i - n : i]][text[i]] += 1
    return followers


def probability(text, followers, size):
    """Witten-Bell, of the last character after those before it."""
    p = 1 / size
    for n in range(len(text)):
        seen = followers.get(text[len(text) - 1 - n : -1], {})
        if seen:
            p = (seen[text[-1]] + len(seen) * p) / (seen.total() + len(seen))
    return p
