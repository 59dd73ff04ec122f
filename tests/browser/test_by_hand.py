"""What chapters 07 and 09 have in place of a widget: a router played by keyboard, and a link."""

import math
import re

import pytest
import test_pages
import torch

from moe_tutorial.balance import router_health
from moe_tutorial.moe import Routing, load_balancing_loss

site = test_pages.site
TEXT = "The dog sat by the g"
GROUPS = {" ": 0} | dict.fromkeys("heT", 1) | dict.fromkeys("gtd", 2) | dict.fromkeys("osaby", 3)
OWN = [GROUPS[char] for char in TEXT]  # five characters for each expert, the spaces alone
SAID = (
    r"load (\d+)%, (\d+)%, (\d+)%, (\d+)%; idle experts (\d); max violation \(MaxVio\) ([\d.]+); "
    r"balance loss ([\d.]+); equal characters meet one expert: (yes|no)"
)


class ByHand:
    """The buttons and the slider of the page."""

    def __init__(self, page):
        self.page, self.box = page, page.locator("#hand_router")
        self.tokens = self.box.locator(".tokens button")
        self.ahead = self.box.locator("input")

    def play(self, experts, ahead):
        """Press every character's button until it has its expert, and move the slider."""
        self.box.locator("form button").click()
        for token, expert in enumerate(experts):
            self.tokens.nth(token).focus()
            for press in range(expert):
                self.page.keyboard.press("Enter" if press % 2 else "Space")
            assert self.tokens.nth(token).evaluate("e => e === document.activeElement")
        self.ahead.focus()
        self.page.keyboard.press("Home")
        for _ in range(round(2 * ahead)):
            self.page.keyboard.press("ArrowRight")
        return self.said()

    def said(self):
        """Load in percent, idle experts, MaxVio, balance loss, and yes or no."""
        *numbers, loyal = re.fullmatch(SAID, self.box.locator(".said").inner_text()).groups()
        return [float(number) for number in numbers], loyal


@pytest.fixture(scope="module")
def by_hand(site):
    page = site.open("notebooks/07_moe.html")
    yield ByHand(page)
    assert (site.refused, site.errors) == ([], [])
    page.context.close()


def measured(experts, ahead):
    """What the library says of one choice per token, its logit ahead of the equal others."""
    chosen = torch.tensor(experts)[:, None]
    logits = float(ahead) * torch.nn.functional.one_hot(chosen[:, 0], 4)
    routing = Routing(torch.ones(len(experts), 1), chosen, logits.softmax(-1))
    health, loss = router_health(routing), load_balancing_loss([routing]).item()
    return [*(100 * health.load).tolist(), health.idle, health.max_violation, loss]


def test_the_page_starts_with_all_characters_at_expert_0(by_hand):
    visible = TEXT.replace(" ", "\u2423")
    assert by_hand.tokens.all_inner_texts() == [f"{char} 0" for char in visible]
    numbers, loyal = by_hand.said()
    assert numbers == pytest.approx([100, 0, 0, 0, 3, 3, 4 * 0.7112], abs=1e-3)
    assert loyal == "yes"
    assert by_hand.box.locator("meter").evaluate("e => [e.min, e.max, e.value]") == [0, 3, 3]


@pytest.mark.parametrize(
    ("experts", "ahead", "loyal"),
    [
        ([0] * 20, 0, "yes"),
        ([0] * 20, 8, "yes"),
        ([0, 1, 2, 3] * 5, 2, "no"),
        (OWN, 8, "yes"),
        ([3] * 13 + [1] * 7, 0.5, "no"),
        ([0, 0, 0, 2] * 5, 3.5, "no"),
    ],
)
def test_the_numbers_in_the_page_are_those_of_the_library(by_hand, experts, ahead, loyal):
    numbers, found = by_hand.play(experts, ahead)
    expected = measured(experts, ahead)
    assert numbers[:5] == [round(number) for number in expected[:5]]
    assert numbers[5] == pytest.approx(expected[5], abs=0.00501)
    assert numbers[6] == pytest.approx(expected[6], abs=0.000501)
    assert found == loyal
    meter = by_hand.box.locator("meter")
    assert meter.evaluate("e => e.value") == pytest.approx(expected[5], abs=1e-6)
    p = math.exp(ahead) / (math.exp(ahead) + 3)
    for line, share in zip(by_hand.box.locator(".share").all(), numbers[:4], strict=True):
        f, mean = (float(each) for each in re.findall(r"\d\.\d+", line.inner_text()))
        assert f == share / 100
        assert mean == pytest.approx(f * p + (1 - f) * (1 - p) / 3, abs=0.00501)


def test_after_the_last_expert_comes_the_first_and_a_button_sends_all_back(by_hand):
    by_hand.play([0, 3, *[1] * 18], 2)
    by_hand.tokens.nth(1).click()
    assert by_hand.tokens.all_inner_texts()[:3] == ["T 0", "h 0", "e 1"]
    assert by_hand.tokens.nth(2).get_attribute("title") == "e goes to expert 1"
    by_hand.box.locator("form button").click()
    assert all(text.endswith(" 0") for text in by_hand.tokens.all_inner_texts())


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_buttons_and_what_is_said_can_be_read_on_a_phone(by_hand, mode):
    page = by_hand.page
    page.add_style_tag(content="* { transition: none !important; }")
    page.evaluate(f"Object.assign(document.documentElement.dataset, {{theme: '{mode}'}})")
    page.set_viewport_size(test_pages.PHONE)
    by_hand.play(OWN, 2)
    found = page.evaluate(test_pages.CONTRAST, "#hand_router :is(button, p, span, output)")
    assert len(found) >= 35
    assert min(found) >= 4.5
    right = "e => [...e.querySelectorAll('*')].map(each => each.getBoundingClientRect().right)"
    assert max(by_hand.box.evaluate(right)) <= test_pages.PHONE["width"]


def test_the_page_of_the_playground_leads_to_the_model_that_writes(site):
    page = site.open("notebooks/09_sampling.html")
    page.locator(".bd-content a[href='../writer.html']").click()
    page.wait_for_selector("form.writer")
    assert page.url.endswith("/writer.html")
    page.context.close()
