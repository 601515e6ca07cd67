"""The autoregressive model: its loss, and text and codes that are drawn from it."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genai import api, sampler
from genai.config import compose_train
from genai.console import Console
from genai.contract import MOST_QUESTIONS, Batch, Request, Spec, label_spec
from genai.data.texts import Windows
from genai.data.tokens import make_tokenizer
from genai.errors import CheckpointError, ConfigError, DataError, OutputError
from genai.factory import checked_spec
from genai.models import TransformerConfig
from genai.models.transformer import Transformer
from genai.nets import GptConfig, cross_entropy
from genai.schema import SamplingConfig
from genai.text_samples import Row, Told, prompts_of

QUIET = Console(quiet=True)
TEXT = "the cat sat on the mat and the dog lay by the door.\n"
TOKENIZER = make_tokenizer(lambda: [TEXT], "characters", 0)


def model(spec: Spec, seed: int = 0, **settings: Any) -> Transformer:
    """With weights that say something."""
    torch.manual_seed(seed)
    config = TransformerConfig(name="transformer", nets={}, **settings)
    made = Transformer(spec=spec, config=config, net=GptConfig(name="gpt", width=32, layers=2, heads=2))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def text_spec(length: int = 17, **more: Any) -> Spec:
    vocab = TOKENIZER.vocab
    return Spec(
        kind="token", shape=(length,), modality="text", vocab=vocab, tokenizer=TOKENIZER.dump(), opening=(0,), **more
    )


def code_spec(classes: int = 3) -> Spec:
    return Spec(kind="token", shape=(2, 3), modality="latent", vocab=7, cond={"label": label_spec(classes)})


def request(count: int, begins: Any = None, labels: Any = None, **sampling: Any) -> Request:
    return Request(
        count=count,
        cond={} if labels is None else {"label": torch.tensor(labels)},
        generators=[torch.Generator().manual_seed(i) for i in range(count)],
        device=torch.device("cpu"),
        sampling=SamplingConfig(**sampling),
        begins=begins,
    )


def test_the_loss_of_text_is_the_mean_over_what_follows_on_what_was_read() -> None:
    built = model(text_spec())
    x = torch.randint(built.spec.vocab, (3, 17))
    expected = F.cross_entropy(built.decoder.logits(built.decoder(x[:, :-1])).flatten(0, 1), x[:, 1:].flatten())
    torch.testing.assert_close(built.nats(Batch(x=x)), expected)
    assert built.decoder.context == 16


def test_what_does_not_count_changes_no_loss() -> None:
    built = model(text_spec())
    x = torch.randint(built.spec.vocab, (2, 17))
    mask = torch.arange(17).expand(2, -1) < torch.tensor([[9], [17]])
    other = torch.where(mask, x, (x + 1) % built.spec.vocab)
    assert torch.equal(built.nats(Batch(x=x, mask=mask)), built.nats(Batch(x=other, mask=mask)))


def test_the_loss_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its gradients are those of torch, whatever further rows there are."""
    monkeypatch.setattr(cross_entropy, "_CHUNK", 100)
    h, weight = (torch.randn(size, 8, dtype=torch.float64, requires_grad=True) for size in (33, 64))
    wanted = torch.randint(-3, 19, (33,))
    for softcap in (0.0, 2.0):
        logits = h @ weight[:19].t()
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        whole = F.cross_entropy(logits, wanted.where(wanted >= 0, -100), reduction="sum")
        parts = cross_entropy.linear_cross_entropy(h, weight, wanted, softcap, vocab=19)
        torch.testing.assert_close(parts, whole)
        for one, other in zip(*(torch.autograd.grad(3 * loss, [h, weight]) for loss in (whole, parts)), strict=True):
            torch.testing.assert_close(one, other)


