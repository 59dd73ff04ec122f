"""The generate command: completions, streamed, explained token by token, or in a dialogue."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moe_tutorial.checkpoint import TrainedModel, load_model
from moe_tutorial.command.draft import read_draft
from moe_tutorial.command.hocon import model_path
from moe_tutorial.command.terminal import EXIT_WRONG_USE, visible
from moe_tutorial.config import ConfigError, InferenceConfig, change_inference
from moe_tutorial.device import choose_device, set_threads
from moe_tutorial.sampling import GeneratedToken, generate
from moe_tutorial.speculation import Draft, SpeculatedToken, speculate
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.trust import DRAFT, at_home

RIVALS = 5


def generate_command(args: argparse.Namespace) -> int:
    """Generate text with the model of a run folder, which holds all that is needed."""
    keys = ("max_new_tokens", "temperature", "top_k", "top_p", "draft_length")
    given = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    writer, settings = open_writer(model_path(args.model_path), given, args.seed, args.verbose)
    if args.interactive:
        writer.converse(settings)
    elif args.stdin:
        return writer.complete_lines(sys.stdin, settings)
    else:
        writer.complete_all(args.prompt or [settings.prompt], settings)
    return 0


@dataclass
class Writer:
    """Writes completions of one model with one random stream."""

    trained: TrainedModel
    generator: torch.Generator
    verbose: bool = False
    draft: Draft | None = None  # None: nothing is guessed, whatever the settings say
    accepted: int = 0  # guesses in the last completion

    def _show(self, text: str, end: str = "") -> None:
        # A file or a pipe gets every character as it is; a terminal would obey some.
        print(visible(text) if sys.stdout.isatty() else text, end=end, flush=True)

    def complete(self, prompt: str, settings: InferenceConfig) -> str:
        """Print the prompt and, as they come, the new characters; return the new text alone.

        Raises: ValueError if the prompt is empty or has an unknown character.
        """
        tokenizer, self.accepted = self.trained.tokenizer, 0
        new = []
        for token in self._tokens(tokenizer.encode(prompt), settings):
            if not new:  # the prompt is known to be good once there is a first token
                self._show(prompt, end="\n" if self.verbose else "")
            new.append(tokenizer.decode([token.token]))
            self.accepted += getattr(token, "how", None) == "accepted"
            if self.verbose:
                print(explain(token, tokenizer), flush=True)
            else:
                self._show(new[-1])
        print()
        return "".join(new)

    def _tokens(
        self, ids: Tensor, settings: InferenceConfig
    ) -> Iterator[GeneratedToken | SpeculatedToken]:
        model = self.trained.model
        ids = ids.to(model.head.weight.device)
        keys = {"max_new_tokens", "temperature", "top_k", "top_p"}
        sampling = {**settings.model_dump(include=keys), "generator": self.generator}
        if self._drafts(settings):
            return speculate(model, ids, self.draft, draft_length=settings.draft_length, **sampling)
        return generate(model, ids, **sampling)

    def _drafts(self, settings: InferenceConfig) -> bool:
        return self.draft is not None and settings.draft_length > 0

    def complete_all(self, prompts: Iterable[str], settings: InferenceConfig) -> None:
        """One completion per prompt, with an empty line between them."""
        for i, prompt in enumerate(prompts):
            if i:
                print()
            self.complete(prompt, settings)

    def complete_lines(self, lines: Iterable[str], settings: InferenceConfig) -> int:
        """One completion per line; a bad line is reported and the others go on. The exit code."""
        code = 0
        for number, line in enumerate(lines, start=1):
            try:
                self.complete(line.rstrip("\r\n"), settings)
                print()
            except ValueError as error:
                print(f"error: line {number}: {error}", file=sys.stderr)
                code = EXIT_WRONG_USE
        return code

    def converse(self, settings: InferenceConfig) -> None:
        """Ask for prompts and settings until the user types exit or closes the input."""
        print("Starting interactive inference session. Type 'exit' to quit.")
        try:
            while (prompt := ask("\nPrompt: ")).strip() != "exit":
                try:
                    if not prompt:
                        raise ValueError("the prompt is empty; type at least one character")
                    self.trained.tokenizer.encode(prompt)
                except ValueError as error:
                    print(f"error: {error}")
                    continue
                self._answer(prompt, ask_settings(settings))
        except EOFError:
            print()

    def _answer(self, prompt: str, settings: InferenceConfig) -> None:
        print("\nGenerating...\n\n=== Generated Text ===")
        started = time.perf_counter()
        text = self.complete(prompt, settings)
        seconds = time.perf_counter() - started
        print("\n=== New Completion ===")
        self._show(text, end="\n\n")
        how_many = f", {self.accepted} of {len(text)} guessed by counting and accepted"
        print(
            f"Stats: {len(prompt) + len(text)} total tokens, {len(text) / seconds:.2f} tokens/sec"
            f"{how_many if self._drafts(settings) else ''}"
        )


def open_writer(
    folder: Path,
    changes: Mapping[str, object] | None = None,
    seed: int | None = None,
    verbose: bool = False,
) -> tuple[Writer, InferenceConfig]:
    """A writer for the model of a run folder, and the sampling settings of its configuration."""
    trained = load_model(folder)
    config = trained.config
    set_threads(config.device)
    try:
        trained.model.to(choose_device(config.device))
    except ValueError as error:  # it was trained on another machine
        print(f"generating on the CPU: {visible(str(error))}", file=sys.stderr)
    generator = torch.Generator().manual_seed(config.training.seed if seed is None else seed)
    settings = change_inference(config.inference, changes or {})
    draft = None
    if settings.draft_length:
        draft = read_draft(at_home(folder), trained.tokenizer.vocab_size)
    if draft is None and (changes or {}).get("draft_length"):
        raise ConfigError(
            f"{folder} holds no {DRAFT}, whose counts --draft needs: train --resume adds it to a "
            f"run of an earlier version; without --draft the same text comes more slowly"
        )
    return Writer(trained, generator, verbose, draft), settings


def explain(token: GeneratedToken | SpeculatedToken, tokenizer: CharTokenizer) -> str:
    """The character, its probability, its best rivals, the experts it took in every layer.

    With a draft also how it came about: accepted, corrected or drawn.
    """
    probs = token.probs.tolist()
    best = sorted(range(len(probs)), key=lambda i: -probs[i])
    rivals = [i for i in best if i != token.token and probs[i] > 0][:RIVALS]
    others = "  ".join(f"{tokenizer.decode([i])!r} {probs[i]:.3f}" for i in rivals) or "none"
    experts = "  ".join(
        f"layer {i}: {','.join(map(str, layer))}"
        for i, layer in enumerate(token.experts.tolist(), start=1)
    )
    char = tokenizer.decode([token.token])
    how = f" | {token.how}" if isinstance(token, SpeculatedToken) else ""
    return f"{char!r:6} {probs[token.token]:.3f} | rivals {others} | experts {experts}{how}"


def ask(question: str) -> str:
    """Read one line; show it when it was not typed, so that a piped dialogue reads like one."""
    answer = input(question)
    if not sys.stdin.isatty():
        print(visible(answer) if sys.stdout.isatty() else answer)
    return answer


def ask_settings(settings: InferenceConfig) -> InferenceConfig:
    """Ask for each setting; an empty answer keeps it, `none` switches top-k or top-p off."""
    questions: tuple[tuple[str, str, Callable[[str], float]], ...] = (
        ("Max new tokens", "max_new_tokens", int),
        ("Temperature", "temperature", float),
        ("Top-k", "top_k", int),
        ("Top-p", "top_p", float),
    )
    for label, key, number in questions:
        while True:
            answer = ask(f"{label} (default {getattr(settings, key)}): ").strip()
            if not answer:
                break
            try:
                value = None if answer.lower() == "none" else number(answer)
                settings = change_inference(settings, {key: value})
                break
            except ConfigError as error:
                print(f"error: {error}")
            except ValueError:
                print(f"error: {answer!r} is not a number; press Enter for the default")
    return settings
