import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_tutorial.sampling import generate, next_token_probs

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


def test_ties_do_not_let_more_than_k_through():
    assert torch.count_nonzero(next_token_probs(torch.zeros(5), top_k=3)) == 3


def test_top_p_works_on_what_top_k_and_temperature_left():
    probs = torch.tensor([0.5, 0.3, 0.2])
    assert next_token_probs(probs.log(), top_k=2, top_p=0.6).count_nonzero() == 1  # 0.5/0.8 > 0.6
    assert next_token_probs(probs.log(), top_p=0.6).count_nonzero() == 2


def test_tiny_temperature_stays_finite():
    assert next_token_probs(LOGITS, 1e-30)[4] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, r"temperature=-0\.1 must be 0 \(greedy\) or from 1e-30 to 1e30"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p=0\.0 must be above 0"),
        ({"top_p": 1.1}, r"top_p=1\.1 .* at most 1"),
    ],
)
def test_bad_settings_are_errors(settings, message, tiny_model):
    with pytest.raises(ValueError, match=message):
        next_token_probs(LOGITS, **settings)
    with pytest.raises(ValueError, match=message):
        sample(tiny_model, torch.tensor([1]), 1, **settings)


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


def test_same_seed_same_text(tiny_model):
    tiny_model.eval()
    texts = [[t.token for t in sample(tiny_model, torch.tensor([3]), 40, s)] for s in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_greedy_generation_equals_recomputing_the_whole_text(tiny_model):
    text = [3, 1, 4]
    expected = list(text)
    for _ in range(13):  # 3 + 13 = max_seq_len
        expected.append(tiny_model(torch.tensor([expected])).logits[0, -1].argmax().item())
    tokens = sample(tiny_model, torch.tensor(text), 13, temperature=0)
    assert text + [t.token for t in tokens] == expected


def test_window_slides_and_equals_reading_the_kept_part_anew(tiny_model):
    # max_seq_len 16: at 17 tokens, the last 12 are kept and read again.
    tokens = [t.token for t in sample(tiny_model, torch.tensor([3, 1]), 40, temperature=0)]
    text, start = [3, 1], 0
    for _ in range(40):
        if len(text) - start > 16:
            start = len(text) - 12
        text.append(tiny_model(torch.tensor([text[start:]])).logits[0, -1].argmax().item())
    assert tokens == text[2:]


def test_prompt_longer_than_the_context_is_cut_from_the_left(tiny_model):
    long = torch.randint(13, (50,))
    a = sample(tiny_model, long, 3, temperature=0)
    b = sample(tiny_model, long[-12:], 3, temperature=0)
    assert [t.token for t in a] == [t.token for t in b]


def test_experts_are_those_that_processed_the_new_token(tiny_model):
    first = sample(tiny_model, torch.tensor([3, 1]), 1, temperature=0)[0]
    routings = tiny_model(torch.tensor([[3, 1, first.token]])).routings
    assert first.experts.tolist() == [r.experts[-1].tolist() for r in routings]


def test_tokens_are_drawn_in_proportion_to_their_probability():
    probs = next_token_probs(LOGITS, 1.3)
    draws = torch.multinomial(probs, 20_000, True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.bincount() / 20_000, probs, atol=0.015, rtol=0)


def test_generation_streams_one_token_at_a_time(tiny_model):
    tokens = generate(tiny_model, torch.tensor([1]), max_new_tokens=10**9)
    assert 0 <= next(tokens).token < 13
