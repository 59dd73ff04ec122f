"""Figures, each a function from data to a matplotlib Figure."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe & Ito 2008: told apart by readers with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")


def history_figure(
    records: Sequence[Mapping[str, object]], baselines: Mapping[str, float]
) -> Figure:
    """Loss curves beside counted baselines, the busiest expert over time, and the load at the end.

    records: the lines of metrics.jsonl. baselines: name -> validation loss, nats per character.
    """
    figure = Figure(figsize=(13, 4), layout="constrained")
    loss_axes, even_axes, load_axes = figure.subplots(1, 3, width_ratios=(5, 4, 4))
    steps = [r["step"] for r in records]
    _plot_losses(loss_axes, records, steps, baselines)

    loads = torch.tensor([r["expert_load"] for r in records])  # (steps, L, E)
    busiest = smooth(loads).amax(dim=-1) * loads.shape[-1]  # (steps, L)
    for layer, ratio in enumerate(busiest.T.tolist()):
        color, style = COLORS[layer % len(COLORS)], STYLES[layer % len(STYLES)]
        even_axes.plot(steps, ratio, style, color=color, label=f"layer {layer + 1}")
    even_axes.axhline(1, color="black", linewidth=0.8)
    even_axes.set(title="Busiest expert", xlabel="step", ylabel="share / mean share (1 = even)")
    even_axes.legend(fontsize="small")

    last = loads[-max(1, len(loads) // 10) :].mean(dim=0)  # (L, E)
    image = load_axes.imshow(last.numpy(), cmap="cividis", vmin=0, aspect="auto")
    load_axes.set(title="Load in the last tenth", xlabel="expert", ylabel="layer")
    load_axes.set_xticks(range(last.shape[1]))
    load_axes.set_yticks(range(last.shape[0]), range(1, last.shape[0] + 1))
    figure.colorbar(image, ax=load_axes, label="share of assignments")
    return figure


def _plot_losses(
    axes: Axes,
    records: Sequence[Mapping[str, object]],
    steps: Sequence[int],
    baselines: Mapping[str, float],
) -> None:
    losses = torch.tensor([r["loss"] for r in records])
    axes.plot(steps, smooth(losses).tolist(), color=COLORS[0], label="train, mean of 50")
    measured = [(r["step"], r["validation_loss"]) for r in records if r["validation_loss"]]
    axes.plot(*zip(*measured, strict=True), "o-", color=COLORS[1], markersize=3, label="held out")
    for i, (name, loss) in enumerate(baselines.items()):
        axes.axhline(loss, linestyle=STYLES[1 + i % 3], color="gray", label=f"{name} {loss:.2f}")
    axes.set(title="Loss", xlabel="step", ylabel="nats per character")
    axes.legend(fontsize="small")


def smooth(values: Tensor, width: int = 50) -> Tensor:
    """Mean of each value and the up to width - 1 before it, over the first axis."""
    total = torch.cat((torch.zeros_like(values[:1]), values)).cumsum(dim=0)
    end = torch.arange(1, len(values) + 1)
    start = (end - width).clamp(min=0)
    count = (end - start).view(-1, *[1] * (values.ndim - 1))
    return (total[end] - total[start]) / count


# --- Chapter 01 ---


def symbol_figure(counts: Mapping[str, int]) -> Figure:
    """One bar per symbol, the most frequent first."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    axes.bar(range(len(ranked)), [count for _, count in ranked], color=COLORS[0])
    axes.set_xticks(range(len(ranked)), [visible(symbol) for symbol, _ in ranked])
    axes.set(xlabel="symbol", ylabel="count", title="How often each symbol occurs")
    return figure


