"""While a training runs: a progress bar or plain lines, and a way to stop it between two steps."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

from moe_tutorial.command.log import short_line
from moe_tutorial.command.run import Run, describe
from moe_tutorial.processes.launch import hangup_ignored
from moe_tutorial.training import StepRecord


class Interrupt:
    """Which signal asked the training to stop, if any."""

    signal: int | None = None


OUTPUT_LOST = 13  # the number of SIGPIPE, which Windows does not know


def progress_bar(
    steps: Iterator[StepRecord], run: Run, interrupt: Interrupt
) -> Iterator[StepRecord]:
    """The same records, with a bar on a terminal and plain lines where output is redirected.

    Asks the training to stop when nobody reads the lines any more, as after `train | head`.
    """
    on_terminal = sys.stderr.isatty()
    form = "{percentage:3.0f}% |{bar}| {desc} [{elapsed} done, {remaining} left]"
    pending: list[StepRecord] = []
    with _noticing(interrupt):
        print(describe(run), flush=True)
    with tqdm(total=1.0, bar_format=form, disable=not on_terminal) as bar:
        bar.update(0)
        done, told = 0.0, ""
        for record in steps:
            pending.append(record)
            with _noticing(interrupt):
                if run.notice != told:
                    told = run.notice
                    bar.write(told, file=sys.stderr if on_terminal else sys.stdout)
                if record.validation_loss is not None and not on_terminal:
                    print(short_line(pending), flush=True)
                validation = run.state.validation_loss
                bar.set_description_str(
                    f"step {record.step} loss {record.loss:.3f}"
                    + (f" validation {validation:.3f}" if validation is not None else ""),
                    refresh=False,
                )
                bar.update(record.progress - done)
            if record.validation_loss is not None:
                pending.clear()
            done = record.progress
            yield record


@contextmanager
def _noticing(interrupt: Interrupt) -> Iterator[None]:
    try:
        yield
    except OSError:  # also of a terminal that was closed, which sends a signal besides
        interrupt.signal = interrupt.signal or OUTPUT_LOST


def tell(text: str) -> None:
    """On standard output, or on standard error when nobody reads that any more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            print(text, file=stream, flush=True)
            return
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for the flush at the end


@contextmanager
def stop_between_steps(ignore_repeated: bool = False) -> Iterator[Interrupt]:
    """Turn the first SIGINT, SIGTERM or SIGHUP (the terminal was closed) into a flag to read.

    A second one ends the process at once, as it would have done without this, or is ignored: in
    one of several processes it may be the same one, passed on by their launcher, which kills what
    has not ended after half a minute. Under nohup SIGHUP stays ignored.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt  # Python delivers signals to the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if not hangup_ignored():
        before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)
    after = dict.fromkeys(before, signal.SIG_IGN) if ignore_repeated else before

    def remember(number: int, frame: object) -> None:
        interrupt.signal = number
        for each, handler in after.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, remember)
    try:
        yield interrupt
    finally:
        for number, handler in after.items():
            signal.signal(number, handler)
