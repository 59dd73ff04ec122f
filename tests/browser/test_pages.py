"""The built site in a real browser, with nothing but its own files: `make site` comes before.

It is served on the loopback; a request to any other place is refused and remembered.
"""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zlib
from collections import Counter
from typing import NamedTuple

import pytest
import torch
from chapters import PRESENT
from conftest import ROOT

pytest.importorskip("playwright")
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(ROOT / "tools"))
sys.path.insert(0, str(ROOT / "site"))
import generate as site_pages
import shown
from lab import FLAGS, find_chromium

from moe_tutorial import corpus, sampling
from moe_tutorial.balance import drift
from moe_tutorial.cost import experts_touched

SITE = ROOT / "build" / "site"
MODEL = os.environ.get("MODEL")  # as make hands it on: the run folder that the site was built with
PHONE = {"width": 390, "height": 844}
PAGES = [
    "index.html", "writer.html", "run.html", "more.html", "settings.html", "glossary.html",
    "facts.html", "teach.html", "search.html", "genindex.html", "CONTRIBUTING.html",
    "benchmarks/README.html", "reference/index.html", "reference/moe_tutorial.moe.html",
    "teaching/guide.html", "teaching/07_moe.html",
    *(f"notebooks/{chapter}.html" for chapter in PRESENT),
]  # fmt: skip


