"""Speculation writes what the model alone would write, whatever the draft guesses."""

import math
from collections import defaultdict
from itertools import product

import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial import speculation
from moe_tutorial.corpus import load_corpus, ngram_losses
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import generate, next_token_probs
from moe_tutorial.speculation import (
    CheckingReader,
    CountedDraft,
    SpeculatedToken,
    accept_probability,
    decide,
    overlap,
    propose,
    rest,
    speculate,
)
from moe_tutorial.tokenizer import CharTokenizer

weights = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any)
IDS = torch.tensor([0, 1, 2, 0, 1, 1, 2, 0, 0, 1, 2, 2, 0, 1])


def distribution(numbers):
    return torch.tensor(numbers, dtype=torch.float64) / sum(numbers)


@given(weights, weights)
def test_accepting_and_drawing_from_the_rest_give_the_model_s_distribution(p, q):
    p, q = distribution(p), distribution(q)
    kept = q * accept_probability(p, q)  # (V,)
    together = kept + (1 - kept.sum()) * rest(p, q)
    torch.testing.assert_close(together, p, atol=1e-12, rtol=0)
    assert kept.sum().item() == pytest.approx(overlap(p, q))


def test_the_three_functions_by_hand():
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.25, 0.6, 0.15, 0.0])
    assert accept_probability(p, q).tolist() == [1, 0.5, 1, 1]
    torch.testing.assert_close(rest(p, q), torch.tensor([0.25, 0, 0.05, 0]) / 0.3)
    assert overlap(p, q) == pytest.approx(0.25 + 0.3 + 0.15)
    assert torch.equal(rest(p, p), p)  # nothing is left, but rounding may have rejected


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0), (1.0, 1), (0.25, 0.25)])
def test_what_has_a_chance_happens_as_often(chance, share):
    generator = torch.Generator().manual_seed(0)
    found = [speculation.happens(chance, generator) for _ in range(4000)]
    assert sum(found) / 4000 == pytest.approx(share, abs=0.02 * (0 < share < 1))


# Exactness: every way through the random choices of the algorithm, with its probability.


class EveryWay:
    """Stands in for chance: `ways(act)` runs act once for each series of choices it can make."""

    def __init__(self, monkeypatch):
        self.series, self.taken = [], []
        monkeypatch.setattr(speculation, "draw_token", self.draw_token)
        monkeypatch.setattr(speculation, "happens", self.happens)

    def choose(self, probs):
        options = [i for i, p in enumerate(probs) if p > 0]
        at = len(self.taken)
        if at == len(self.series):
            self.series.append(0)
        choice = options[self.series[at]]
        self.taken.append((len(options), probs[choice]))
        return choice

    def draw_token(self, probs, generator=None):
        return self.choose(probs.tolist())

    def happens(self, chance, generator=None):
        return bool(self.choose([1 - chance, chance]))

    def ways(self, act):
        """Yield what act gives, and the probability of that way."""
        while True:
            self.taken = []
            yield act(), math.prod(p for _, p in self.taken)
            while self.series and self.series[-1] + 1 == self.taken[len(self.series) - 1][0]:
                self.series.pop()
            if not self.series:
                return
            self.series[-1] += 1


class Fixed:
    """A draft whose guesses do not depend on the text."""

    def __init__(self, *probs):
        self.fixed = torch.tensor(probs)

    def probs(self, context):
        return self.fixed