def pair_figure(pair_counts: Tensor, symbols: Sequence[str]) -> Figure:
    """Share of each next symbol (column) after each symbol (row); pair_counts (V, V)."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    shares = pair_counts / pair_counts.sum(dim=1, keepdim=True).clamp(min=1)
    image = axes.imshow(shares.numpy(), cmap="cividis", vmin=0, vmax=1)
    labels = [visible(symbol) for symbol in symbols]
    axes.set_xticks(range(len(symbols)), labels)
    axes.set_yticks(range(len(symbols)), labels)
    axes.tick_params(labelsize=8)
    axes.set(xlabel="next symbol", ylabel="symbol", title="What follows each symbol")
    figure.colorbar(image, ax=axes, label="share of this row", shrink=0.8)
    return figure


def order_figure(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Validation loss against the order n = 0, 1, ... of counting; order 0 is uniform."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(losses.items()):
        style = f"{'os^D'[i % 4]}{STYLES[i % len(STYLES)]}"
        axes.plot(range(len(values)), values, style, color=COLORS[i % len(COLORS)], label=name)
    axes.set_xticks(range(max(map(len, losses.values()))))
    axes.set(xlabel="order n (it looks n - 1 symbols back; 0 is uniform)", ylim=(0, None))
    axes.set(ylabel="validation loss, nats per character", title="Predicting by counting")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


# --- Chapter 02 ---


def visible(char: str) -> str:
    """One drawable symbol for a character: a bracket below for a blank, an arrow for a newline."""
    return {" ": "\u2423", "\n": "\u21b5"}.get(char, char)


def ids_figure(text: str, ids: Sequence[int]) -> Figure:
    """The id at every position of a short text, with the characters below the axis."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.vlines(range(len(text)), 0, ids, color=COLORS[0])
    axes.plot(range(len(text)), ids, "o", color=COLORS[0])
    for position, i in enumerate(ids):
        axes.annotate(str(i), (position, i), (0, 6), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(text)), [visible(char) for char in text])
    axes.set(xlabel="character, in reading order", ylabel="id", ylim=(0, max(ids) * 1.2))
    return figure


def vocabulary_growth_figure(texts: Mapping[str, str]) -> Figure:
    """How many different characters have been seen after the first, second, ... of each text."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, text) in enumerate(texts.items()):
        first = sorted(text.index(char) + 1 for char in set(text))  # characters read so far
        seen = range(1, len(first) + 1)
        label = f"{name}: {len(first)} after {len(text):,}"
        axes.step(
            [*first, len(text)], [*seen, len(first)], STYLES[i], where="post", label=label,
            color=COLORS[i],
        )  # fmt: skip
    axes.set(xscale="log", xlabel="characters read", ylabel="different characters seen")
    axes.legend()
    return figure


# --- Chapter 03 ---


def windows_figure(text: str, seq_len: int) -> Figure:
    """Every window of a short text as a row: its input, and the last target one further right."""
    num_windows = len(text) - seq_len
    figure = Figure(figsize=(8, 0.4 * num_windows + 1.2), layout="constrained")
    axes = figure.subplots()
    for start in range(num_windows):
        axes.barh(start, seq_len, 0.8, start - 0.5, color=COLORS[5], label="input x")
        axes.barh(
            start, seq_len, 0.8, start + 0.5, fill=False, edgecolor=COLORS[1], linewidth=2,
            label="target y",
        )  # fmt: skip
        for position in range(start, start + seq_len + 1):
            axes.text(position, start, visible(text[position]), ha="center", va="center")
    axes.set(xlabel="position in the text", ylabel="start of the window")
    axes.set_xticks(range(len(text)))
    axes.set_yticks(range(num_windows))
    axes.set_xlim(-0.7, len(text) - 0.3)
    axes.invert_yaxis()
    axes.legend(*_first_of_each_label(axes), loc="upper right")
    return figure


def target_counts_figure(counts: Mapping[str, Tensor]) -> Figure:
    """How often every position of a text is a target, for several ways to cut windows."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, count) in enumerate(counts.items()):
        axes.step(
            range(len(count)), count.tolist(), STYLES[i], where="mid", color=COLORS[i], label=name
        )
    axes.set(xlabel="position in the text", ylabel="times a target")
    axes.legend()
    return figure