class Site:
    """A browser, and the address of the pages."""

    def __init__(self, browser, url):
        self.browser, self.url = browser, url
        self.refused, self.errors = [], []

    def open(self, name, width=1200, height=900, dark=False, base=None) -> Page:
        """A page with its formulas set; what it asked of others is in `refused`."""
        self.refused, self.errors = [], []
        context = self.browser.new_context(viewport={"width": width, "height": height})
        context.route("**/*", self._only_here)
        mode = "dark" if dark else "light"
        context.add_init_script(
            f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')"
        )
        page = context.new_page()
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(f"{base or self.url}/{name}", wait_until="load")
        page.evaluate("window.MathJax ? MathJax.startup.promise : null")
        return page

    def _only_here(self, route):
        if route.request.url.startswith((self.url, SITE.as_uri(), "data:", "blob:")):
            route.continue_()
        else:
            self.refused.append(route.request.url)
            route.abort()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def site():
    assert (SITE / "index.html").exists(), "build the site first: make site"
    handler = functools.partial(Quiet, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield Site(browser, f"http://127.0.0.1:{server.server_port}")
        browser.close()
    server.shutdown()
    server.server_close()


class Visit(NamedTuple):
    """What one page showed."""

    name: str
    refused: list[str]
    errors: list[str]
    titles: list[str]  # its h1
    pictures: list[tuple[str, int]]  # alternative text and width of each
    broken: list[str]  # links to places on the site that are not there
    wide: int  # pixels that the page is wider than a phone
    unreachable: list[str]  # what can be clicked, but not reached with Tab


LOOK = """() => ({
  titles: [...document.querySelectorAll('h1')].filter(e => e.checkVisibility())
    .map(e => e.innerText.replace('#', '').trim()),
  pictures: [...document.querySelectorAll('.bd-content img')].map(e => [e.alt, e.naturalWidth]),
  links: [...document.querySelectorAll('a[href]')].map(e => e.href),
  unreachable: [...document.querySelectorAll(
      '.bd-content a[href], .bd-content button, input, summary')]
    .filter(e => e.checkVisibility() && e.tabIndex < 0).map(e => e.outerHTML.slice(0, 120)),
})"""


@pytest.fixture(scope="module", params=PAGES)
def visit(request, site) -> Visit:
    """Each page once: wide, then as narrow as a phone."""
    page = site.open(request.param)
    seen = page.evaluate(LOOK)
    page.set_viewport_size(PHONE)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    links = {link.partition("#")[0] for link in seen["links"] if link.startswith(site.url)}
    broken = [
        link for link in links
        if not (SITE / link.removeprefix(site.url).lstrip("/").partition("?")[0]).exists()
    ]  # fmt: skip
    found = Visit(
        request.param, site.refused, site.errors, seen["titles"],
        [tuple(p) for p in seen["pictures"]], broken, wide, seen["unreachable"],
    )  # fmt: skip
    page.context.close()
    return found


def test_a_page_asks_no_one_else_and_reports_no_error(visit):
    assert visit.refused == []
    assert visit.errors == []


def test_a_page_has_one_title_and_its_links_lead_somewhere(visit):
    assert len(visit.titles) == 1
    assert visit.broken == []


def test_pictures_are_there_and_say_what_they_show(visit):
    for alt, width in visit.pictures:
        assert len(alt.split()) >= 4
        assert width > 0
    assert visit.pictures or not visit.name.startswith("notebooks/")


def test_a_page_fits_a_phone_without_sideways_scrolling(visit):
    assert visit.wide <= 0


def test_everything_that_can_be_clicked_can_be_reached_with_tab(visit):
    assert visit.unreachable == []


def test_a_request_to_another_place_would_have_been_seen(site):
    page = site.open("index.html")
    page.evaluate("fetch('http://192.0.2.1/x').catch(() => null)")
    assert site.refused == ["http://192.0.2.1/x"]
    page.context.close()


@pytest.mark.parametrize(("words", "chapter"), [("router", "07_moe"), ("top-p", "09_sampling")])
def test_search_finds_a_chapter(site, words, chapter):
    page = site.open(f"search.html?q={words}")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function("/[0-9]/.test(document.querySelector('.search-summary').innerText)")
    targets = page.locator("#search-results li a").evaluate_all("all => all.map(e => e.href)")
    assert any(f"notebooks/{chapter}.html" in target for target in targets[:20])
    page.context.close()


def test_formulas_are_set_with_fonts_that_came_along(site):
    page = site.open("notebooks/01_corpus.html")
    assert page.locator(".bd-content mjx-container").count() >= 2
    assert page.evaluate("document.fonts.ready.then(all => [...all].some("
                         "f => f.family.includes('MJX') && f.status === 'loaded'))")  # fmt: skip
    assert site.errors == []
    page.context.close()


def test_the_pages_also_work_from_a_folder_without_a_server(site):
    """Formulas, sliders, and search without excerpts; the model asks for a server, in one line."""
    here = SITE.as_uri()
    page = site.open("notebooks/01_corpus.html", base=here)
    assert page.locator(".bd-content mjx-container").count() >= 2
    page.goto(f"{here}/notebooks/09_sampling.html")
    assert page.locator("#sampling_slider rect").count() == 12
    assert (site.refused, site.errors) == ([], [])
    page.goto(f"{here}/search.html?q=router")
    page.wait_for_selector("#search-results li a[href*='07_moe']")
    assert "python -m http.server" in page.locator(".needs-server").inner_text()
    page.goto(f"{here}/writer.html")
    status = page.locator(".writer-status")
    assert "python -m http.server" in status.inner_text()
    page.locator("[name=write]").click()
    page.wait_for_function("!document.querySelector('[name=write]').disabled")
    assert "python -m http.server" in status.inner_text()
    page.context.close()


def test_from_a_server_no_page_asks_for_one(site):
    for name in ("search.html?q=router", "writer.html"):
        page = site.open(name)
        assert "http.server" not in page.locator("body").inner_text()
        page.context.close()


PAPER = {"width": 718, "height": 1000}  # A4 between margins of 1 cm, at 96 pixels per inch


@pytest.fixture(scope="module", params=PRESENT)
def chapter(request, site):
    """A chapter on the screen, in the width of paper."""
    page = site.open(f"notebooks/{request.param}.html", **PAPER)
    yield page
    page.context.close()


CONTRAST = """selector => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0.5) return color;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll(selector)].filter(e => e.innerText.trim())
    .map(e => [light(parse(getComputedStyle(e).color)), light(behind(e))])
    .map(pair => (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_a_page_is_light_or_dark_as_it_was_left(site, dark):
    page = site.open("notebooks/07_moe.html", dark=dark)
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark
    buttons = page.evaluate(CONTRAST, "#pst-back-to-top, .theme-change-button")
    assert len(buttons) == 4
    assert min(buttons) >= 4.5
    page.context.close()


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_code_can_be_read_in_both_modes(chapter, mode):
    """Contrast of 4.5, as WCAG 2 asks for in level AA."""
    chapter.add_style_tag(content="* { transition: none !important; }")
    chapter.evaluate(f"Object.assign(document.documentElement.dataset, {{theme: '{mode}'}})")
    for selector, least in ((".bd-content :is(p, li, a, td, th, summary, label)", 21),
                            (".bd-content pre span", 21), (".bd-content .output pre", 4),
                            (".bd-content div.cell_output span[title]", 0)):  # fmt: skip
        found = chapter.evaluate(CONTRAST, selector)
        assert len(found) >= least
        assert min(found, default=21) >= 4.5, selector


def test_figures_lie_on_a_light_card_in_dark_mode(site):
    page = site.open("notebooks/07_moe.html", dark=True)
    cards = page.locator(".bd-content img").evaluate_all(
        "all => all.map(e => getComputedStyle(e).backgroundColor)"
    )
    assert set(cards) == {"rgb(255, 255, 255)"}
    page.context.close()


@pytest.mark.parametrize("chapter", PRESENT)
def test_the_notebook_that_a_page_offers_is_that_of_the_repository(chapter):
    page = (SITE / "notebooks" / f"{chapter}.html").read_text(encoding="utf-8")
    assert f'href="../_sources/notebooks/{chapter}.ipynb"' in page
    offered = SITE / "_sources" / "notebooks" / f"{chapter}.ipynb"
    assert offered.read_bytes() == (ROOT / "notebooks" / f"{chapter}.ipynb").read_bytes()


FOLDS = "[...document.querySelectorAll('details')].map(e => e.open)"
CUT = """() => [...document.querySelectorAll('.bd-content *')].filter(e => e.checkVisibility()
  && e.clientWidth && getComputedStyle(e).overflowX !== 'visible'
  && e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 120))"""


def test_printing_opens_solutions_and_answers_and_closes_them_again(chapter):
    before = chapter.evaluate(FOLDS)
    assert before.count(False) >= 6  # three solutions, three answers
    chapter.emulate_media(media="print")
    chapter.wait_for_function(f"{FOLDS}.every(Boolean)")
    texts = chapter.locator(".bd-content details > :not(summary)")
    assert texts.count() >= 6
    assert texts.evaluate_all("all => all.every(e => e.checkVisibility() && e.innerText.trim())")
    assert chapter.evaluate(CUT) == []
    chapter.emulate_media(media="screen")
    chapter.wait_for_function(
        f"JSON.stringify({FOLDS}) === '{json.dumps(before)}'.replaceAll(' ', '')"
    )


def test_every_solution_and_answer_opens_and_closes_with_the_keyboard(chapter):
    folds = chapter.locator(".bd-content details")
    assert folds.count() >= 6
    for fold in folds.all():
        assert not fold.evaluate("e => e.open")
        fold.locator("summary").first.focus()
        chapter.keyboard.press("Enter")
        assert fold.evaluate("e => e.open")
        chapter.keyboard.press("Space")
        assert not fold.evaluate("e => e.open")


# The sliders.


@pytest.fixture
def figure(site, request):
    chapter, name = request.param
    page = site.open(f"notebooks/{chapter}.html")
    yield Moved(page, name)
    assert site.errors == []
    page.context.close()


class Moved:
    """A slider of a chapter, moved by keyboard."""

    def __init__(self, page, name):
        self.page, self.box = page, page.locator(f"#{name}")

    def move(self, *values):
        """Move every range to the place of its value; what the page then says of it is returned."""
        for i, value in enumerate(values):
            ranged = self.box.locator("input").nth(i)
            ranged.focus()
            self.page.keyboard.press("Home")
            for _ in range(200):
                if ranged.get_attribute("aria-valuetext") == str(value):
                    break
                self.page.keyboard.press("ArrowRight")
            assert ranged.get_attribute("aria-valuetext") == str(value)
        return self.box.locator(".said").inner_text()

    def all(self, selector, attribute):
        code = f"all => all.map(e => e.getAttribute('{attribute}'))"
        return self.box.locator(selector).evaluate_all(code)

    def curves(self):
        """Name and numbers of every curve, panel by panel."""
        names = self.all("polyline", "data-name")
        values = [[float(v) for v in text.split()] for text in self.all("polyline", "data-values")]
        return list(zip(names, values, strict=True))


def of(chapter, name):
    return pytest.mark.parametrize("figure", [(chapter, name)], indirect=True)


@of("09_sampling", "sampling_slider")
def test_temperature_top_k_and_top_p_are_those_of_the_library(figure):
    fables = corpus.load_corpus("fables").train
    after = Counter(fables[i + 2] for i in range(len(fables) - 2) if fables[i : i + 2] == "ma")
    logits = torch.tensor([n for _, n in after.most_common()], dtype=torch.float64).log()
    for temperature, k, p in ((1, 12, 1), (0, 12, 1), (2, 5, 1), (0.5, 12, 0.7), (1.5, 8, 0.9)):
        said = figure.move(temperature, k, p)
        expected = sampling.next_token_probs(logits, temperature, k, p)
        shown = torch.tensor([float(v) for v in figure.all("rect", "data-after")])
        before = torch.tensor([float(v) for v in figure.all("rect", "data-before")])
        assert (shown - expected).abs().max() < 1e-4
        assert (before - sampling.next_token_probs(logits, temperature)).abs().max() < 1e-4
        assert f"{expected.count_nonzero()} of {len(logits)} kept" in said


@of("04_rope", "offset_slider")
def test_the_rotated_curve_stays_and_the_added_one_moves_as_chapter_04_printed_it(figure):
    stored = (ROOT / "notebooks" / "04_rope.ipynb").read_text(encoding="utf-8")
    gaps = {}
    for place in (300, 464):
        figure.move(place)
        rotated, rotated_there, added, added_there = figure.curves()
        assert rotated_there[0] == added_there[0] == f"key at {place}"
        for name, a, b in (("rotated", rotated, rotated_there), ("added", added, added_there)):
            gaps[name] = max(abs(x - y) for x, y in zip(a[1], b[1], strict=True))
        assert gaps["rotated"] < 0.001
        if place == 300:
            assert f"added: {gaps['added']:.2f}" in stored


@of("11_router_health", "drift_slider")
def test_the_drifting_router_is_that_of_the_library(figure):
    for rate in (0.0005, 0.01, 0.1):
        figure.move(rate)
        curves = dict(figure.curves())
        assert list(curves) == ["no bias", "quantile", f"sign, rate {rate}"]
        for values, rule in zip(curves.values(), (None, "quantile", "bias"), strict=True):
            raw = drift(rule, rate=rate) if rule == "bias" else drift(rule)
            for step in (1, 21, 199):
                window = raw[max(0, step - 20) : step]
                assert values[(step - 1) // 2] == pytest.approx(sum(window) / len(window), abs=1e-3)


@of("13_does_it_pay", "touched_slider")
def test_the_experts_that_tokens_touch_are_those_of_the_library(figure):
    for experts, chosen in ((8, 2), (128, 8), (4, 16)):
        figure.move(experts, chosen)
        ((name, values),) = figure.curves()
        assert name == f"{chosen} of {experts}"
        batches = (1, 2, 4, 8, 16, 32, 64, 256)
        expected = [experts_touched(experts, min(experts, chosen), b) for b in batches]
        assert values == pytest.approx(expected, abs=1e-4)


@of("16_speculation", "gain_slider")
def test_the_gain_of_a_draft_is_that_of_the_experts_it_touches(figure):
    """Per pass 1 + a + ... + a^G characters; a pass reads experts or computes 256 pairs a read."""

    def time(experts, chosen, tokens):
        return max(experts_touched(experts, chosen, tokens), tokens * chosen / 256)

    shapes = {"1 of 1": (1, 1), "2 of 8": (8, 2), "8 of 64": (64, 8), "8 of 256": (256, 8)}
    for mixture, share, guesses in (("8 of 256", 0.8, 3), ("2 of 8", 0.9, 8), ("8 of 64", 0, 1),
                                    ("1 of 1", 0.4, 5)):  # fmt: skip
        figure.move(mixture, share, guesses)
        (_, ones), (name, sparse), (_, dense) = curves = figure.curves()
        assert [each for each, _ in curves] == ["without guesses", mixture, "dense"]
        assert set(ones) == {1}
        assert len(ones) == len(sparse) == 15
        characters = sum(share**i for i in range(guesses + 1))
        for shape, values in ((shapes[name], sparse), ((1, 1), dense)):
            for i, value in enumerate(values):
                slower = time(*shape, 2**i * (guesses + 1)) / time(*shape, 2**i)
                assert value == pytest.approx(characters / slower, abs=1e-3)


@of("12_specialists", "training_strip")
def test_the_routing_over_the_training_is_that_of_the_experiment(figure):
    path = ROOT / "moe_tutorial" / "experiments" / "results" / "early.json"
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    (kept,) = (run for run in runs if run["seed"] == 0)
    for step in ("0", "200", "1000"):
        for layer in (1, 2):
            figure.move(step, layer)
            assert (
                "".join(figure.all(".strip span", "data-expert")) == kept["strip"][step][layer - 1]
            )


# The model in the page.


@pytest.fixture(scope="module")
def writer(site):
    page = site.open("writer.html")
    yield Writer(site, page)
    page.context.close()


class Writer:
    """The form of writer.html."""

    def __init__(self, site, page):
        self.site, self.page = site, page

    def write(self, **values):
        """Fill the form, write, and wait for the end; text after the prompt, and what is said."""
        for name, value in values.items():
            field = self.page.locator(f"form.writer [name={name}]")
            if field.get_attribute("type") == "range":
                field.evaluate(f"e => {{ e.value = {value}; e.dispatchEvent(new Event('input')) }}")
            else:
                field.fill(str(value))
        self.page.locator("[name=write]").click()
        self.page.wait_for_function(
            "document.querySelector('[name=stop]').disabled", timeout=120_000
        )
        spans = self.page.locator(".writer-text span").all_text_contents()
        return "".join(spans), self.page.locator(".writer-status").inner_text()


def test_the_model_in_the_page_writes_what_the_library_writes(writer):
    """Greedy, over the end of the context, where the window slides."""
    model, tokenizer, prompt, *_ = shown.trained(MODEL) if MODEL else shown.committed()
    text, said = writer.write(prompt=prompt, temperature=0, top_k=61, top_p=1, count=150)
    drawn = list(
        sampling.generate(model, tokenizer.encode(prompt), max_new_tokens=150, temperature=0)
    )
    assert text == tokenizer.decode([each.token for each in drawn])
    assert said.startswith("150 characters")
    colored = writer.page.locator(".writer-text span").evaluate_all(
        "all => all.map(e => e.dataset.expert)"
    )
    assert [int(e) for e in colored] == [each.experts[0, 0].item() for each in drawn]
    assert writer.site.refused == []
    assert writer.site.errors == []


def test_the_model_in_the_page_is_small_and_quick(site):
    """Of all that the page loads, style and scripts too, from a server that packs nothing."""
    page, loaded = site.open("index.html"), {}
    page.on("response", lambda answer: loaded.update({answer.url: answer}))
    page.goto(f"{site.url}/writer.html")
    Writer(site, page).write(prompt="The", temperature=1, top_k=61, top_p=1, count=200)
    sizes = {url: int(answer.header_value("content-length")) for url, answer in loaded.items()}
    model = [n for url, n in sizes.items() if "/onnxruntime/" in url or "/model.onnx" in url]
    whole = sum(sizes.values()) / 1e6
    assert len(model) == 4
    assert whole < 10
    assert whole - sum(model) / 1e6 < 2.7  # EVERY_PAGE of onnx_model.py
    assert f"loads {sum(model) / 1e6:.1f} MB" in page.locator(".bd-content").inner_text()
    speed = float(page.locator("form.writer").get_attribute("data-speed"))
    print(f"{whole:.1f} MB in all, {speed} characters per second")
    assert speed >= 20
    page.context.close()


def test_a_seed_fixes_the_text_and_another_changes_it(writer):
    same = {"prompt": "The", "temperature": 1, "top_k": 61, "top_p": 1, "count": 60}
    first, _ = writer.write(seed=3, **same)
    assert len(first) == 60
    assert writer.write(seed=3, **same)[0] == first
    assert writer.write(seed=4, **same)[0] != first


def test_an_unknown_character_and_an_empty_prompt_are_answered_in_the_page(writer):
    assert 'does not know "☃", character 3' in writer.write(prompt="ab☃", count=5)[1]
    assert "the prompt is empty" in writer.write(prompt="", count=5)[1]
    assert writer.write(prompt="The", count=5)[1].startswith("5 characters")


def test_the_page_draws_from_the_probabilities_of_the_library(writer):
    torch.manual_seed(0)
    every = ((1, 30, 1), (0, 30, 1), (0.5, 5, 1), (1, 1, 1), (2, 7, 1), (2, 30, 0.5), (1, 7, 0.8))
    for temperature, k, p in every:
        logits = torch.randn(30)  # flat enough that one character more or less is seen
        found = writer.page.evaluate(
            "([logits, ...rest]) => course.nextTokenProbs(logits, ...rest)",
            [logits.tolist(), temperature, k, p],
        )
        expected = sampling.next_token_probs(logits, temperature, k, p)
        assert (torch.tensor(found) - expected).abs().max() < 1e-5


def test_what_is_drawn_has_the_given_probabilities(writer):
    found = writer.page.evaluate(
        """() => {
            const random = course.uniform(5), counts = [0, 0, 0, 0];
            for (let i = 0; i < 20000; i++) counts[course.draw([0.5, 0, 0.3, 0.2], random)]++;
            return counts;
        }"""
    )
    assert found[1] == 0
    assert [n / 20000 for n in found] == pytest.approx([0.5, 0, 0.3, 0.2], abs=0.015)


PARITY = """
import onnx_model, shown
model, _, _, tokens, *_ = shown.committed()
graph, tokens = onnx_model.export(model), tokens[:40]
print(onnx_model.verify(model, graph, tokens))
model.head.weight.data[5] *= 1.01
try:
    onnx_model.verify(model, graph, tokens)