def test_codes_are_preceded_by_their_class_or_by_none() -> None:
    built = model(code_spec(), condition_dropout=0.5)
    cond = {"label": torch.tensor([0, 2])}
    assert built.marks(cond, 2, torch.device("cpu")).tolist() == [[8], [10]]
    assert built.marks({}, 2, torch.device("cpu")).tolist() == [[7], [7]]
    built.train()
    many = built.marks({"label": torch.ones(1000, dtype=torch.int64)}, 1000, torch.device("cpu"))
    assert set(many.flatten().tolist()) == {7, 9}
    assert abs((many == 7).double().mean() - 0.5) < 0.1


def test_guidance_draws_by_the_two_distributions_of_the_paper() -> None:
    """log p = free + g (own - free), up to a constant."""
    built = model(code_spec())
    first = built.draw(request(2000, labels=[1] * 2000, guidance=2.0))[:, 0, 0]
    own, free = (built.decoder.logits(built.decoder(torch.tensor([[mark]])))[0, 0] for mark in (9, 7))
    expected = (2 * own.log_softmax(0) - free.log_softmax(0)).softmax(0)
    torch.testing.assert_close(torch.bincount(first, minlength=7) / 2000.0, expected, rtol=0, atol=0.04)


def test_the_probability_of_a_drawn_text_is_its_share() -> None:
    """Of the first two ids, over 20,000 draws."""
    built = model(Spec(kind="token", shape=(3,), modality="text", vocab=4, opening=(1,)))
    drawn = built.draw(request(20_000, max_tokens=2))
    shares = torch.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16) / 20_000
    first = built.decoder.logits(built.decoder(torch.tensor([[1]])))[0, 0].softmax(0)
    pairs = torch.tensor([[1, i] for i in range(4)])
    second = built.decoder.logits(built.decoder(pairs))[:, 1].softmax(1)
    torch.testing.assert_close(shares, (first[:, None] * second).flatten(), rtol=0, atol=0.015)


def test_prompts_of_unequal_length_together_are_greedily_as_alone() -> None:
    built = model(text_spec())
    generator = torch.Generator().manual_seed(1)
    begins = [torch.randint(built.spec.vocab - 1, (n,), generator=generator).tolist() for n in range(1, 33)]
    together = built.draw(request(32, begins, temperature=0.0, max_tokens=40))
    alone = [built.draw(request(1, [begin], temperature=0.0, max_tokens=40))[0] for begin in begins]
    assert torch.equal(together, torch.stack(alone))


def test_a_penalty_is_of_what_was_drawn_and_not_of_the_prompt() -> None:
    built = model(text_spec())
    begins = [list(range(10))]
    plain = built.draw(request(1, begins, temperature=0.0, max_tokens=1))
    assert torch.equal(built.draw(request(1, begins, temperature=0.0, max_tokens=1, repetition_penalty=5.0)), plain)
    drawn = built.draw(request(1, begins, temperature=0.0, max_tokens=8, repetition_penalty=1e6))
    assert len(set(drawn[0].tolist())) == 8


def test_log_probabilities_are_those_of_the_loss() -> None:
    """Whatever the temperature is at which ids were drawn."""
    built = model(text_spec()).requires_grad_(False)
    asked = request(2, [[3, 1, 4], [1]], temperature=0.5, top_k=5, max_tokens=12, log_probs=True)
    ids, log_p = (torch.stack(parts, dim=1) for parts in zip(*list(built.stream(asked)), strict=True))  # type: ignore[arg-type]
    for row, begin in enumerate([[3, 1, 4], [1]]):
        whole = torch.tensor([*begin, *ids[row].tolist()])[None]
        wanted = whole[:, 1:].clone()
        wanted[:, : len(begin) - 1] = -1
        torch.testing.assert_close(-log_p[row].sum(), built.decoder(whole[:, :-1], wanted=wanted))


def test_an_empty_text_ends_no_sample() -> None:
    with pytest.raises(ConfigError, match="empty text"):
        model(text_spec()).check_sampling(SamplingConfig(stop=("",)))


def test_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs ids"):
        model(Spec(kind="real", shape=(1, 8, 8), modality="image"))


# -- runs --------------------------------------------------------------------------------------------------------------

