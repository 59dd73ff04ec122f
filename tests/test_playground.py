"""The playground shows what the sampler does, and nothing else."""

import asyncio
import html
import re

import pytest
import torch
from conftest import TINY

from moe_tutorial import plots
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import generate, next_token_probs
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.widgets.playground import BARS, Playground

ALPHABET = "\n <Tabcdehilnorstuwx"


@pytest.fixture(scope="module")
def playground():
    torch.manual_seed(0)
    tokenizer = CharTokenizer.fit(ALPHABET)
    model = MoELanguageModel(TINY, tokenizer.vocab_size).eval()
    torch.nn.init.normal_(model.head.weight)  # far from uniform
    return Playground(model, tokenizer, "The ")


@pytest.fixture
def fresh(playground):
    """The sliders where they keep every character, and the prompt alone."""
    playground.temperature.value, playground.top_p.value = 1.0, 1.0
    playground.top_k.value = playground.top_k.max
    playground.prompt.value = "The "
    playground.start()
    return playground


def shown_bars(playground) -> list[tuple[str, str]]:
    """Symbol and printed probability of every bar."""
    pattern = r'center">([^<]+)</span><span style="[^"]*"></span><span>&nbsp;([0-9.]+)<'
    found = re.findall(pattern, playground.bars.value)
    return [(html.unescape(symbol), share) for symbol, share in found]


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        ({"temperature": 1.0}, len(ALPHABET)),
        ({"temperature": 0.0}, 1),
        ({"temperature": 1.5, "top_k": 3}, 3),
        ({"temperature": 2.0, "top_p": 0.5}, None),
    ],
)
def test_playground_bars_are_the_probabilities_to_draw_from(fresh, settings, possible):
    for name, value in settings.items():
        getattr(fresh, name).value = value
    logits = fresh.model(fresh.tokenizer.encode("The ")[None]).logits[0, -1].detach()
    probs = next_token_probs(logits, **settings)
    kept = [t for t in probs.argsort(descending=True).tolist() if probs[t] > 0]
    symbols = [plots.visible(fresh.tokenizer.decode([token])) for token in kept]
    shares = [f"{probs[token]:.3f}" for token in kept]
    assert len(kept) == (possible or len(kept))
    assert shown_bars(fresh) == list(zip(symbols, shares, strict=True))[:BARS]
    assert f"next character, {len(kept)} possible" in fresh.bars.value
    assert (f"and {len(kept) - BARS} more" in fresh.bars.value) == (len(kept) > 12)


def test_playground_text_is_what_generate_draws_with_its_experts(fresh):
    fresh.length.value, fresh.seed.value, fresh.temperature.value = 40, 5, 1.3
    fresh.button.click()
    tokens = list(
        generate(
            fresh.model,
            fresh.tokenizer.encode("The "),
            max_new_tokens=40,
            temperature=1.3,
            generator=torch.Generator().manual_seed(5),
        )
    )
    spans = re.findall(r'<span style="background:(#\w+);[^"]*" title="([^"]*)">', fresh.text.value)
    assert len(spans) == 40
    for (color, tip), token in zip(spans, tokens, strict=True):
        experts = token.experts[-1].tolist()
        assert color == plots.EXPERT_COLORS[experts[0]]
        assert html.unescape(tip).endswith(f"layer 2: experts {experts[0]}, {experts[1]}")
    fresh.layer.value = 1
    assert fresh.text.value.count("layer 1: experts") == 40
    first = fresh.text.value
    fresh.button.click()  # the same seed
    assert fresh.text.value == first
    assert fresh.prompt.value == "The "
    assert first.count("<b>The </b>") == 1


def while_writing(playground, act):
    """Click on Generate, let some characters come, act, and wait; what was written by then."""

    async def session():
        playground.button.click()
        await asyncio.sleep(0)  # it begins, with the prompt alone
        while len(playground.new) < 5:
            await asyncio.sleep(0)
        assert not playground.stopper.disabled
        written = playground.tokenizer.decode([token.token for token in playground.new])
        act()
        await playground.writing
        return written

    return asyncio.run(session())


def test_playground_stops_between_two_characters_and_shows_what_could_come_next(fresh):
    fresh.length.value, fresh.seed.value = 60, 5
    fresh.button.click()
    assert fresh.stopper.disabled
    whole = fresh.tokenizer.decode([token.token for token in fresh.new])
    written = while_writing(fresh, fresh.stopper.click)
    assert fresh.stopper.disabled
    assert fresh.tokenizer.decode([token.token for token in fresh.new]) == written
    assert 0 < len(written) < len(whole) == 60
    assert whole.startswith(written)
    assert fresh.text.value.count("drawn with probability") == len(written)
    ids = fresh.tokenizer.encode("The " + written)[None]
    probs = next_token_probs(fresh.model(ids).logits[0, -1].detach())
    assert shown_bars(fresh)[0][1] == f"{probs.max():.3f}"
    before = fresh.text.value, fresh.bars.value
    fresh.stopper.click()  # nothing is being written
    assert (fresh.text.value, fresh.bars.value) == before


def test_playground_drops_a_text_for_another_prompt_or_another_text(fresh):
    fresh.length.value, fresh.seed.value = 60, 5
    while_writing(fresh, lambda: setattr(fresh.prompt, "value", "The b"))
    assert (fresh.new, fresh.stopper.disabled) == ([], True)
    assert "<b>The b</b>" in fresh.text.value
    bars = fresh.bars.value
    fresh.start()
    assert fresh.bars.value == bars

    async def twice():
        fresh.button.click()
        first = fresh.writing
        fresh.button.click()
        await asyncio.gather(first, fresh.writing)

    asyncio.run(twice())
    assert (len(fresh.new), fresh.stopper.disabled) == (60, True)


@pytest.mark.parametrize(
    ("prompt", "answer"), [("Z", "unknown character 'Z' at position 0"), ("", "prompt is empty")]
)
def test_playground_answers_a_prompt_it_cannot_read(fresh, prompt, answer):
    fresh.prompt.value = prompt
    for act in (lambda: None, fresh.button.click, lambda: setattr(fresh.layer, "value", 1)):
        act()
        fresh.temperature.value += 0.1
        assert answer in html.unescape(fresh.text.value)
        assert fresh.bars.value == ""
    fresh.prompt.value = "The <"
    assert "<b>The &lt;</b>" in fresh.text.value
    assert shown_bars(fresh)


def test_playground_says_how_much_the_model_does_not_see(fresh):
    assert "out of its sight" not in fresh.bars.value
    most = fresh.model.config.max_seq_len
    fresh.prompt.value = "a" * (most + 5)
    kept = 3 * most // 4
    assert f"the first {most + 5 - kept} characters are out of its sight" in fresh.bars.value