except ValueError as error:
    print(error)
"""
# Every router that can be set, in graphs so small that seconds are enough.
ROUTERS = """
import onnx_model, torch
from moe_tutorial.config import ModelConfig
from moe_tutorial.model import MoELanguageModel
small = {"dim": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_seq_len": 12}
for changes in (
    {"router": "sigmoid", "balance": "bias"},
    {"balance": "quantile", "shared_expert": False},
    {"router_score": "sqrtsoftplus", "router_normalize": True, "router_scale": 1.4},
):
    torch.manual_seed(0)
    model = MoELanguageModel(ModelConfig(**small, **changes), 9).eval()
    graph = onnx_model.export(model)
    print(onnx_model.verify(model, graph, torch.randint(9, (12,))))
"""
TOO_MUCH = """
import onnx_model, pathlib, shown, sys, torch
from moe_tutorial.config import ModelConfig
from moe_tutorial.model import MoELanguageModel
small = ModelConfig(dim=16, num_layers=1, num_heads=2, hidden_dim=8, max_seq_len=12)
tokens, folder = torch.arange(9), pathlib.Path(sys.argv[1])
model = shown.committed()._replace(model=MoELanguageModel(small, 61).eval(), tokens=tokens)
(folder / "onnxruntime").mkdir()
(folder / "onnxruntime" / "large").write_bytes(bytes(6_000_000))
(folder / "model.onnx.gz").write_bytes(b"half a file")
print(onnx_model.write_model(folder, model).splitlines()[0])
(folder / "onnxruntime" / "more").write_bytes(bytes(2_000_000))
try:
    onnx_model.write_model(folder, model)
except ValueError as error:
    print(error)
"""


def in_the_site_environment(*arguments):
    """What Python prints there, where onnxruntime is."""
    python = ROOT / "build" / "site-venv" / "bin" / "python"
    path = f"{ROOT / 'site'}:{ROOT}"
    return subprocess.run(
        [python, *arguments], env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_graph_is_the_model_and_a_changed_weight_is_noticed():
    worst, refusal = in_the_site_environment("-c", PARITY).stdout.splitlines()
    assert float(worst) < 1e-5
    assert "differs from the library" in refusal


def test_the_graph_has_every_router_that_can_be_set():
    found = [float(line) for line in in_the_site_environment("-c", ROUTERS).stdout.splitlines()]
    assert len(found) == 3
    assert max(found) < 1e-5


def test_a_damaged_graph_is_exported_again_and_a_page_of_10_megabytes_is_refused(tmp_path):
    said, refusal = in_the_site_environment("-c", TOO_MUCH, tmp_path).stdout.splitlines()
    size = (tmp_path / "model.onnx.gz").stat().st_size / 1e6
    assert 0 < size < 1
    assert f"loads {size + 6:.1f} MB" in said
    assert f"would load {size + 8:.1f} MB" in refusal


def test_a_folder_without_a_model_builds_nothing(tmp_path):
    done = in_the_site_environment("site/make_site.py", "--model-path", tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path} holds no trained model")


def test_every_public_name_of_the_library_has_its_place():
    content = (SITE / "objects.inv").read_bytes().split(b"\n", 4)[4]
    known = {line.split()[0] for line in zlib.decompress(content).decode().splitlines()}
    missing = [
        f"{module}.{name}"
        for module in site_pages.modules()
        for name in site_pages.public_names(module)
        if f"{module}.{name}" not in known
    ]
    assert missing == []