def split_figure(splits: Mapping[str, tuple[Sequence[int], Sequence[int]]], seq_len: int) -> Figure:
    """Which positions the windows of two splits touch, one panel for each way to split.

    splits: name -> (starts of the training windows, starts of the validation windows).
    A window covers seq_len + 1 positions: its input and its last target.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    panels = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, (train, validation)) in zip(panels, splits.items(), strict=True):
        for starts, color, hatch, label in (
            (train, COLORS[5], "", "training"),
            (validation, COLORS[1], "///", "validation"),
        ):
            axes.barh(
                starts, seq_len + 1, 0.8, [start - 0.5 for start in starts], color=color,
                hatch=hatch, edgecolor="white", label=label,
            )  # fmt: skip
        axes.set(title=name, xlabel="position in the text")
    panels[0].set_ylabel("start of the window")
    panels[0].invert_yaxis()
    panels[0].legend(loc="upper right")
    return figure


def _first_of_each_label(axes: Axes) -> tuple[list, list[str]]:
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    return list(handles.values()), list(handles)


# --- Chapter 04 ---


def rotation_figure(pairs: Tensor, angles: Tensor) -> Figure:
    """One pair of numbers at positions 0, 1, 2, ...: as arrows, and each number by itself.

    pairs: (T, 2), the pair after its rotation at every position; angles: (T,), in radians.
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    plane, axes = figure.subplots(1, 2, width_ratios=(4, 5))
    reach = 1.25 * pairs.norm(dim=-1).max().item()
    for position, (x, y) in enumerate(pairs.tolist()):
        gray = f"{0.75 * position / len(pairs):.2f}"
        arrow = {"arrowstyle": "->", "color": gray, "linewidth": 2}
        plane.annotate("", (x, y), (0, 0), arrowprops=arrow)
        plane.text(1.13 * x, 1.13 * y, str(position), ha="center", va="center")
    plane.set(
        title="the pair as an arrow, at each position", xlabel="first number",
        ylabel="second number", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal",
    )  # fmt: skip
    for i, (name, marker) in enumerate({"first": "o", "second": "s"}.items()):
        values = pairs[:, i].tolist()
        axes.plot(values, STYLES[i], marker=marker, color=COLORS[i], label=f"{name} number")
    axes.set(title="the same two numbers", xlabel="position", ylabel="value")
    axes.set_xticks(range(len(pairs)), [f"{p}\n{a:.1f}" for p, a in enumerate(angles.tolist())])
    axes.set_xlabel("position, and below it the angle in radians")
    axes.legend()
    return figure