def after(model, text, prompt_length):
    """Logits (V,) of plain generation: the window as it stands when all of the text is read."""
    most, start = model.config.max_seq_len, 0
    for end in range(prompt_length, len(text) + 1):
        if end - start > most:
            start = end - max(1, 3 * most // 4)
    with torch.no_grad():
        return model(torch.tensor([text[start:]])).logits[0, -1]


class AlwaysRight:
    """Guesses with the model itself, in the window in which it will check."""

    def __init__(self, model):
        self.model = model

    def logits(self, context):
        with torch.no_grad():
            return self.model(torch.tensor([list(context)])).logits[0, -1]

    def probs(self, context):
        return self.logits(context).softmax(-1)


class AlwaysWrong(AlwaysRight):
    """Guesses what the model finds least probable, and nothing else."""

    def probs(self, context):
        logits = self.logits(context)
        return torch.zeros_like(logits).index_fill_(0, logits.argmin(), 1.0)


def three_symbols(max_seq_len):
    torch.manual_seed(1)
    changes = {"max_seq_len": max_seq_len, "num_layers": 1, "dim": 6}
    model = MoELanguageModel(TINY.model_copy(update=changes), 3).eval()
    model.head.weight.data *= 60  # probabilities that are far from equal
    return model


def plain(model, prompt, rule):
    """The probability of each text of four tokens, when the model alone writes."""
    found = {(): 1.0}
    for _ in range(4):
        found = {
            (*text, token): chance * p
            for text, chance in found.items()
            for token, p in enumerate(
                next_token_probs(after(model, [*prompt, *text], len(prompt)), *rule).tolist()
            )
        }
    return found


DRAFTS = {
    "fixed": lambda model: Fixed(0.6, 0.3, 0.1),
    "counted": lambda model: CountedDraft.count(IDS, 3),
    "right": AlwaysRight,
    "wrong": AlwaysWrong,
}


RULES = [(0.7,), (1.3, 2), (1.0, None, 0.8), (0.7, 2, 0.9), (0.0,)]
# A window of 3 slides, one of 16 has room for all; without limits that takes about 1,000 ways.
# Of the rest every fourth is tried always: each rule with each window once, each draft twice.
CASES = [case for case in product(DRAFTS, RULES, [3, 16]) if case[1:] != ((0.7,), 16)]
SLOW = [case for i, case in enumerate(CASES) if i % 4]
SLOW.append(("fixed", (0.7,), 16))


@pytest.mark.parametrize(
    ("draft", "rule", "max_seq_len"),
    [*CASES[::4], *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_all_texts_of_four_tokens_have_the_probabilities_of_plain_sampling(
    monkeypatch, draft, rule, max_seq_len
):
    model, prompt = three_symbols(max_seq_len), [2, 0]
    options = dict(zip(("temperature", "top_k", "top_p"), rule, strict=False))
    options |= {"draft_length": 2, "max_new_tokens": 4}
    guesser, found, by = DRAFTS[draft](model), defaultdict(float), defaultdict(float)
    run = lambda: list(speculate(model, torch.tensor(prompt), guesser, **options))  # noqa: E731
    for tokens, chance in EveryWay(monkeypatch).ways(run):
        found[tuple(token.token for token in tokens)] += chance
        for how in {token.how for token in tokens}:
            by[how] += chance
    for text, chance in plain(model, prompt, rule).items():
        assert found[text] == pytest.approx(chance, abs=1e-6)
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)
    if draft == "right":
        assert by["corrected"] < 1e-5
        assert by["accepted"] > 1 - 1e-5
    if draft == "wrong" and rule != (0.7,):  # what is least probable is forbidden
        assert by["accepted"] == 0
        assert by["corrected"] == pytest.approx(1, abs=1e-6)


# The same text


def write(model, prompt, draft, number, seed=0, **options):
    """Records of speculation."""
    generator = torch.Generator().manual_seed(seed)
    options |= {"max_new_tokens": number, "generator": generator}
    return list(speculate(model, torch.tensor(prompt), draft, **options))


@pytest.fixture
def counted(tiny_model):
    """Counts of what the tiny model itself writes, so that many guesses are accepted."""
    text = generate(tiny_model, torch.tensor([3, 1]), max_new_tokens=100, temperature=0.0)
    return CountedDraft.count(torch.tensor([token.token for token in text]), 13)


@pytest.mark.parametrize("draft_length", [1, 2, 5, 40])
@pytest.mark.parametrize("prompt", [[3], [3, 1, 4], [5] * 16, [6] * 17, list(range(13)) * 3])
def test_greedy_text_is_that_of_plain_generation_far_past_the_window(
    tiny_model, prompt, draft_length
):
    plain = list(generate(tiny_model, torch.tensor(prompt), max_new_tokens=60, temperature=0.0))
    draft = CountedDraft.count(torch.tensor([token.token for token in plain]), 13)
    ours = write(tiny_model, prompt, draft, 60, temperature=0.0, draft_length=draft_length)
    assert [token.token for token in ours] == [token.token for token in plain]
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a.probs, b.probs)
        assert torch.equal(a.experts, b.experts)
    assert sum(token.how == "accepted" for token in ours) >= 20


@pytest.mark.parametrize("max_seq_len", [1, 2, 3, 7])
def test_windows_of_any_size_slide_as_in_plain_generation(counted, max_seq_len):
    model = MoELanguageModel(TINY.model_copy(update={"max_seq_len": max_seq_len}), 13)
    plain = generate(model, torch.tensor([3, 1]), max_new_tokens=30, temperature=0.0)
    ours = write(model, [3, 1], counted, 30, temperature=0.0, draft_length=3)
    assert [token.token for token in ours] == [token.token for token in plain]


def test_without_guesses_it_is_generate_with_the_same_seed(tiny_model, counted):
    generator = torch.Generator().manual_seed(0)
    plain = generate(tiny_model, torch.tensor([3, 1]), max_new_tokens=40, generator=generator)
    ours = write(tiny_model, [3, 1], counted, 40, draft_length=0)
    for a, b in zip(ours, plain, strict=True):
        assert a.token == b.token
        assert a.how == "drawn"
        torch.testing.assert_close(a.probs, b.probs)
        assert torch.equal(a.experts, b.experts)


@pytest.mark.parametrize("number", [0, 1, 2, 5])
@pytest.mark.parametrize("draft_length", [0, 3, 9])
def test_as_many_tokens_come_as_were_asked_for(tiny_model, counted, number, draft_length):
    tokens = write(tiny_model, [3, 1], counted, number, draft_length=draft_length)
    assert len(tokens) == number


def test_every_record_is_what_the_model_says_of_the_text_before_it(tiny_model, counted):
    text = [3, 1]
    for token in write(tiny_model, text, counted, 14, draft_length=3, temperature=0.5):
        logits, routings = tiny_model(torch.tensor([[*text, token.token]]))
        expected = next_token_probs(logits[0, -2].detach(), 0.5)
        torch.testing.assert_close(token.probs, expected, atol=1e-5, rtol=0)
        assert token.experts.tolist() == [r.experts[-1].tolist() for r in routings]
        text.append(token.token)


def test_the_seed_decides(tiny_model, counted):
    texts = [
        [t.token for t in write(tiny_model, [3, 1], counted, 30, seed, draft_length=3)]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_model_reads_several_guesses_in_one_pass_and_each_token_once(tiny_model, counted):
    sizes = []
    hook = tiny_model.embedding.register_forward_hook(
        lambda layer, args, y: sizes.append(args[0].shape[1])
    )
    tokens = write(tiny_model, [3, 1], AlwaysRight(tiny_model), 0, draft_length=4)
    assert sizes == []
    tokens = write(tiny_model, [3, 1], counted, 12, draft_length=4, temperature=0.0)
    hook.remove()
    passes = 1 + sum(token.how != "accepted" for token in tokens)  # the last one reads the last
    assert len(sizes) == passes < 13
    assert max(sizes) == 2 + 4


def test_records_come_as_soon_as_they_are_read(tiny_model, counted):
    tokens = speculate(tiny_model, torch.tensor([1]), counted, draft_length=2, max_new_tokens=10**9)
    assert isinstance(next(tokens), SpeculatedToken)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ([], {}, ValueError, "the prompt is empty"),
        ([[1]], {}, ValueError, r"the prompt \(1, 1\) is not one row"),
        ([1], {"draft_length": -1}, ValueError, r"draft_length=-1 must be 0 \(no draft\) or more"),
        ([1], {"temperature": -1.0}, ValueError, "temperature=-1"),
        ([1], {"top_k": 0}, ValueError, "top_k=0"),
    ],
)
def test_bad_input_is_an_error(tiny_model, counted, prompt, options, error, message):
    with pytest.raises(error, match=message):
        write(tiny_model, prompt, counted, 1, **{"draft_length": 1, **options})


