"""The counts in a run folder: written while training, verified, used by `generate --draft`."""

import json
import shutil
from io import StringIO

import pytest
import torch
from conftest import TINY_RUN
from safetensors.torch import load_file, save_file
from test_run_folder import MORE, contents, refused

from moe_tutorial import checkpoint
from moe_tutorial.command import draft as run_draft
from moe_tutorial.command import generation
from moe_tutorial.command.cli import main
from moe_tutorial.command.draft import read_draft, write_draft
from moe_tutorial.corpus import load_corpus
from moe_tutorial.hugging_face import export, import_
from moe_tutorial.speculation import CountedDraft
from moe_tutorial.tokenizer import CharTokenizer
from moe_tutorial.trust import DRAFT, CheckpointError, sha256

IDS = torch.tensor([0, 1, 2, 0, 1, 1, 2, 0, 0, 1])
GREEDY = ("generate", "--prompt", "The", "--temperature", "0", "--max-new-tokens", "60")


@pytest.fixture
def folder(trained_folder, tmp_path, monkeypatch):
    """The current folder, with a finished run in its subfolder `model`; gives that."""
    shutil.copytree(trained_folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "model"


def printed(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def test_a_run_holds_the_counts_of_its_training_text(folder):
    train = load_corpus("passage").train
    tokenizer = CharTokenizer.load(folder / "vocab.txt")
    found = read_draft(folder, tokenizer.vocab_size)
    expected = CountedDraft.count(tokenizer.encode(train), tokenizer.vocab_size)
    for ours, theirs in ((found.keys, expected.keys), (found.counts, expected.counts)):
        assert all(map(torch.equal, ours, theirs))
        assert len(ours) == 5
    state = json.loads((checkpoint.pointed(folder, "best") / "state.json").read_text())
    assert state["sha256"][DRAFT] == sha256(folder / DRAFT)
    assert (folder / DRAFT).stat().st_mode == (folder / "vocab.txt").stat().st_mode


@pytest.mark.parametrize(("vocab_size", "size"), [(61, 8), (100, 12)])
def test_it_takes_eight_bytes_a_sequence_or_twelve(tmp_path, vocab_size, size):
    (tmp_path / "vocab.txt").touch()
    ids = torch.randint(vocab_size, (20_000,))
    write_draft(tmp_path, ids, vocab_size)
    number = sum(map(len, CountedDraft.count(ids, vocab_size).keys))
    header = (tmp_path / DRAFT).stat().st_size - size * number
    small = 4 * sum(len(k) for k in CountedDraft.count(ids, vocab_size).keys[:4])
    assert 0 < header + (small if size == 12 else 0) < 1000
    assert sum(read_draft(tmp_path, vocab_size).counts[0]) == 20_000


def test_of_a_long_text_the_end_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(run_draft, "MOST_COUNTED", 4)
    (tmp_path / "vocab.txt").touch()
    write_draft(tmp_path, IDS, 3)
    assert read_draft(tmp_path, 3).counts[0].tolist() == [2, 1, 1][:3]
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_greedy_text_is_the_same_with_a_draft(folder, capsys):
    plain = printed(capsys, *GREEDY)
    assert printed(capsys, *GREEDY, "--draft", "4") == plain
    assert printed(capsys, *GREEDY, "--draft", "0") == plain
    assert printed(capsys, *GREEDY, "--draft", "64") == plain


def test_every_line_of_the_standard_input_is_drafted(folder, capsys, monkeypatch):
    calls = []
    speculate = generation.speculate
    monkeypatch.setattr(
        generation, "speculate", lambda *a, **o: (calls.append(o), speculate(*a, **o))[1]
    )
    monkeypatch.setattr("sys.stdin", StringIO("The cat\nThe dog\n"))
    out = printed(capsys, "generate", "--stdin", "--max-new-tokens", "5", "--draft", "3")
    assert [options["draft_length"] for options in calls] == [3, 3]
    assert out.startswith("The cat")
    assert "\nThe dog" in out


@pytest.mark.parametrize("flags", [[], ["--draft", "3"]])
def test_the_statistics_say_how_many_were_accepted(folder, capsys, monkeypatch, flags):
    monkeypatch.setattr("sys.stdin", StringIO("The\n30\n0\n\n\nexit\n"))
    lines = printed(capsys, "generate", "--interactive", *flags).splitlines()
    (line,) = [line for line in lines if line.startswith("Stats: 33 total tokens, ")]
    rest = line.partition("tokens/sec")[2]
    if not flags:
        assert rest == ""
        return
    out = printed(capsys, *GREEDY[:-1], "30", "--draft", "3", "--verbose").splitlines()
    hows = [row.rpartition(" | ")[2] for row in out[1:31]]
    assert set(hows) <= {"accepted", "corrected", "drawn"}
    assert rest == f", {hows.count('accepted')} of 30 guessed by counting and accepted"


def test_a_folder_without_counts_generates_as_before(folder, capsys):
    plain = printed(capsys, *GREEDY)
    (folder / DRAFT).unlink()
    assert printed(capsys, *GREEDY) == plain
    assert printed(capsys, *GREEDY, "--draft", "0") == plain
    line = refused(capsys, 2, *GREEDY, "--draft", "4")
    assert "model holds no draft.safetensors, whose counts --draft needs" in line
    assert "train --resume adds it" in line


def test_counts_that_the_settings_ask_for_may_be_missing(folder, capsys):
    path = folder / "config.hocon"
    path.write_text(path.read_text().replace('"draft_length": 0', '"draft_length": 4'))
    with_counts = generation.open_writer(folder)[0]
    assert isinstance(with_counts.draft, CountedDraft)
    (folder / DRAFT).unlink()
    assert generation.open_writer(folder)[0].draft is None


def test_resuming_adds_what_an_earlier_version_did_not_count(folder, capsys):
    expected = (folder / DRAFT).read_bytes()
    (folder / DRAFT).unlink()
    for path in folder.rglob("state.json"):
        state = json.loads(path.read_text())
        del state["sha256"][DRAFT]
        path.write_text(json.dumps(state))
    assert main(["train", "--resume", "--set", *MORE]) == 0
    assert (folder / DRAFT).read_bytes() == expected
    state = json.loads((checkpoint.pointed(folder, "latest") / "state.json").read_text())
    assert state["sha256"][DRAFT] == sha256(folder / DRAFT)
    printed(capsys, *GREEDY, "--draft", "4")


def test_what_a_killed_run_left_is_counted_anew(folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / DRAFT).write_text("another text's")
    (folder / f"{DRAFT}.part").write_text("half")
    assert main(["train", "--set", *TINY_RUN, "training.max_steps=2"]) == 0
    assert read_draft(folder, CharTokenizer.load(folder / "vocab.txt").vocab_size).order == 5


@pytest.mark.parametrize(
    "flags", [["--draft", "4"], pytest.param([], marks=pytest.mark.slow)], ids=["draft", "none"]
)
@pytest.mark.parametrize(
    "damage",
    ["cut", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("flip", "empty", "folder"))],
)
def test_damaged_counts_are_refused_in_one_line(folder, capsys, damage, flags):
    path = folder / DRAFT
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        cut, flipped = content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"cut": cut, "flip": flipped, "empty": b""}[damage])
    before = contents(folder / "checkpoints")
    line = refused(capsys, 1, *GREEDY, *flags)
    assert line.startswith("error: model/draft.safetensors: ")
    if damage != "folder":
        assert "changed since it was saved; remove it (train --resume counts it again)" in line
        refused(capsys, 1, "train", "--resume", "--set", *MORE)
        assert contents(folder / "checkpoints") == before
        path.unlink()  # as the line says
        assert main(["train", "--resume", "--set", *MORE]) == 0
        assert path.read_bytes() == content


