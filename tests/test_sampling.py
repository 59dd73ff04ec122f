import math

import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import Reader, generate, next_token_probs

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 2.5])
logits = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20).map(torch.tensor)
temperatures = st.one_of(st.just(0.0), st.floats(1e-6, 100))


def sample(model, prompt, n, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    return list(generate(model, prompt, max_new_tokens=n, generator=generator, **settings))


@given(logits, temperatures, st.none() | st.integers(1, 25), st.none() | st.floats(0.01, 1))
def test_result_is_a_distribution_that_respects_top_k(values, temperature, top_k, top_p):
    probs = next_token_probs(values, temperature, top_k, top_p)
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    assert (probs >= 0).all()
    if top_k is not None:
        assert torch.count_nonzero(probs) <= top_k


@given(logits, st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(values, top_p):
    before, after = (
        next_token_probs(values.double()),
        next_token_probs(values.double(), top_p=top_p),
    )
    kept = before[after > 0].sort(descending=True).values
    assert len(kept) >= 1
    assert kept.sum() >= top_p - 1e-9
    assert kept[:-1].sum() < top_p + 1e-9
    dropped = before[after == 0]
    assert len(dropped) == 0 or dropped.max() <= kept.min()


def test_no_limits_is_plain_softmax():
    torch.testing.assert_close(next_token_probs(LOGITS), LOGITS.softmax(-1))
    torch.testing.assert_close(next_token_probs(LOGITS, top_k=99, top_p=1.0), LOGITS.softmax(-1))


def test_temperature_divides_the_logits():
    torch.testing.assert_close(next_token_probs(LOGITS, 0.5), (2 * LOGITS).softmax(-1))


def test_temperature_zero_is_greedy():
    assert next_token_probs(LOGITS, 0.0).tolist() == [0, 0, 0, 0, 1]


def test_top_k_keeps_the_k_best():
    probs = next_token_probs(LOGITS, top_k=2)
    assert probs.nonzero().flatten().tolist() == [0, 4]
    torch.testing.assert_close(probs[[0, 4]], LOGITS[[0, 4]].softmax(-1))


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 3 / 512}, {"temperature": 0}])
def test_of_equals_the_first_are_taken_and_no_more_than_asked(settings):
    kept = 1 if "temperature" in settings else 3
    probs = next_token_probs(torch.zeros(512), **settings)  # each 1/512, exactly
    assert probs.nonzero().flatten().tolist() == list(range(kept))


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.76, 4)])
def test_top_p_stops_at_the_token_that_reaches_p(top_p, kept):
    assert next_token_probs(torch.zeros(4), top_p=top_p).count_nonzero() == kept


def test_top_p_of_one_keeps_even_what_float32_cannot_add():
    assert next_token_probs(torch.tensor([0.0, -40.0]), top_p=1.0)[1] > 0


def test_a_logit_of_minus_infinity_forbids_a_token():
    probs = next_token_probs(torch.tensor([1.0, -math.inf, 1.0]))
    assert probs.tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("bad", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_of_a_damaged_model_are_an_error(bad, temperature):
    with pytest.raises(ValueError, match=r"the largest of the logits is (nan|-?inf); the model"):
        next_token_probs(torch.tensor(bad), temperature)


@pytest.mark.parametrize(
    "settings", [{"temperature": 1e-30}, {"temperature": 1e30}, {"top_k": 1}, {"top_p": 1e-30}]
)
def test_the_ends_of_the_ranges_are_allowed(settings):
    assert next_token_probs(LOGITS, **settings).sum().item() == pytest.approx(1)


def test_top_p_works_on_what_top_k_and_temperature_left():
    probs = torch.tensor([0.5, 0.3, 0.2])
    assert next_token_probs(probs.log(), top_k=2, top_p=0.6).count_nonzero() == 1  # 0.5/0.8 > 0.6
    assert next_token_probs(probs.log(), top_p=0.6).count_nonzero() == 2


def test_a_tiny_temperature_is_greedy_and_a_huge_one_uniform():
    assert next_token_probs(LOGITS, 1e-30).tolist() == [0, 0, 0, 0, 1]
    assert next_token_probs(1e9 * LOGITS, 1e-30).tolist() == [0, 0, 0, 0, 1]
    torch.testing.assert_close(next_token_probs(LOGITS, 1e30), torch.full((5,), 0.2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, r"temperature=-0\.1 must be 0 \(greedy\) or from 1e-30 to 1e30"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": 9e-31}, "temperature=9e-31"),
        ({"temperature": 2e30}, r"temperature=2e\+30"),
        ({"top_k": 0}, "top_k=0 must be a whole number from 1"),
        ({"top_k": 2.5}, r"top_k=2\.5 must be a whole number from 1"),
        ({"top_p": 0.0}, r"top_p=0\.0 must be above 0"),
        ({"top_p": 9e-31}, "top_p=9e-31"),
        ({"top_p": 1.1}, r"top_p=1\.1 .* at most 1"),
    ],
)
def test_bad_settings_are_errors(settings, message, tiny_model):
    with pytest.raises(ValueError, match=message):
        next_token_probs(LOGITS, **settings)
    with pytest.raises(ValueError, match=message):
        sample(tiny_model, torch.tensor([1]), 0, **settings)  # before anything is computed


def test_empty_prompt_is_an_error(tiny_model):
    with pytest.raises(ValueError, match="the prompt is empty"):
        sample(tiny_model, torch.tensor([], dtype=torch.long), 1)


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        (torch.ones(1, 3).long(), ValueError, r"the prompt \(1, 3\) is not one row"),
        ([1, 2], TypeError, "the prompt is a list; CharTokenizer.encode gives ids"),
        ("ab", TypeError, "the prompt is a str"),
    ],
)
def test_a_prompt_that_is_no_row_of_ids_is_an_error(tiny_model, prompt, error, message):
    with pytest.raises(error, match=message):
        sample(tiny_model, prompt, 1)