def frequency_figure(cos: Tensor) -> Figure:
    """Cosine of every pair's angle at every position, as a heat map. Shapes: cos (T, Dh / 2)."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cos.T.numpy(), cmap="cividis", vmin=-1, vmax=1, aspect="auto")
    axes.set(xlabel="position", ylabel="pair (0 is the fastest)")
    figure.colorbar(image, ax=axes, label="cos(position x frequency)")
    return figure


def offset_figure(offsets: Sequence[int], panels: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Score q.k against the offset between query and key, for several positions of the key.

    panels: title of a panel -> name of a curve -> one score per offset.
    """
    figure = Figure(figsize=(8, 3.3), dpi=85, layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(row, panels.items(), strict=True):
        for i, (name, scores) in enumerate(curves.items()):
            # Equal curves cover each other: the first is wide and pale, the others lie on it.
            width, alpha = (7, 0.35) if i == 0 else (2, 1)
            axes.plot(
                offsets, scores.tolist(), STYLES[i % 4], color=COLORS[i], linewidth=width,
                alpha=alpha, label=name,
            )  # fmt: skip
        axes.set(title=title, xlabel="offset: query position - key position")
    row[0].set_ylabel("score q.k")
    row[0].legend()
    return figure


def layout_figure(layouts: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Which numbers of a vector form a pair, one row of boxes per layout.

    layouts: name -> the positions of the two numbers of pair 0, pair 1, ...
    """
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for row, pairs in enumerate(layouts.values()):
        base = -1.7 * row
        for pair, (a, b) in enumerate(pairs):
            color = COLORS[pair % len(COLORS)]
            for i, box in enumerate((a, b)):
                axes.bar(box, 0.5, 0.85, base, color=color, alpha=0.35, edgecolor="black")
                axes.text(box, base + 0.25, f"pair {pair}\n{'first' if i == 0 else 'second'}",
                          ha="center", va="center", fontsize=9)  # fmt: skip
            height = 0.2 + 0.35 * (abs(b - a) - 1) / len(pairs) + 0.1 * pair
            height = height if abs(b - a) > 1 else 0.2
            axes.plot((a, a, b, b), (base + 0.5, base + 0.5 + height, base + 0.5 + height,
                      base + 0.5), STYLES[pair % 4], color=color, linewidth=2)  # fmt: skip
    size = 2 * max(len(pairs) for pairs in layouts.values())
    axes.set_xticks(range(size), [f"x[{i}]" for i in range(size)])
    axes.set_yticks([0.25 - 1.7 * row for row in range(len(layouts))], list(layouts))
    axes.set(xlabel="number of the vector", ylim=(1.7 * (1 - len(layouts)) - 0.05, None))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


# --- Chapter 05 ---


def size_figure(sizes: Mapping[str, Sequence[float]]) -> Figure:
    """Typical size of the activations after every layer, on a logarithmic axis."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(sizes.items()):
        axes.plot(range(len(values)), values, STYLES[i % 4], marker="os^D"[i % 4],
                  color=COLORS[i], label=name)  # fmt: skip
    axes.set(yscale="log", xlabel="layers passed", ylabel="root mean square of the activations")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.legend()
    return figure


def norm_figure(vectors: Mapping[str, Tensor]) -> Figure:
    """The numbers of a few vectors as bars, one panel per vector, its mean as a dashed line."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(vectors), sharey=True, squeeze=False)[0]
    for i, (axes, (name, vector)) in enumerate(zip(panels, vectors.items(), strict=True)):
        axes.bar(range(len(vector)), vector.tolist(), color=COLORS[i])
        axes.axhline(0, color="black", linewidth=0.8)
        mean = round(vector.mean().item(), 2) + 0.0  # no -0.00
        axes.axhline(mean, color="black", linestyle="--", label=f"mean {mean:.2f}")
        axes.set(title=name, xlabel="number of the vector")
        axes.legend(loc="upper left", fontsize="small")
    highest = max(vector.max().item() for vector in vectors.values())
    panels[0].set(ylabel="value", ylim=(None, 1.3 * highest))
    return figure


# --- Chapter 06 ---


def largest_weight_figure(
    sizes: Sequence[int], largest: Mapping[str, Sequence[float]], num_keys: int
) -> Figure:
    """The mean largest weight of a softmax against the head size; a line at 1 / num_keys."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    for i, (name, values) in enumerate(largest.items()):
        style = f"{'os^D'[i % 4]}{STYLES[i % 4]}"
        axes.plot(sizes, values, style, color=COLORS[i % len(COLORS)], label=name)
    label = f"equal weights, 1/{num_keys}"
    axes.axhline(1 / num_keys, color="black", linewidth=0.8, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set(xlabel="head size Dh", ylabel="largest weight, mean", ylim=(0, 1.02))
    axes.legend()
    return figure


def attention_figure(
    maps: Mapping[str, Tensor], symbols: Sequence[str], label: str = "weight"
) -> Figure:
    """One heat map per head: how much each position (row) takes from each position (column).

    maps: name -> (T, T). Where everything after the diagonal is exactly 0, it is left blank.
    """
    figure = Figure(figsize=(max(8, 3.2 * len(maps)), 3.8), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    highest = max(values.max().item() for values in maps.values())
    for axes, (name, values) in zip(panels, maps.items(), strict=True):
        later = torch.ones_like(values).triu(1).bool()
        shown = values if values[later].any() else values.masked_fill(later, torch.nan)
        image = axes.imshow(shown.numpy(), cmap="cividis", vmin=0, vmax=highest)
        axes.set(title=name, xlabel="taken from", facecolor="white")
        axes.set_xticks(range(len(symbols)), [visible(symbol) for symbol in symbols])
        axes.set_yticks(range(len(symbols)), [visible(symbol) for symbol in symbols])
        axes.tick_params(labelsize=8, length=0)
    panels[0].set_ylabel("position")
    figure.colorbar(image, ax=panels, label=label, shrink=0.8)
    return figure


# --- Chapter 07 ---

# Okabe & Ito's eight, without black: one for each of eight experts.
EXPERT_COLORS = (*COLORS, "#F0E442", "#999999")


def routing_figure(probs: Tensor, chosen: Sequence[int], title: str) -> Figure:
    """The probability of every expert for one token; the chosen ones dark and hatched."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for label, color, hatch, experts in (
        ("chosen", COLORS[1], "//", [e for e in range(len(probs)) if e in chosen]),
        ("not chosen", "#BBBBBB", "", [e for e in range(len(probs)) if e not in chosen]),
    ):
        heights = [probs[e].item() for e in experts]
        axes.bar(experts, heights, color=color, hatch=hatch, edgecolor="black", label=label)
        for expert, height in zip(experts, heights, strict=True):
            axes.annotate(f"{height:.2f}", (expert, height), (0, 3), textcoords="offset points",
                          ha="center")  # fmt: skip
    axes.set_xticks(range(len(probs)))
    axes.set(xlabel="expert", ylabel="probability", title=title, ylim=(0, 1.4 * probs.max().item()))
    axes.legend(loc="upper right", ncols=2)  # above the bars
    return figure


def load_figure(loads: Mapping[str, Tensor]) -> Figure:
    """Share of the assignments per expert, one panel per router; dashed: an even share."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, len(loads), sharey=True, squeeze=False)[0]
    for i, (axes, (name, load)) in enumerate(zip(panels, loads.items(), strict=True)):
        axes.bar(range(len(load)), load.tolist(), color=COLORS[i % len(COLORS)])
        axes.axhline(1 / len(load), color="black", linestyle="--", label="even share")
        axes.set(title=name, xlabel="expert")
        axes.set_xticks(range(len(load)))
    panels[0].set_ylabel("share of assignments")
    panels[-1].legend(fontsize="small")
    return figure


def cost_figure(costs: Mapping[str, tuple[int, int]]) -> Figure:
    """Two prices of each network: multiplications for one token, and numbers kept in memory."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = list(costs)
    for i, label in enumerate(("multiplications per token", "parameters in memory")):
        values = [costs[name][i] for name in names]
        panels[i].barh(range(len(names)), values, color=COLORS[i])
        for row, value in enumerate(values):
            panels[i].text(value, row, f" {value:,}", va="center")
        panels[i].set(xlabel=label, xlim=(0, 1.35 * max(values)))
        panels[i].locator_params(axis="x", nbins=4)
        panels[i].xaxis.set_major_formatter("{x:,.0f}")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    return figure


def expert_html(text: str, experts: Sequence[int], probs: Tensor) -> str:
    """The text as HTML, each character in the color of its expert, with a tooltip.

    experts: one per character. probs: (N, E), of which the tooltip shows that expert's.
    """
    spans = []
    for char, expert, row in zip(text, experts, probs, strict=True):
        tip = html.escape(f"{visible(char)} expert {expert}, {row[expert].item():.0%}")
        style = f"background:{_expert_color(expert)};color:{_ink(_expert_color(expert))}"
        shown = f"{visible(char)}<br>" if char == "\n" else html.escape(char)
        spans.append(f'<span style="{style}" title="{tip}">{shown}</span>')
    legend = " ".join(
        f'<span style="background:{_expert_color(e)};color:{_ink(_expert_color(e))}">'
        f"&nbsp;{e}&nbsp;</span>"
        for e in range(probs.shape[1])
    )
    return (
        f'<div style="font-family:monospace;line-height:1.6;white-space:pre-wrap">'
        f"{''.join(spans)}<br>expert {legend}</div>"
    )


def _expert_color(expert: int) -> str:
    return EXPERT_COLORS[expert % len(EXPERT_COLORS)]


def _ink(background: str) -> str:
    """Black or white, whichever can be read on this background."""
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "#000" if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else "#fff"