# Its parts


def test_guesses_follow_one_another_and_the_text(counted):
    asked = []

    class Asked(Fixed):
        def probs(self, context):
            asked.append(list(context))
            return self.fixed

    guesses, q = propose(Asked(0.0, 0.25, 0.75), [2, 0], 3, next_token_probs, None)
    assert asked == [[2, 0], [2, 0, *guesses[:1]], [2, 0, *guesses[:2]]]
    assert all(torch.allclose(row, torch.tensor([0.0, 0.25, 0.75])) for row in q)
    assert 0 not in guesses


def test_after_the_first_rejection_nothing_is_accepted():
    one, two = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    assert decide([0, 0, 0], [one, two, one, one], [one, one, one], None) == (1, 2, "corrected")
    assert decide([0, 0], [one, one, two], [one, one], None) == (2, 2, "drawn")
    assert decide([], [two], [], None) == (0, 2, "drawn")


def test_what_is_forgotten_leaves_no_trace(tiny_model):
    reader, again = CheckingReader(tiny_model), CheckingReader(tiny_model)
    for forgetful, text in ((reader, [3, 1, 4]), (again, [3, 1, 4])):
        forgetful.read(text)
    assert reader.room == 13
    reader.check(reader.slide([5]), [6, 7, 8])
    assert reader.room == 9
    reader.forget(2)
    again.check(again.slide([5]), [6])
    assert reader.window == again.window == [3, 1, 4, 5, 6]
    logits, experts = reader.check(reader.slide([9]), [2])
    expected = tiny_model(torch.tensor([[3, 1, 4, 5, 6, 9, 2]]))
    torch.testing.assert_close(logits, expected.logits[0, -2:], atol=1e-5, rtol=0)
    assert (
        experts.tolist()
        == torch.stack([routing.experts[-2:] for routing in expected.routings], dim=1).tolist()
    )
    assert not logits.requires_grad


