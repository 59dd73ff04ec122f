"""The playground of chapter 09: a model, its settings, its text and its experts."""

import asyncio
import html
import time

import ipywidgets as widgets
import torch
from torch import Tensor

from moe_tutorial import plots
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.sampling import GeneratedToken, Reader, generate, next_token_probs
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.widgets.base import control

BARS = 12  # next characters that are drawn; the others are counted
REDRAW = 0.05  # seconds between two pictures of a text that is being generated


def playground(
    model: MoELanguageModel, tokenizer: CharTokenizer, prompt: str = "The "
) -> widgets.VBox:
    """Type a prompt, move the sliders, press Generate, and see which experts each character took.

    Stop ends a text between two characters; another prompt drops it. The bars are the probabilities
    that the character after the text is drawn from; they follow the sliders. A text that
    the model cannot read is answered in the page.
    """
    return Playground(model, tokenizer, prompt).box


class Playground:
    """The controls, the text so far, and the two pages that show it."""

    def __init__(self, model: MoELanguageModel, tokenizer: CharTokenizer, prompt: str) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.new: list[GeneratedToken] = []
        self.logits = torch.empty(0)  # (V,), of the character after the text
        self.forgotten = 0  # characters at the beginning that the model does not see
        self.turn = 0  # counts what was begun and ended; a text is written in one turn
        self.writing: asyncio.Task | None = None  # kept here: the event loop holds it weakly
        most, layers = tokenizer.vocab_size, len(model.blocks)
        self.prompt = _control(widgets.Text, "prompt", prompt, continuous_update=False)
        self.temperature = _control(
            widgets.FloatSlider, "temperature (0: greedy)", 0.8, min=0, max=2, step=0.05
        )
        self.top_k = _control(widgets.IntSlider, f"top-k ({most}: all)", most, min=1, max=most)
        self.top_p = _control(widgets.FloatSlider, "top-p (1: all)", 1, min=0.05, max=1, step=0.05)
        self.length = _control(widgets.IntSlider, "new characters", 200, min=1, max=600)
        self.seed = _control(widgets.BoundedIntText, "seed", 0, min=0, max=2**31 - 1)
        self.layer = _control(widgets.IntSlider, "layer in color", layers, min=1, max=layers)
        self.button = widgets.Button(description="Generate", button_style="primary")
        self.stopper = widgets.Button(description="Stop", disabled=True)
        self.text, self.bars = widgets.HTML(), widgets.HTML()
        left = widgets.VBox([self.prompt, self.temperature, self.top_k, self.top_p])
        buttons = widgets.HBox([self.button, self.stopper])
        right = widgets.VBox([self.length, self.seed, self.layer, buttons])
        controls = widgets.HBox([left, right], layout={"flex_flow": "row wrap"})
        self.box = widgets.VBox([controls, self.text, self.bars])
        for name in ("button", "stopper", "text", "bars", "box"):
            getattr(self, name).add_class(f"playground-{name}")
        self.prompt.observe(lambda change: self.start(), names="value")
        self.layer.observe(lambda change: self.show_text(), names="value")
        for slider in (self.temperature, self.top_k, self.top_p):
            slider.observe(lambda change: self.show_bars(), names="value")
        self.button.on_click(lambda button: self.generate())
        self.stopper.on_click(lambda button: self.stop())
        self.start()

    def settings(self) -> dict[str, float]:
        """temperature, top_k and top_p as the sliders stand."""
        return {name: getattr(self, name).value for name in ("temperature", "top_k", "top_p")}

    def start(self) -> bool:
        """Show the prompt alone; whether it can be read. What is being written is dropped."""
        self.turn, self.new, self.stopper.disabled = self.turn + 1, [], True
        try:
            self.ids = self.tokenizer.encode(self.prompt.value)
            if len(self.ids) == 0:
                raise ValueError("the prompt is empty; type at least one character")
        except ValueError as error:
            self.ids, self.logits = torch.empty(0, dtype=torch.int64), torch.empty(0)
            self.text.value, self.bars.value = f"<b>{html.escape(str(error))}</b>", ""
            return False
        self.show_text()
        self.read()
        return True

    def stop(self) -> None:
        """End the text that is being written, and show what could come next."""
        if self.stopper.disabled:
            return
        self.turn, self.stopper.disabled = self.turn + 1, True
        self.show_text()
        self.read()

    def generate(self) -> None:
        """`write` in the event loop of the kernel; where none runs, as in a script, to its end."""
        try:
            self.writing = asyncio.get_running_loop().create_task(self.write())
        except RuntimeError:
            asyncio.run(self.write())

    async def write(self) -> None:
        """Continue the prompt, showing the text as it grows; one seed and setting, one text."""
        if not self.start():
            return
        self.stopper.disabled, turn = False, self.turn
        generator = torch.Generator().manual_seed(self.seed.value)
        options = {"max_new_tokens": self.length.value, "generator": generator, **self.settings()}
        drawn = time.perf_counter()
        for token in generate(self.model, self.ids, **options):
            self.new.append(token)
            if time.perf_counter() - drawn > REDRAW:
                self.show_text()
                drawn = time.perf_counter()
            await asyncio.sleep(0)  # the kernel looks for messages, such as a click on Stop
            if self.turn != turn:
                return
        self.stop()

    def read(self) -> None:
        """Let the model predict the character after the text."""
        tokens, reader = [*self.ids.tolist(), *(t.token for t in self.new)], Reader(self.model)
        self.logits, _ = reader.read(tokens)
        self.forgotten = len(tokens) - len(reader.window)
        self.show_bars()

    def show_text(self) -> None:
        """The prompt in bold, then each new character in the color of its first expert."""
        if not len(self.ids):
            return
        layer = self.layer.value - 1
        chars = [self.tokenizer.decode([t.token]) for t in self.new]
        chosen = [t.experts[layer].tolist() for t in self.new]
        tips = [
            f"{plots.visible(char)} drawn with probability {t.probs[t.token]:.2f}; "
            f"layer {layer + 1}: experts {', '.join(map(str, experts))}"
            for char, experts, t in zip(chars, chosen, self.new, strict=True)
        ]
        self.text.value = plots.colored_html(
            "".join(chars), [experts[0] for experts in chosen], tips,
            num_experts=self.model.config.num_experts, before=self.prompt.value,
        )  # fmt: skip

    def show_bars(self) -> None:
        """The probabilities of the next character, the largest first."""
        if len(self.logits):
            probs = next_token_probs(self.logits.float().cpu(), **self.settings())
            note = f"<i>the first {self.forgotten} characters are out of its sight</i>"
            bars = bars_html(probs, self.tokenizer)
            self.bars.value = (note if self.forgotten else "") + bars


