"""The router of chapter 07, played by the reader."""

from collections.abc import Callable, Sequence

import ipywidgets as widgets

from moe_tutorial import plots
from moe_tutorial.balance import router_health
from moe_tutorial.moe import Routing, load_balancing_loss
from moe_tutorial.widgets.base import control


def hand_router(
    text: str, routing_of: Callable[[Sequence[int], float], Routing], num_experts: int = 4
) -> widgets.VBox:
    """Send every character of a text to an expert by hand; see load, MaxVio and balance loss.

    routing_of: the experts, one per character, and by how many logits each is ahead of the others
    -> the Routing (one choice per token) that this is.
    """
    return HandRouter(text, routing_of, num_experts).box


class HandRouter:
    """A button per character, the reader's choices, and what they amount to."""

    def __init__(
        self, text: str, routing_of: Callable[[Sequence[int], float], Routing], num_experts: int
    ) -> None:
        self.text, self.routing_of, self.num_experts = text, routing_of, num_experts
        self.experts = [0] * len(text)
        self.tokens = [widgets.Button(layout={"width": "52px"}) for _ in text]
        numbers = {"min": 0.0, "max": 8.0, "step": 0.5, "continuous_update": False}
        self.ahead = control(widgets.FloatSlider, "logits ahead", 2.0, "420px", **numbers)
        self.again = widgets.Button(description="All to expert 0", layout={"width": "130px"})
        name = "max violation (0: even)"
        self.meter = control(widgets.FloatProgress, name, 0.0, "420px", max=num_experts - 1)
        self.note = widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"max_width": "100%"})
        row = widgets.HBox(self.tokens, layout={"flex_flow": "row wrap"})
        top = widgets.HBox([self.ahead, self.again], layout={"flex_flow": "row wrap"})
        self.box = widgets.VBox([row, top, self.meter, self.note, self.picture])
        for part in ("ahead", "again", "note", "box"):
            getattr(self, part).add_class(f"hand-router-{part}")
        for token, button in enumerate(self.tokens):
            button.add_class(f"hand-router-token-{token}")
            button.on_click(lambda clicked, token=token: self.send(token))
        self.again.on_click(lambda clicked: self.start())
        self.ahead.observe(lambda change: self.show(), names="value")
        self.show()

    def send(self, token: int) -> None:
        """Send a token to the expert after its own; after the last comes the first."""
        self.experts[token] = (self.experts[token] + 1) % self.num_experts
        self.show()

    def start(self) -> None:
        """Send every token to expert 0."""
        self.experts = [0] * len(self.text)
        self.show()

    def show(self) -> None:
        """Say what the choices amount to, as the library measures it."""
        for button, char, expert in zip(self.tokens, self.text, self.experts, strict=True):
            button.description = f"{plots.visible(char)} {expert}"
            button.tooltip = f"{plots.visible(char)} goes to expert {expert}"
            button.style.button_color, button.style.text_color = plots.expert_colors(expert)
        routing = self.routing_of(self.experts, self.ahead.value)
        health, loss = router_health(routing), load_balancing_loss([routing]).item()
        shares = ", ".join(f"{share:.0%}" for share in health.load.tolist())
        loyal = len(set(self.text)) == len(set(zip(self.text, self.experts, strict=True)))
        self.meter.value = health.max_violation
        self.note.value = (
            f"load {shares}; idle experts {health.idle}; max violation (MaxVio) "
            f"<b>{health.max_violation:.2f}</b>; balance loss <b>{loss:.3f}</b>; "
            f"equal characters meet one expert: <b>{'yes' if loyal else 'no'}</b>"
        )
        panel = {f"your routing: loss {loss:.2f}": (health.load, routing.probs.mean(dim=0))}
        self.picture.value = plots.png(plots.load_figure(panel))
