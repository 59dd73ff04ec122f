"""The sliders of the chapters, moved by keyboard and by mouse in JupyterLab as a reader would."""

import shutil
import sys
import time

import pytest
from conftest import ROOT

pytest.importorskip("playwright")
sys.path.insert(0, str(ROOT / "tools"))
from lab import find_chromium, jupyter_lab

VALUE = "element => Number(element.getAttribute('aria-valuetext'))"  # aria-valuenow is rounded


def settle(page):
    """Wait until the kernel has answered all that was sent and the page shows it.

    Messages are answered in order, so an empty request behind them is done when they are; a slider
    keeps back its newest value until its last one is answered, hence three times.
    """
    for _ in range(3):
        page.evaluate(
            """async () => {
                const context = window.jupyterapp.shell.currentWidget.context.sessionContext;
                await context.session.kernel.requestExecute({code: ''}).done;
                for (let frame = 0; frame < 2; frame++)
                    await new Promise(done => requestAnimationFrame(done));
            }"""
        )


def eventually(true, seconds=10):
    """Wait until the condition holds, for what takes the page a moment, such as a new image."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} seconds"
        time.sleep(0.1)


class Slider:
    """One slider of a page and what stands below it."""

    def __init__(self, page, handle):
        self.page, self.handle = page, handle
        handle.scroll_into_view_if_needed()

    @property
    def value(self):
        return self.handle.evaluate(VALUE)

    def press(self, key, times=1):
        self.handle.focus()
        for _ in range(times):
            self.page.keyboard.press(key)
        self.settle()
        return self.value

    def drag(self, share):
        """Move the handle with the mouse to this share of the track's width."""
        track = self.handle.locator("xpath=ancestor::*[contains(@class, 'noUi-base')]")
        box, start = track.bounding_box(), self.handle.bounding_box()
        x, y = start["x"] + start["width"] / 2, start["y"] + start["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + share * box["width"], y, steps=8)
        self.page.mouse.up()
        self.settle()
        return self.value

    def put(self, value):
        """Move to this value by keyboard."""
        self.press("Home")
        while self.value < value - 1e-9:
            self.page.keyboard.press("ArrowRight")
        self.settle()

    def settle(self):
        settle(self.page)


def picture(page, under):
    """The pixels of the image widget below a slider, as text."""
    image = page.locator(f"{under} img.jupyter-widgets")
    return image.evaluate(
        """async image => {
            await image.decode();
            const canvas = document.createElement('canvas');
            canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
            canvas.getContext('2d').drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("no Chromium: `make test-browser` installs one where it may")
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    with jupyter_lab(folder / "notebooks", tmp_path_factory.mktemp("jupyter")) as lab:
        yield lab


@pytest.fixture(scope="module")
def rope(lab):
    page = lab.open("04_rope.ipynb")
    yield page
    page.close()


def test_position_slider_redraws_for_each_position_and_comes_back(rope):
    box = ".jp-OutputArea .widget-vbox"
    slider = Slider(rope, rope.locator(f"{box} [role=slider]"))
    at_start = picture(rope, box)
    assert slider.value == 0
    assert slider.press("ArrowRight", 3) == 3
    eventually(lambda: picture(rope, box) != at_start)
    by_keyboard = picture(rope, box)
    assert slider.drag(1.0) == slider.press("End")
    eventually(lambda: picture(rope, box) not in (at_start, by_keyboard))
    assert slider.press("Home") == 0
    eventually(lambda: picture(rope, box) == at_start)


def test_rate_of_the_bias_redraws_the_drift_and_comes_back(lab):
    page = lab.open("11_router_health.ipynb")
    box = ".jp-OutputArea .widget-vbox"
    slider = Slider(page, page.locator(f"{box} [role=slider]"))
    at_start = picture(page, box)
    slider.press("ArrowRight", 2)
    eventually(lambda: picture(page, box) != at_start)
    by_keyboard = picture(page, box)
    slider.drag(0.0)
    eventually(lambda: picture(page, box) not in (at_start, by_keyboard))


def test_the_reader_is_the_router_by_mouse_and_by_keyboard(lab):
    page = lab.open("07_moe.ipynb")
    box, note = ".hand-router-box", page.locator(".hand-router-note")
    token = lambda i: page.locator(f".hand-router-token-{i}")  # noqa: E731
    all_to_0, at_start = note.inner_text(), picture(page, box)
    assert "load 100%, 0%, 0%, 0%" in all_to_0
    assert token(0).inner_text() == "T 0"
    colors = [token(0).evaluate("e => getComputedStyle(e).backgroundColor")]
    token(0).click()
    settle(page)
    assert token(0).inner_text() == "T 1"
    assert "load 95%, 5%, 0%, 0%" in note.inner_text()
    colors.append(token(0).evaluate("e => getComputedStyle(e).backgroundColor"))
    assert colors[0] != colors[1]
    for i in range(1, 20):
        token(i).focus()
        for _ in range(i % 4):
            page.keyboard.press("Enter")
    token(0).focus()
    for _ in range(3):
        page.keyboard.press("Enter")  # from expert 1 back to 0
    settle(page)
    eventually(lambda: "(MaxVio) 0.00; balance loss 1.000" in note.inner_text())
    assert "equal characters meet one expert: no" in note.inner_text()
    eventually(lambda: picture(page, box) != at_start)
    page.locator(".hand-router-again").click()
    settle(page)
    eventually(lambda: note.inner_text() == all_to_0 and picture(page, box) == at_start)
    assert Slider(page, page.locator(".hand-router-ahead [role=slider]")).press("Home") == 0
    eventually(lambda: "balance loss 1.000" in note.inner_text())
    assert "load 100%, 0%, 0%, 0%" in note.inner_text()
    page.close()


@pytest.fixture(scope="module")
def sampling(lab):
    page = lab.open("09_sampling.ipynb")
    yield page
    page.close()


def redraws_and_comes_back(page, box, count):
    """Every slider of a box, by keyboard and by mouse."""
    sliders = page.locator(f"{box} [role=slider]")
    assert sliders.count() == count
    at_start = picture(page, box)
    for i in range(count):
        slider = Slider(page, sliders.nth(i))
        value = slider.value
        slider.press("ArrowLeft", 3)
        if slider.value == value:  # it stood at its left end
            slider.press("ArrowRight", 3)
        assert slider.value != value
        eventually(lambda: picture(page, box) != at_start)
        by_keyboard = picture(page, box)
        slider.drag(0.1)
        eventually(lambda keyboard=by_keyboard: picture(page, box) != keyboard)
        slider.put(value)
        eventually(lambda: picture(page, box) == at_start)


def test_sampling_sliders_redraw_and_come_back(sampling):
    redraws_and_comes_back(sampling, ".jp-OutputArea .widget-vbox:not(.playground-box):has(img)", 3)


def test_experts_and_choices_redraw_what_a_batch_touches(lab):
    page = lab.open("13_does_it_pay.ipynb")
    redraws_and_comes_back(page, ".jp-OutputArea .widget-vbox:has(img)", 2)
    page.close()


def test_values_are_whole_in_a_narrow_window(sampling):
    sampling.set_viewport_size({"width": 800, "height": 1000})
    for box in (".widget-vbox:not(.playground-box):has(img)", ".playground-box"):
        outside = sampling.locator(f".jp-OutputArea {box}")
        outside.scroll_into_view_if_needed()
        settle(sampling)
        end = outside.bounding_box()
        values = [value.bounding_box() for value in outside.locator(".widget-readout").all()]
        assert len(values) >= 3
        assert all(v["x"] + v["width"] <= end["x"] + end["width"] for v in values)
    sampling.set_viewport_size({"width": 1200, "height": 1000})


class Playground:
    """The playground of chapter 09 as a page shows it."""

    def __init__(self, page):
        self.page = page

    def slider(self, name):
        return Slider(self.page, self.page.locator(f".playground-{name} [role=slider]"))

    def reset(self):
        for name, key in (("temperature", "Home"), ("top-k", "End"), ("top-p", "End")):
            self.slider(name).press(key)
        self.slider("temperature").press("ArrowRight", 20)  # 20 steps of 0.05: temperature 1
        assert self.slider("temperature").value == pytest.approx(1)

    def bars(self):
        """Symbol, printed probability and length in pixels of every bar."""
        rows = self.page.locator(".playground-bars .playground-bar").all()
        cells = [[row.locator("span").nth(i) for i in range(3)] for row in rows]
        return [
            (symbol.text_content(), float(share.text_content()), bar.bounding_box()["width"])
            for symbol, bar, share in cells
        ]

    def shares(self):
        return [share for _, share, _ in self.bars()]

    def possible(self):
        words = self.page.locator(".playground-bars").inner_text()
        return int(words.split("next character, ")[1].split()[0])

    def text(self):
        return self.page.locator(".playground-text").text_content()

    @property
    def stop(self):
        return self.page.locator(".playground-stopper")

    def generate(self):
        self.page.locator(".playground-button").click()
        settle(self.page)
        eventually(self.stop.is_disabled, seconds=60)
        settle(self.page)


@pytest.fixture
def playground(sampling):
    playground = Playground(sampling)
    playground.reset()
    return playground


def test_temperature_zero_leaves_one_bar_and_more_temperature_flattens(playground):
    temperature = playground.slider("temperature")
    at_one = playground.shares()
    assert temperature.press("Home") == 0
    [(symbol, share, width)] = playground.bars()
    assert (share, playground.possible()) == (1.0, 1)
    assert width == pytest.approx(300, abs=1)
    assert temperature.drag(1.0) == 2
    bars = playground.bars()
    assert len(bars) > 3
    assert bars[0][0] == symbol  # the same favorite
    assert share > at_one[0] > bars[0][1]  # at 0, at 1, at 2
    widths = [width for _, _, width in bars]
    assert widths == pytest.approx([300 * share for _, share, _ in bars], abs=1)


def test_top_k_three_leaves_three_bars_and_temperature_takes_the_root(playground):
    top_k = playground.slider("top-k")
    assert top_k.press("Home") == 1
    assert playground.shares() == [1.0]
    assert top_k.press("ArrowRight", 2) == 3
    at_one = playground.shares()
    assert len(at_one) == 3
    assert playground.possible() == 3
    assert sum(at_one) == pytest.approx(1, abs=0.002)
    assert playground.slider("temperature").press("End") == 2
    roots = [share**0.5 for share in at_one]  # p ** (1 / temperature), renormalized
    assert playground.shares() == pytest.approx([r / sum(roots) for r in roots], abs=0.02)
    assert top_k.drag(0.5) > 10
    assert playground.possible() == top_k.value


def test_top_p_keeps_the_fewest_that_reach_it(playground):
    playground.slider("temperature").press("End")
    everything = playground.shares()
    top_p = playground.slider("top-p")
    limit = top_p.drag(0.3)
    kept = playground.possible()
    assert sum(everything[:kept]) >= limit - 0.01
    assert sum(everything[: kept - 1]) < limit + 0.01
    assert top_p.press("Home") == 0.05
    assert playground.possible() == 1


def test_generated_text_streams_in_the_color_of_its_experts(playground):
    page = playground.page
    playground.slider("new").press("End")
    page.evaluate(
        """() => {
            window.sizes = new Set();
            new MutationObserver(() => window.sizes.add(
                document.querySelectorAll('.playground-text span[title]').length
            )).observe(
                document.querySelector('.playground-text'), {childList: true, subtree: true}
            );
        }"""
    )
    playground.generate()
    assert page.evaluate("window.sizes.size") > 3  # it was seen growing
    text, bars = playground.text(), playground.bars()
    tips = page.locator(".playground-text span[title]").evaluate_all("s => s.map(e => e.title)")
    assert all("drawn with probability" in tip and "experts" in tip for tip in tips)
    playground.generate()
    assert (playground.text(), playground.bars()) == (text, bars)  # the same seed
    seed = page.locator(".playground-seed input")
    seed.fill("7")
    seed.press("Enter")
    playground.generate()
    assert playground.text() != text
    colors = """spans => spans.map(e => e.style.background)"""
    last = page.locator(".playground-text span[title]").evaluate_all(colors)
    playground.slider("layer").press("Home")
    first = page.locator(".playground-text span[title]").evaluate_all(colors)
    assert len(first) == len(last)
    assert first != last


def test_stop_ends_a_text_between_two_characters(playground):
    assert playground.slider("new").press("End") == 600
    playground.generate()
    whole = playground.text()
    playground.page.locator(".playground-button").click()
    eventually(playground.stop.is_enabled)
    playground.stop.click()
    eventually(playground.stop.is_disabled)
    settle(playground.page)
    tips = playground.page.locator(".playground-text span[title]")
    written = "".join(tips.all_text_contents())
    assert 0 < tips.count() < 600
    assert written in whole
    assert playground.possible() > 0


def test_a_prompt_with_an_unknown_character_is_answered_in_the_page(playground):
    prompt = playground.page.locator(".playground-prompt input")
    before = prompt.input_value()
    for text, answer in (("\\u2603", "unknown character"), ("", "the prompt is empty")):
        prompt.fill(text)
        prompt.press("Enter")
        settle(playground.page)
        assert answer in playground.text()
        assert playground.bars() == []
    prompt.fill(before)
    prompt.press("Enter")
    settle(playground.page)
    assert playground.text().startswith(before)
    assert playground.bars()


@pytest.fixture(scope="module")
def specialists(lab):
    page = lab.open("12_specialists.ipynb")
    yield page
    page.close()


def test_training_strip_changes_color_from_step_to_step_and_comes_back(specialists):
    box = ".widget-vbox:has(> .widget-inline-hbox [role=slider]):has(span[title])"
    colors = "spans => spans.map(e => e.style.background)"
    spans = specialists.locator(f"{box} span[title]")
    at_start = spans.evaluate_all(colors)
    slider = Slider(specialists, specialists.locator(f"{box} [role=slider]"))
    slider.press("End")
    assert spans.evaluate_all(colors) != at_start
    slider.press("Home")
    assert spans.evaluate_all(colors) == at_start


class Surgery:
    """The expert surgery of chapter 12 as a page shows it."""

    def __init__(self, page):
        self.page = page
        self.box = ".surgery-box"

    def loss(self):
        return float(self.page.locator(".surgery-note b").inner_text())

    def seen(self):
        text = self.page.locator(".surgery-text").inner_text()
        return self.loss(), text, picture(self.page, self.box)

    def switch(self, expert):
        self.page.locator(f".surgery-expert-{expert} input").click()
        settle(self.page)

    def force(self, name):
        self.page.locator(f".surgery-force button:text-is('{name}')").click()
        settle(self.page)

    def layer(self, number):
        self.page.locator(".surgery-layer select").select_option(str(number))
        settle(self.page)


def test_expert_surgery_changes_load_text_and_loss_and_undoes_everything(specialists):
    surgery = Surgery(specialists)
    loss, text, bars = at_start = surgery.seen()
    surgery.switch(0)
    eventually(lambda: picture(specialists, surgery.box) != bars)
    assert surgery.loss() > loss
    without_one = surgery.loss()
    surgery.layer(2)
    surgery.force(3)
    assert surgery.loss() > without_one + 0.5
    assert surgery.seen()[1] != text
    surgery.force("none")
    assert surgery.loss() == without_one
    for expert in range(7):
        surgery.switch(expert)
    note = specialists.locator(".surgery-note").inner_text()
    assert "1 of 8 experts are left; a token needs 2" in note
    specialists.locator(".surgery-reset").click()
    settle(specialists)
    eventually(lambda: surgery.seen() == at_start)


HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>&lt;b\n</span>"


def test_a_corpus_with_a_script_in_it_is_shown_and_not_run(lab):
    """As colored text, in the playground's prompt, bars and answers."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    source = f"""
    from IPython.display import HTML, display
    from moe_tutorial import plots, widgets
    from moe_tutorial.config import ModelConfig
    from moe_tutorial.model import MoELanguageModel
    from moe_tutorial.tokenizer import CharTokenizer
    text = {HOSTILE!r}
    display(HTML(plots.colored_html(text, [0] * len(text), [text] * len(text), num_experts=2,
                                    before=text)))
    tokenizer = CharTokenizer.fit(text)
    tiny = ModelConfig(dim=8, num_layers=1, num_heads=2, num_experts=2, hidden_dim=8)
    model = MoELanguageModel(tiny, tokenizer.vocab_size).eval()
    for prompt in (text, "Q<b>"):
        display(widgets.playground(model, tokenizer, prompt))
    """
    lines = "\n".join(line[4:] for line in source.strip("\n").splitlines())
    path = lab.folder / "99_hostile.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
    cells = [new_code_cell(lines, id="hostile")]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    page = lab.open(path.name)
    page.locator(".playground-text").first.wait_for()
    page.locator(".playground-button").first.click()
    settle(page)
    shown = page.locator(".jp-OutputArea-output").first.inner_text()
    assert "<script>window.hacked = 1</script>" in shown
    assert page.locator(".jp-OutputArea script, .jp-OutputArea img[src=x]").count() == 0
    assert page.evaluate("window.hacked") is None
    texts = page.locator(".playground-text").all_inner_texts()
    assert "<script>" in texts[0]
    assert "unknown character 'Q'" in texts[1]
