"""Sliding windows over one long row of ids. Chapter 03.

Shape letters: N_ids ids in the text, B windows in a batch, T positions in a window.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def sliding_windows(ids: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
    """All N_ids - seq_len pairs of an input window and its target, shifted by one.

    Shapes: ids (N_ids,) -> x, y (N_ids - T, T), views on the same memory; y[s, t] = ids[s + t + 1].
    Raises: as `check_length`.
    """
    check_length(ids, seq_len)
    windows = ids.unfold(0, seq_len + 1, 1)
    return windows[:, :-1], windows[:, 1:]


def random_batch(
    ids: Tensor, batch_size: int, seq_len: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A mini-batch of windows, their starts drawn with replacement.

    The starts are drawn on the generator's device (CPU, so that a seed means the same with any
    device), the windows are taken where the ids are. Shapes: ids (N_ids,) -> x, y (B, T), copies
    of the text, but views of the same rows: clone y before you write into it.
    Raises: as `check_length`.
    """
    check_length(ids, seq_len, batch_size)
    starts = torch.randint(
        len(ids) - seq_len, (batch_size,), generator=generator, device=generator.device
    )  # (B,)
    windows = ids.unfold(0, seq_len + 1, 1)[starts.to(ids.device)]  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]


def evaluation_batches(
    ids: Tensor, batch_size: int, seq_len: int, every: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows that do not overlap and leave nothing out: every id but the first is a target once.

    Yields x, y (B, T); the last batches may be smaller, and the last window shorter.
    every: only each every-th of these windows, a sample spread over the whole text.
    Raises: as `check_length` with a seq_len of 1: two ids are enough.
    """
    check_length(ids, min(seq_len, 1), batch_size)
    whole = (len(ids) - 1) // seq_len  # windows of full length
    x = ids[: whole * seq_len].view(whole, seq_len)[::every]
    y = ids[1 : whole * seq_len + 1].view(whole, seq_len)[::every]
    for start in range(0, len(x), batch_size):
        yield x[start : start + batch_size], y[start : start + batch_size]
    rest = ids[whole * seq_len :]
    if len(rest) > 1 and whole % every == 0:
        yield rest[None, :-1], rest[None, 1:]


def check_length(ids: Tensor, seq_len: int, batch_size: int = 1) -> None:
    """Whether ids are one row that holds a window of seq_len and its target.

    Raises: ValueError if they are not; TypeError if ids are no tensor.
    """
    if not isinstance(ids, torch.Tensor):
        raise TypeError(f"ids are a {type(ids).__name__}; CharTokenizer.encode gives a tensor")
    if ids.ndim != 1:
        raise ValueError(f"ids have {ids.ndim} axes {tuple(ids.shape)}, but a text is one row")
    if min(seq_len, batch_size) < 1:
        raise ValueError(f"seq_len={seq_len} and batch_size={batch_size} must be at least 1")
    if len(ids) < seq_len + 1:
        raise ValueError(
            f"the text has {len(ids)} characters, but one window of seq_len={seq_len} and its "
            f"target need {seq_len + 1}; use a longer text or a smaller seq_len"
        )
