"""The slider through training and the expert surgery of chapter 12."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
from torch import Tensor

from moe_tutorial import plots
from moe_tutorial.analysis import Change, forced, read, rerouted, unchanged, without
from moe_tutorial.model import MoELanguageModel
from moe_tutorial.moe import expert_load
from moe_tutorial.sampling import generate
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.widgets.base import control

NEW = 60  # characters that a changed model writes
NONE = -1  # no expert is forced


def training_strip(text: str, strip: Mapping[str, Sequence[str]], num_experts: int) -> widgets.VBox:
    """A piece of text in the colors of its experts, at the snapshot of training that you choose.

    strip: step -> for every layer one digit per character.
    """
    steps, layers = list(strip), range(1, len(next(iter(strip.values()))) + 1)
    step = control(widgets.SelectionSlider, "training step", steps[0], "500px", options=steps)
    layer = control(widgets.ToggleButtons, "layer", 1, options=list(layers))
    page = widgets.HTML()

    def show(change: object = None) -> None:
        experts = [int(digit) for digit in strip[step.value][layer.value - 1]]
        tips = [f"{plots.visible(c)} to expert {e}" for c, e in zip(text, experts, strict=True)]
        page.value = plots.colored_html(text, experts, tips, num_experts=num_experts)

    for one in (step, layer):
        one.observe(show, names="value")
    show()
    return widgets.VBox([step, layer, page])


def expert_surgery(
    model: MoELanguageModel, tokenizer: CharTokenizer, ids: Tensor, prompt: str = "The "
) -> widgets.VBox:
    """Switch experts of a layer off and on, force one; see load, loss and text change at once.

    ids: the text on which load and loss are measured; about 1,000 characters answer at once.
    """
    return Surgery(model, tokenizer, ids, prompt).box


class Surgery:
    """The controls, what was decided for every layer, and the page that shows it."""

    def __init__(
        self, model: MoELanguageModel, tokenizer: CharTokenizer, ids: Tensor, prompt: str
    ) -> None:
        self.model, self.tokenizer, self.ids, self.prompt = model, tokenizer, ids, prompt
        self.before = read(model, ids)
        layers, experts = range(len(model.blocks)), range(model.config.num_experts)
        self.off: list[set[int]] = [set() for _ in layers]
        self.only: list[int] = [NONE for _ in layers]
        options = [(str(layer + 1), layer) for layer in layers]
        self.layer = control(widgets.Dropdown, "layer", 0, "160px", options=options)
        self.reset = widgets.Button(description="As trained")
        self.on = [control(widgets.Checkbox, f"expert {e}", True, "110px") for e in experts]
        choices = [("none", NONE), *((str(e), e) for e in experts)]
        self.force = control(widgets.ToggleButtons, "force", NONE, options=choices)
        self.force.style.button_width = "60px"
        self.note, self.text = widgets.HTML(), widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"max_width": "100%"})
        row = widgets.HBox(self.on, layout={"flex_flow": "row wrap"})
        top = widgets.HBox([self.layer, self.reset])
        self.box = widgets.VBox([top, row, self.force, self.note, self.picture, self.text])
        for name in ("layer", "reset", "force", "note", "text", "box"):
            getattr(self, name).add_class(f"surgery-{name}")
        for e, box in enumerate(self.on):
            box.add_class(f"surgery-expert-{e}")
        self.loading = False
        self.layer.observe(lambda change: self.load_layer(), names="value")
        self.reset.on_click(lambda button: self.as_trained())
        for one in (*self.on, self.force):
            one.observe(lambda change: self.decide(), names="value")
        self.show()

    def load_layer(self) -> None:
        """Let the controls say what was decided for the layer."""
        self.loading = True
        for e, box in enumerate(self.on):
            box.value = e not in self.off[self.layer.value]
        self.force.value = self.only[self.layer.value]
        self.loading = False
        self.show()

    def as_trained(self) -> None:
        """Undo everything, in all layers."""
        self.off = [set() for _ in self.off]
        self.only = [NONE for _ in self.only]
        self.load_layer()

    def decide(self) -> None:
        """Keep what the controls say, and show what follows."""
        if not self.loading:
            self.off[self.layer.value] = {e for e, box in enumerate(self.on) if not box.value}
            self.only[self.layer.value] = self.force.value
            self.show()

    def changes(self) -> dict[int, Change]:
        """What is asked of the router of every layer; forcing an expert comes before removing."""
        return {
            layer: forced(only) if only != NONE else without(*off) if off else unchanged
            for layer, (off, only) in enumerate(zip(self.off, self.only, strict=True))
        }

    def show(self) -> None:
        """Read and write with the changed routers."""
        try:
            with rerouted(self.model, self.changes()):
                now = read(self.model, self.ids)
                start = self.tokenizer.encode(self.prompt)
                options = {"max_new_tokens": NEW, "temperature": 0}
                written = list(generate(self.model, start, **options))
        except ValueError as error:
            self.note.value = f"<b>{html.escape(str(error))}</b>"
            return
        loss, before = (reading.losses.mean().item() for reading in (now, self.before))
        self.note.value = (
            f"held-out loss <b>{loss:.3f}</b> nats per character, as trained {before:.3f}"
        )
        loads = {
            f"layer {i + 1}": (expert_load(old), expert_load(new))
            for i, (old, new) in enumerate(zip(self.before.routings, now.routings, strict=True))
        }
        self.picture.value = plots.png(plots.surgery_figure(loads))
        layer = self.layer.value
        chars = self.tokenizer.decode([token.token for token in written])
        experts = [token.experts[layer].tolist() for token in written]
        tips = [f"layer {layer + 1}: experts {', '.join(map(str, each))}" for each in experts]
        self.text.value = plots.colored_html(
            chars, [each[0] for each in experts], tips,
            num_experts=self.model.config.num_experts, before=self.prompt,
        )  # fmt: skip