GOOD = {f"keys.{n}": torch.arange(3) for n in (1, 2)} | {
    f"counts.{n}": torch.ones(3, dtype=torch.int32) for n in (1, 2)
}


@pytest.mark.parametrize(
    "changes",
    [
        {"keys.2": torch.tensor([0, 1, 9])},  # 3 ** 2 sequences of two tokens: 0 .. 8
        {"keys.1": torch.tensor([-1, 1, 2])},
        {"keys.1": torch.tensor([0, 2, 1])},
        {"keys.1": torch.tensor([0, 1, 1])},
        {"keys.1": torch.arange(3.0)},
        {"counts.1": torch.ones(3)},
        {"counts.1": torch.tensor([1, 0, 1])},
        {"counts.1": torch.ones(2, dtype=torch.int64)},
        {"keys.1": torch.arange(0), "counts.1": torch.arange(0)},
        {"keys.1": torch.arange(3)[None], "counts.1": torch.ones(1, 3, dtype=torch.int64)},
        {"keys.2": None},
        {"keys.1": None, "counts.1": None},
        {"more": torch.arange(3)},
        dict.fromkeys(GOOD),
    ],
)  # fmt: skip
def test_what_is_no_table_of_counts_is_refused(tmp_path, changes):
    save_file(GOOD, tmp_path / DRAFT)
    assert read_draft(tmp_path, 3).order == 2
    changed = {name: tensor for name, tensor in {**GOOD, **changes}.items() if tensor is not None}
    save_file(changed, tmp_path / DRAFT)
    with pytest.raises(
        CheckpointError, match=r"draft\.safetensors: (cannot be read|these are not)"
    ):
        read_draft(tmp_path, 3)


def test_a_file_of_any_size_is_not_read(tmp_path, monkeypatch):
    save_file(GOOD, tmp_path / DRAFT)
    monkeypatch.setattr(run_draft, "LARGEST", 100)
    with pytest.raises(CheckpointError, match="bytes are too many for this file"):
        read_draft(tmp_path, 3)
    assert read_draft(tmp_path / "nothing", 3) is None


def test_counts_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "vocab.txt").touch()
    (tmp_path / f"{DRAFT}.part").mkdir()
    with pytest.raises(OSError, match=r"draft\.safetensors\.part cannot be written"):
        write_draft(tmp_path, IDS, 3)
    assert not (tmp_path / DRAFT).exists()


def test_an_imported_model_has_no_counts(folder, capsys):
    export(folder, folder.parent / "hf")
    import_(folder.parent / "hf", folder.parent / "back")
    assert not (folder.parent / "back" / DRAFT).exists()
    line = refused(capsys, 2, *GREEDY, "--model-path", "back", "--draft", "4")
    assert "back holds no draft.safetensors" in line
    assert load_file(folder / DRAFT).keys() == {
        f"{kind}.{n}" for kind in ("keys", "counts") for n in range(1, 6)
    }