FAST = ["trainer.max_minutes=null", "net.layers=1", "net.width=32", "net.heads=2", "threads=1", "data.context=32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knows one sentence by heart."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text(TEXT * 100)
    overrides = [f"data.path={folder / 'text.txt'}", f"run.dir={folder / 'run'}", "trainer.max_steps=100", *FAST]
    api.train_config(compose_train("transformer", overrides), console=QUIET)
    return folder / "run"


def drawn(run: Path, out: Path, *settings: str, **options: Any) -> list[dict[str, Any]]:
    api.sample(run, *settings, out=out, console=QUIET, **options)
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def test_what_was_learned_by_heart_is_said(run: Path, tmp_path: Path) -> None:
    (sample,) = drawn(run, tmp_path / "s", "sampling.temperature=0", "sampling.max_tokens=80", prompts=["the cat"])
    assert sample["text"] == (TEXT * 3)[7:87]
    assert (tmp_path / "s" / "samples.txt").read_text().startswith("the cat sat on the mat")
    record = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert (record["files"], record["count"]) == (["samples.txt", "samples.jsonl"], 1)


def test_a_sample_ends_before_the_text_that_stops_it(run: Path, tmp_path: Path) -> None:
    settings = ["sampling.temperature=0", "sampling.max_tokens=80", "sampling.stop=['dog','door']"]
    (sample,) = drawn(run, tmp_path / "s", *settings, prompts=["the cat"])
    assert (sample["text"], sample["ended"]) == (" sat on the mat and the ", True)


def test_samples_of_a_seed_do_not_depend_on_how_many_there_are(run: Path, tmp_path: Path) -> None:
    few = drawn(run, tmp_path / "few", count=2, seed=3)
    many = drawn(run, tmp_path / "many", count=5, seed=3, batch_size=3)
    assert many[:2] == few
    assert len({sample["text"] for sample in many}) > 1


def test_held_out_figures_are_in_units_of_the_text(run: Path) -> None:
    figures = api.evaluate(run, console=QUIET)
    assert figures["bits_per_char"] == pytest.approx(figures["loss_nats_per_token"] / math.log(2))
    assert figures["bits_per_byte"] == figures["bits_per_char"]


def test_ids_of_samples_can_be_had(run: Path, tmp_path: Path) -> None:
    api.sample(run, out=tmp_path, count=2, format="npz", console=QUIET)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["samples"].shape == (2, 33)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"prompts": ["Ünter"]}, DataError, "'Ü'"),
        ({"labels": ["3"]}, ConfigError, "without labels"),
        ({"task": "interpolate"}, ConfigError, "two texts"),
        ({"task": "vary"}, ConfigError, "varies no input"),
        ({"input": "nowhere.txt"}, DataError, "check --input"),
        ({"input": os.devnull}, DataError, "no text"),
    ],
)
def test_what_text_cannot_be_is_told(run: Path, tmp_path: Path, options: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        api.sample(run, out=tmp_path / "s", console=QUIET, **options)
    assert not (tmp_path / "s").exists()


def test_a_run_that_goes_on_amid_an_epoch_repeats_and_leaves_out_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of each step are logged. In an epoch no window comes twice."""
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))  # no character twice
    (tmp_path / "text.txt").write_text(text)
    seen: list[Any] = []
    fetch = Windows.fetch

    def logged(self: Windows, index: Tensor) -> Batch:
        batch = fetch(self, index)
        if not self.whole:
            seen.append(batch.x.tolist())
        return batch

    monkeypatch.setattr(Windows, "fetch", logged)
    settings = [f"data.path={tmp_path / 'text.txt'}", *FAST, "trainer.batch_tokens=128"]

    def train(name: str, steps: int, **options: Any) -> list[Any]:
        seen.clear()
        overrides = [*settings, f"run.dir={tmp_path / name}", f"trainer.max_steps={steps}"]
        api.train_config(compose_train("transformer", overrides), console=QUIET, **options)
        return list(seen)

    whole = train("whole", 20)  # 56 windows of 32 ids, 4 a step
    first = train("halves", 9)
    assert first + train("halves", 20, resume=True) == whole
    windows = [window[0] for step in whole[:14] for window in step]
    assert len(set(windows)) == len(windows) == 56


def test_a_long_text_ends_a_sample() -> None:
    """Of more ids than one of the usual ones."""
    tokenizer = make_tokenizer(lambda: [], "bytes", 0)
    row = Row(tokenizer, ["春眠不觉晓" * 8])
    for new in tokenizer.encode("a" + "春眠不觉晓" * 8 + "b").tolist():
        row.add(new, None)
    assert (row.ended, row.text) == (True, "a")


def test_all_of_a_text_can_be_learned(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 20)
    overrides = [f"data.path={tmp_path / 'text.txt'}", f"run.dir={tmp_path / 'run'}", "trainer.max_steps=2", *FAST]
    api.train_config(compose_train("transformer", [*overrides, "data.valid_fraction=0"]), console=QUIET)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["split"]["held_out"] == 0


def test_previews_are_text(run: Path) -> None:
    assert (run / "previews" / "00000100.txt").read_text()


def test_a_text_at_a_path_is_gone_on_from(run: Path, tmp_path: Path) -> None:
    (tmp_path / "begin.txt").write_text("the dog")
    (sample,) = drawn(
        run, tmp_path / "s", "sampling.temperature=0", "sampling.max_tokens=4", input=tmp_path / "begin.txt"
    )
    assert sample == {"prompt": "the dog", "text": " lay", "ended": False, "ids": 4}


def test_tunes_are_written_beside_their_text(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted with what was asked for; a second call takes its own files away, and no others."""
    told = [Told("X:1\nM:2/4\n", "L:1/8\nK:D\nFAdf|ecAc:|\n", True, ()), Told("", "the cat", True, ())]
    monkeypatch.setattr(sampler, "tell", lambda *given, **named: told)
    monkeypatch.setitem(sys.modules, "music21", None)
    said, out = io.StringIO(), tmp_path / "s"
    api.sample(run, out=out, console=Console(stream=said))
    names = ["samples.txt", "samples.jsonl", "00000.abc"]
    assert json.loads((out / "samples.json").read_text())["files"] == names
    assert said.getvalue().splitlines()[-1] == '1 tune as .abc - for .mid, too, type pip install "genai-trainer[music]"'
    del told[0]
    api.sample(run, out=out, console=Console(stream=said))
    assert sorted(path.name for path in out.iterdir()) == ["samples.json", "samples.jsonl", "samples.txt"]
    assert said.getvalue().count("tune") == 1
    (out / "00000.mid").write_bytes(b"of another")
    with pytest.raises(OutputError, match="overwritten"):
        api.sample(run, out=out, console=QUIET)


# -- conversations and fine-tuning -------------------------------------------------------------------------------------


def test_a_conversation_is_answered_and_a_run_on_text_is_where_it_may_start(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the characters of the text, which the conversations need not have; also when it goes on alone."""
    talk, folder = tmp_path / "talk.jsonl", tmp_path / "run"
    records = [
        {"prompt": "the cat", "response": "sat on the mat."},
        {"prompt": "the dog", "response": "lay by the door."},
    ]
    talk.write_text("\n".join(json.dumps(record) for record in records * 30))
    overrides = [f"data.path={talk}", f"run.dir={folder}", f"model.init_from={run}", "trainer.max_steps=120", *FAST]
    api.train_config(compose_train("transformer", overrides), console=QUIET)
    assert list(api.chat(folder, "sampling.temperature=0", said=["the cat", "Ü", "the dog"], console=QUIET)) == [
        "sat on the mat.",
        "lay by the door.",
    ]
    assert "'Ü'" in capsys.readouterr().err
    (sample,) = drawn(folder, tmp_path / "s", "sampling.temperature=0", prompts=["the dog"])
    assert (sample["text"], sample["ended"]) == ("lay by the door.", True)
    with pytest.raises(ConfigError, match="learned no conversations"):
        next(api.chat(run, said=["hello"], console=QUIET))
    api.resume(folder, "trainer.max_steps=122", console=QUIET)
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": "Quo vadis?", "response": "Romam eo."}) for _ in range(60)))
    with pytest.raises(DataError, match=r"the character '.' .* is none of"):
        api.train_config(
            compose_train(
                "transformer",
                [
                    f"data.path={other}",
                    f"run.dir={tmp_path / 'x'}",
                    f"model.init_from={run}",
                    *FAST,
                    "trainer.max_steps=1",
                ],
            ),
            console=QUIET,
        )


@pytest.fixture(scope="module")
def opinions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Knows by heart what is said of a kind."""
    folder = tmp_path_factory.mktemp("opinions")
    rows = ["label,text", *["pos,good!", "负,不好。"] * 60]
    (folder / "opinions.csv").write_text("\n".join(rows))
    overrides = [f"data.path={folder / 'opinions.csv'}", "data.given=[label]", f"run.dir={folder / 'run'}"]
    api.train_config(compose_train("transformer", [*overrides, "trainer.max_steps=60", *FAST]), console=QUIET)
    return folder / "run"


def test_texts_are_drawn_by_their_label(opinions: Path, tmp_path: Path) -> None:
    greedy = "sampling.temperature=0"
    asked = [{"prompt": f"label: {name}", "text": text, "ended": True, "ids": len(text)}
             for name, text in (("pos", "good!"), ("负", "不好。"))]  # fmt: skip
    assert drawn(opinions, tmp_path / "a", greedy, prompts=["label: pos", "label:  负"])[0] == asked[0]
    for labels in (["pos", "负"], ["0", "1"]):
        assert drawn(opinions, tmp_path / "b", greedy, labels=labels, count=2) == [
            asked[0], asked[0], asked[1], asked[1]
        ]  # fmt: skip
    assert (tmp_path / "b" / "samples.txt").read_text().startswith("label: pos\ngood!\n---")
    assert drawn(opinions, tmp_path / "c", greedy, count=3) == [*asked, asked[0]]  # by turns
    assert (opinions / "previews" / "00000060.txt").read_text().startswith("label: pos\n")
    (tmp_path / "other.csv").write_text("\n".join(["label,text", *["pos,good!"] * 40]))
    assert api.evaluate(opinions, f"data.path={tmp_path / 'other.csv'}", console=QUIET)["bits_per_char"] < 0.3
    with pytest.raises(ConfigError, match="unknown label 'po' - did you mean 'pos'"):
        drawn(opinions, tmp_path / "d", labels=["po"])
    with pytest.raises(ConfigError, match="type --prompt 'label: pos' alone"):
        drawn(opinions, tmp_path / "d", labels=["pos"], prompts=["good"])


def test_a_label_of_several_attributes_is_a_prompt() -> None:
    spec = text_spec(dialogue=True, given=("name", "colour"), questions=("name: lamp; colour: red",))
    with pytest.raises(ConfigError, match="type --prompt 'name: lamp; colour: red'"):
        prompts_of(spec, ["red"])
    many = text_spec(dialogue=True, given=("name",), questions=tuple(f"name: {i}" for i in range(MOST_QUESTIONS)))
    assert prompts_of(many, ["lamp"]) == ["name: lamp"]  # there may be others than those that are kept


@pytest.mark.parametrize("tokenizer", ["{", '{"characters": "ab"}', '{"pieces": {"model": 3}}', '{"other": 1}', "[]"])
def test_a_tokenizer_that_was_changed_is_refused(run: Path, tokenizer: str) -> None:
    class Changed:
        path = run

        def json(self, name: str) -> Any:
            return {**json.loads((run / name).read_text()), "tokenizer": tokenizer}

    with pytest.raises(CheckpointError, match="tokenizer"):
        checked_spec(Changed())  # type: ignore[arg-type]