# The counted draft


@pytest.fixture(scope="module")
def fables():
    corpus = load_corpus("fables")
    tokenizer = CharTokenizer.fit("".join(corpus))
    return corpus, tokenizer, CountedDraft.count(tokenizer.encode(corpus.train), 61)


def test_it_counts_as_chapter_01(fables):
    corpus, tokenizer, draft = fables
    validation = corpus.validation[:2000]
    ids = tokenizer.encode(validation).tolist()
    losses = [-draft.probs(ids[:i])[token].log().item() for i, token in enumerate(ids)]
    # The library's symbols are those of both texts; all 61 of them stand in the training text.
    assert len(set(corpus.train)) == 61
    expected = ngram_losses(corpus.train, validation, 5)[-1]
    assert sum(losses) / len(losses) == pytest.approx(expected, abs=1e-5)


def test_probabilities_by_hand():
    draft = CountedDraft.count(torch.tensor([0, 0, 1]), 2, order=2)  # aab of chapter 01
    torch.testing.assert_close(draft.probs([]), torch.tensor([3 / 5, 2 / 5]))
    torch.testing.assert_close(draft.probs([0]), torch.tensor([(1 + 1.2) / 4, (1 + 0.8) / 4]))
    torch.testing.assert_close(draft.probs([1, 0]), draft.probs([0]))
    torch.testing.assert_close(draft.probs([1]), draft.probs([]))  # nothing followed b


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 6), st.integers(0, 9))
def test_guesses_are_a_distribution_after_any_context(text, order, cut):
    draft = CountedDraft.count(torch.tensor(text), 5, order)
    assert draft.order == min(order, len(text))
    probs = draft.probs(text[:cut])
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    assert (probs > 0).all()
    assert torch.equal(probs, draft.probs(tuple(text[:cut])))  # also when it is remembered


def test_sequences_that_would_not_fit_into_a_number_or_the_table_are_not_counted(monkeypatch):
    ids = torch.randint(60_000, (50,))
    assert CountedDraft.count(ids, 60_000).order == 3  # 60,000 ** 4 is above 2 ** 62
    monkeypatch.setattr(speculation, "MOST_SEQUENCES", 20)
    assert CountedDraft.count(IDS, 3).order == 3  # 3 of one token, 6 of two, 8 of three


def test_what_it_remembers_is_bounded(monkeypatch):
    monkeypatch.setattr(speculation, "MOST_KNOWN", 30)
    draft = CountedDraft.count(IDS, 3)
    expected = CountedDraft.count(IDS, 3)
    for context in product(range(3), repeat=4):
        torch.testing.assert_close(draft.probs(context), expected._after(context))
        assert len(draft._known) <= 30 / 3 + 6


@pytest.mark.parametrize(("ids", "order"), [([], 5), ([1], 0)])
def test_nothing_cannot_be_counted(ids, order):
    with pytest.raises(ValueError, match=rf"{len(ids)} tokens and order={order}: both"):
        CountedDraft.count(torch.tensor(ids, dtype=torch.long), 3, order)
