"""The live curve of chapter 08."""

from collections.abc import Iterable, Iterator, Mapping

import ipywidgets as widgets
from IPython.display import display

from moe_tutorial import plots
from moe_tutorial.training import StepRecord
from moe_tutorial.widgets.base import control


def live_curve(
    steps: Iterable[StepRecord], total: int, baselines: Mapping[str, float], every: int = 100
) -> Iterator[StepRecord]:
    """The same records; meanwhile a progress bar, and `plots.loss_figure` drawn anew now and then.

    total: the number of steps. every: steps between two pictures.
    """
    bar = control(widgets.FloatProgress, "steps", 0, max=total)
    caption, picture = widgets.HTML(), widgets.Image(format="png")
    display(widgets.VBox([bar, caption, picture]))
    seen: list[StepRecord] = []
    picture.value = plots.png(plots.loss_figure(seen, total, baselines))
    for record in steps:
        seen.append(record)
        if record.step % every == 0 or record.step == total:
            bar.value = record.step
            caption.value = f"step {record.step} of {total}, loss of this batch {record.loss:.2f}"
            picture.value = plots.png(plots.loss_figure(seen, total, baselines))
        yield record
