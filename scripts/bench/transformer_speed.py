"""A training step of a small GPT, and drawing text from it: nanoGPT and transformers against this trainer.

    pip install transformers
    python scripts/bench/transformer_speed.py [--device auto] [--rounds 5] [--steps 20] [--nanogpt nanoGPT/model.py]

Four layers of width 128 with four heads, as in nanoGPT's recipe for CPUs: contexts of 64 characters, batches of 12.
nanoGPT is trained by the loop of its train.py (AdamW, gradients clipped at 1, a new batch in each step), or, where no
copy of it is named, transformers' GPT-2 in its place. Against it the same architecture and optimizer here, and this
project's own defaults, whose optimizer makes matrices orthogonal. Drawing 256 characters: transformers' `generate` with
its cache, from a Llama of that size, by one and by 16 at once. Rounds alternate in one process; the figures are medians
of the ratios.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genai import device
from genai.config import compose_train
from genai.contract import Request
from genai.data.source import open_data
from genai.schema import SamplingConfig
from genai.trainer import Trainer
from own import module_at, now, own_trainer, parser, seconds_a_step

LIMITS = {"training": 1.0, "drawing 1": 3.0, "drawing 16": 2.0}
CONTEXT, BATCH, DRAWN = 64, 12, 256
SAME = [
    "net.norm=layer", "net.positions=learned", "net.feed=gelu", "net.qk_norm=false", "net.tied=true", "net.softcap=0",
    "optim=adamw", "optim.lr=1e-3", "optim.betas=[0.9,0.99]", "optim.weight_decay=0.1", "trainer.clip_norm=1.0",
]  # fmt: skip


def transformers() -> Any:
    try:
        import transformers as library
    except ImportError:
        print("not measured, transformers is not installed: pip install transformers")
        sys.exit()
    return library


def gpt_of(nanogpt: Path | None, library: Any, vocab: int) -> tuple[str, nn.Module, Any]:
    """Its name, the network and its loss as a function of ids and the next ids."""
    if nanogpt is None:
        settings = library.GPT2Config(
            vocab_size=vocab,
            n_positions=CONTEXT,
            n_embd=128,
            n_layer=4,
            n_head=4,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
        net = library.GPT2LMHeadModel(settings)
        return (
            "transformers' GPT-2",
            net,
            lambda x, y: nn.functional.cross_entropy(net(x).logits.flatten(0, 1), y.flatten()),
        )
    module = module_at(nanogpt)
    net = module.GPT(
        module.GPTConfig(block_size=CONTEXT, vocab_size=vocab, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False)
    )
    return "nanoGPT", net, lambda x, y: net(x, y)[1]


def seconds_of_peer(net: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], ids: Tensor, steps: int) -> float:
    decayed = [p for p in net.parameters() if p.ndim >= 2]
    rest = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    start, where = 0.0, next(net.parameters()).device
    for step in range(-2, steps):
        if step == 0:
            start = now()
        places = torch.randint(len(ids) - CONTEXT, (BATCH,), device="cpu")
        x, y = (torch.stack([ids[i + k : i + k + CONTEXT] for i in places]).to(where) for k in (0, 1))
        loss = loss_of(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (now() - start) / steps


def seconds_to_generate(net: Any, prompt: Tensor) -> float:
    start = now()
    with torch.inference_mode():
        net.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=True, top_k=0, max_new_tokens=DRAWN,
                     min_new_tokens=DRAWN, use_cache=True, pad_token_id=0)  # fmt: skip
    return now() - start


def seconds_to_draw(trainer: Trainer, prompt: Tensor) -> float:
    count = len(prompt)
    request = Request(
        count=count,
        cond={},
        generators=[torch.Generator().manual_seed(i) for i in range(count)],
        device=trainer.runtime.device,
        sampling=SamplingConfig(max_tokens=DRAWN),
        begins=prompt.tolist(),
    )
    model = trainer.averaged.eval()
    parameters = sum(p.numel() for p in model.parameters())
    start = now()
    with trainer.runtime.steps_of(parameters, count):
        model.draw(request)
    return now() - start


def main() -> None:
    arguments = parser(rounds=5, steps=20)
    arguments.add_argument("--nanogpt", type=Path)
    given = arguments.parse_args()
    library = transformers()
    overrides = [f"data.context={CONTEXT}", f"trainer.batch_size={BATCH}"]
    data = open_data(compose_train("transformer", overrides).data, predicts="data")
    vocab = data.spec.vocab
    ids = torch.from_numpy(data.train.ids.astype("int64"))  # type: ignore[attr-defined]
    chosen, plain = device.start(given.device), device.start(given.device, "fp32")
    precisions = [chosen] if chosen.precision == "fp32" else [chosen, plain]
    missed = False
    rows: dict[str, list[float]] = {}
    theirs: list[float] = []
    name = ""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            with chosen.device:
                name, net, loss_of = gpt_of(given.nanogpt, library, vocab)
                theirs.append(seconds_of_peer(net, loss_of, ids, given.steps))
            for runtime in precisions:
                for kind, more in (("the same architecture", SAME), ("own defaults", [])):
                    where = Path(folder) / f"{number} {kind} {runtime.precision}"
                    trainer = own_trainer("transformer", where, data, [*overrides, *more], runtime)
                    trainer.step()
                    label = f"{kind}, {runtime.precision}"
                    rows.setdefault(label, []).append(seconds_a_step(trainer, given.steps))
        print(f"{name}: a step of {BATCH} x {CONTEXT} {1000 * statistics.median(theirs):.1f} ms")
        for label, found in rows.items():
            ratios = [their / our for their, our in zip(theirs, found, strict=True)]
            ratio = statistics.median(ratios)
            print(
                f"  {label}: {1000 * statistics.median(found):.1f} ms, {ratio:.2f} times as fast "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
            missed |= label == f"the same architecture, {chosen.precision}" and ratio < LIMITS["training"]
        wide = ["data.context=288"]
        drawn = open_data(compose_train("transformer", wide).data, predicts="data")
        trainer = own_trainer("transformer", Path(folder) / "drawn", drawn, wide, plain)
        llama = (
            library.LlamaForCausalLM(
                library.LlamaConfig(
                    vocab_size=vocab,
                    hidden_size=128,
                    intermediate_size=512,
                    num_hidden_layers=4,
                    num_attention_heads=4,
                    max_position_embeddings=512,
                    bos_token_id=None,
                    eos_token_id=None,
                )
            )
            .eval()
            .to(chosen.device)
        )
        for count in (1, 16):
            prompt = torch.randint(vocab - 1, (count, 16), device=chosen.device)
            pairs = [
                (seconds_to_generate(llama, prompt), seconds_to_draw(trainer, prompt)) for _ in range(given.rounds + 1)
            ][1:]  # the first one warms up
            ratio = statistics.median(their / our for their, our in pairs)
            speeds = [count * DRAWN / statistics.median(pair[i] for pair in pairs) for i in range(2)]
            print(
                f"drawing {count}: transformers {speeds[0]:,.0f} ids/s, here {speeds[1]:,.0f}, {ratio:.1f} times "
                f"(limit {LIMITS[f'drawing {count}']})"
            )
            missed |= ratio < LIMITS[f"drawing {count}"]
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
