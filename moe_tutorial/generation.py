"""Completions on a terminal: streamed, explained token by token, or in a dialogue."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from moe_tutorial.checkpoint import TrainedModel
from moe_tutorial.config import ConfigError, InferenceConfig, change_inference
from moe_tutorial.sampling import GeneratedToken, generate
from moe_tutorial.terminal import visible
from moe_tutorial.tokenizer import CharTokenizer

RIVALS = 5


@dataclass
class Writer:
    """Writes completions of one model with one random stream."""

    trained: TrainedModel
    generator: torch.Generator
    verbose: bool = False

    def _show(self, text: str, end: str = "") -> None:
        # A file or a pipe gets every character as it is; a terminal would obey some.
        print(visible(text) if sys.stdout.isatty() else text, end=end, flush=True)

    def complete(self, prompt: str, settings: InferenceConfig) -> str:
        """Print the prompt and, as they come, the new characters; return the new text alone.

        Raises: ValueError if the prompt is empty or has an unknown character.
        """
        tokenizer = self.trained.tokenizer
        ids = tokenizer.encode(prompt)
        device = self.trained.model.head.weight.device
        tokens = generate(
            self.trained.model,
            ids.to(device),
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            generator=self.generator,
        )
        new = []
        for token in tokens:
            if not new:  # the prompt is known to be good once there is a first token
                self._show(prompt, end="\n" if self.verbose else "")
            new.append(tokenizer.decode([token.token]))
            if self.verbose:
                print(explain(token, tokenizer), flush=True)
            else:
                self._show(new[-1])
        print()
        return "".join(new)

    def complete_all(self, prompts: Iterable[str], settings: InferenceConfig) -> None:
        """One completion per prompt, with an empty line between them."""
        for i, prompt in enumerate(prompts):
            if i:
                print()
            self.complete(prompt, settings)

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
        print(
            f"Stats: {len(prompt) + len(text)} total tokens, {len(text) / seconds:.2f} tokens/sec"
        )


def explain(token: GeneratedToken, tokenizer: CharTokenizer) -> str:
    """The character, its probability, its best rivals, and the experts it took in every layer."""
    probs = token.probs.tolist()
    best = sorted(range(len(probs)), key=lambda i: -probs[i])
    rivals = [i for i in best if i != token.token and probs[i] > 0][:RIVALS]
    others = "  ".join(f"{tokenizer.decode([i])!r} {probs[i]:.3f}" for i in rivals) or "none"
    experts = "  ".join(
        f"layer {i}: {','.join(map(str, layer))}"
        for i, layer in enumerate(token.experts.tolist(), start=1)
    )
    char = tokenizer.decode([token.token])
    return f"{char!r:6} {probs[token.token]:.3f} | rivals {others} | experts {experts}"


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