def test_a_model_generates_under_autocast_as_without(tiny_model):
    tiny_model.eval()
    expected = sample(tiny_model, torch.tensor([3, 1]), 5, temperature=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sample(tiny_model, torch.tensor([3, 1]), 5, temperature=0)
    assert found[0].experts.shape == expected[0].experts.shape
    assert all(0 <= t.token < 13 for t in found)


def test_greedy_generation_equals_recomputing_the_whole_text(tiny_model):
    text = [3, 1, 4]
    expected = list(text)
    for _ in range(13):  # 3 + 13 = max_seq_len
        expected.append(tiny_model(torch.tensor([expected])).logits[0, -1].argmax().item())
    tokens = sample(tiny_model, torch.tensor(text), 13, temperature=0)
    assert text + [t.token for t in tokens] == expected


@pytest.mark.parametrize("max_seq_len", [1, 2, 7, 16])
@pytest.mark.parametrize("at_once", [1, 3])
def test_the_window_slides_by_a_quarter_and_is_read_anew(max_seq_len, at_once):
    """Of 17 tokens for 16 positions the last 12 stay, of 2 for 1 the last 1."""
    model = MoELanguageModel(TINY.model_copy(update={"max_seq_len": max_seq_len}), 13)
    reader, text, window = Reader(model), torch.randint(13, (20,)).tolist(), []
    for start in range(0, 20, at_once):
        window += text[start : start + at_once]
        if len(window) > max_seq_len:
            window = window[-max(1, int(0.75 * max_seq_len)) :]
        logits, experts = reader.read(text[start : start + at_once])
        expected = model(torch.tensor([window]))
        torch.testing.assert_close(logits, expected.logits[0, -1], atol=1e-5, rtol=0)
        assert experts.tolist() == [routing.experts[-1].tolist() for routing in expected.routings]
        assert reader.window == window
    assert not logits.requires_grad


def test_a_prompt_longer_than_the_context_is_cut_from_the_left(tiny_model):
    long = torch.randint(13, (50,))
    a = sample(tiny_model, long, 3, temperature=0)
    b = sample(tiny_model, long[-12:], 3, temperature=0)
    assert all(torch.equal(x.probs, y.probs) for x, y in zip(a, b, strict=True))
    torch.testing.assert_close(
        Reader(tiny_model).read(long.tolist())[0], tiny_model(long[None, -12:]).logits[0, -1]
    )


def test_experts_are_those_that_processed_the_new_token(tiny_model):
    first = sample(tiny_model, torch.tensor([3, 1]), 1, temperature=0)[0]
    routings = tiny_model(torch.tensor([[3, 1, first.token]])).routings
    assert first.experts.tolist() == [r.experts[-1].tolist() for r in routings]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 2},
        {"top_p": 0.5},
        {"temperature": 2.0, "top_k": 3, "top_p": 0.9},
    ],
)
def test_every_token_is_drawn_by_the_seed_from_its_probabilities(tiny_model, settings):
    tokens, text = sample(tiny_model, torch.tensor([3, 1]), 9, seed=5, **settings), [3, 1]
    generator = torch.Generator().manual_seed(5)
    for token in tokens:
        logits = tiny_model(torch.tensor([text])).logits[0, -1].detach()
        expected = next_token_probs(
            logits, settings.get("temperature", 1.0), settings.get("top_k"), settings.get("top_p")
        )
        torch.testing.assert_close(token.probs, expected, atol=1e-5, rtol=0)
        assert token.token == torch.multinomial(token.probs, 1, generator=generator)
        text.append(token.token)


def test_without_a_generator_the_global_seed_decides(tiny_model):
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.append([t.token for t in generate(tiny_model, torch.tensor([3]), max_new_tokens=20)])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_probabilities_are_float32_whatever_the_model_s_type(tiny_model, dtype):
    (token,) = sample(tiny_model.to(dtype), torch.tensor([3, 1]), 1)
    assert token.probs.dtype == torch.float32


@pytest.mark.parametrize("n", [0, 1, 5])
def test_as_many_tokens_come_as_were_asked_for(tiny_model, n):
    assert len(sample(tiny_model, torch.tensor([1]), n)) == n


def test_dropout_stays_on_in_a_model_that_trains():
    model = MoELanguageModel(TINY.model_copy(update={"dropout": 0.5}), 13)
    a, b = (sample(model, torch.tensor([3]), 1)[0].probs for _ in range(2))
    assert not torch.equal(a, b)
    assert model.training


def test_generation_streams_one_token_at_a_time(tiny_model):
    tokens = generate(tiny_model, torch.tensor([1]), max_new_tokens=10**9)
    assert 0 <= next(tokens).token < 13


def test_top_p_of_one_changes_no_bit_beside_top_k():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        logits = 4 * torch.randn(61, generator=generator)
        assert torch.equal(
            next_token_probs(logits, top_k=40, top_p=1.0), next_token_probs(logits, top_k=40)
        )