def bars_html(probs: Tensor, tokenizer: CharTokenizer) -> str:
    """One bar per character that can be drawn, the most probable first. Shapes: probs (V,)."""
    best = probs.argsort(descending=True, stable=True)[: int((probs > 0).sum())].tolist()
    rows = []
    for token in best[:BARS]:
        char, share = html.escape(plots.visible(tokenizer.decode([token]))), probs[token].item()
        bar = f"width:{300 * share:.1f}px;height:1em;background:{plots.COLORS[0]}"
        rows.append(
            f'<div class="playground-bar" style="display:flex;align-items:center;line-height:1.4">'
            f'<span style="width:2em;text-align:center">{char}</span><span style="{bar}"></span>'
            f"<span>&nbsp;{share:.3f}</span></div>"
        )
    hidden = len(best) - BARS
    more = f"and {hidden} more, together {probs[best[BARS:]].sum():.3f}" if hidden > 0 else ""
    return (
        f'<div style="font-family:monospace">next character, {len(best)} possible:'
        f"{''.join(rows)}{more}</div>"
    )


def _control(kind: type, name: str, value: object, **options: object) -> widgets.Widget:
    """`control`, all of one width; its CSS class is playground-(first word)."""
    widget = control(kind, name, value, "365px", **options)
    return widget.add_class(f"playground-{name.split()[0]}")
