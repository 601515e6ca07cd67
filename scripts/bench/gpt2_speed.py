"""A training step of GPT-2 with 124 million parameters and 524,288 ids, for a GPU: nanoGPT against this trainer.

    python scripts/bench/gpt2_speed.py TEXT [--nanogpt PATH/TO/nanoGPT/model.py] [--micro 64] [--steps 3] [--rounds 2]

TEXT is a file or folder of text, which is cut into 50,257 pieces. Both train in bf16 with torch.compile, on
micro-batches of `micro` windows of 1,024 ids. Without --nanogpt this trainer alone is measured, as it is under
experiment=transformer/gpt2_124m; the figures are those of the fastest round. Operations are counted as 6 a weight of a
matrix and 12 a layer, place and width (Chowdhery et al. 2022).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genai import device
from genai.config import compose_train
from genai.data.source import open_data
from own import module_at, now, own_trainer, parser, seconds_a_step

CONTEXT, WINDOWS = 1024, 512
OUR_MARK = 490_000  # ids a second on one H200


def peer_seconds(model: Path, ids: torch.Tensor, micro: int, steps: int, where: torch.device) -> float:
    """A step of the loop of nanoGPT's train.py."""
    module = module_at(model)
    config = module.GPTConfig(
        block_size=CONTEXT, vocab_size=50304, n_layer=12, n_head=12, n_embd=768, dropout=0.0, bias=True
    )
    with where:
        net: nn.Module = module.GPT(config)
    decayed = [p for p in net.parameters() if p.ndim >= 2]
    rest = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    run: Any = torch.compile(net)

    def step() -> None:
        for _ in range(WINDOWS // micro):
            places = torch.randint(len(ids) - CONTEXT - 1, (micro,), device="cpu")
            x, y = (torch.stack([ids[i + k : i + k + CONTEXT] for i in places]).to(where) for k in (0, 1))
            with torch.autocast(where.type, torch.bfloat16):
                loss = run(x, y)[1] / (WINDOWS // micro)
            loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    start = now()
    for _ in range(steps):
        step()
    return (now() - start) / steps


def main() -> None:
    arguments = parser(micro=64, steps=3, rounds=2)
    arguments.add_argument("text", type=Path, nargs="?")
    arguments.add_argument("--nanogpt", type=Path)
    arguments.add_argument("overrides", nargs="*", help="of the run of this trainer")
    given = arguments.parse_intermixed_args()
    if given.text is None:
        print("not measured, it needs a GPU and a text: see the head of this script")
        return
    overrides = [
        "experiment=transformer/gpt2_124m", f"data.path={given.text}", f"trainer.accumulate={WINDOWS // given.micro}",
        f"trainer.batch_size={WINDOWS}", *given.overrides,
    ]  # fmt: skip
    data = open_data(compose_train("transformer", overrides).data, predicts="data")
    runtime = device.start(given.device, compile=compose_train("transformer", overrides).compile)
    print(f"{runtime}, compiled: {runtime.compiled}, {len(data.train):,} windows")
    ours, theirs, memory = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            trainer = own_trainer("transformer", Path(folder) / str(number), data, overrides, runtime)
            ours.append(seconds_a_step(trainer, given.steps))
            work, peak = trainer.operations * WINDOWS, trainer.peak
            memory = memory or runtime.peak_bytes() / 2**30
            del trainer
            if given.nanogpt is not None:
                ids = torch.from_numpy(data.train.ids.astype("int64"))  # type: ignore[attr-defined]
                theirs.append(peer_seconds(given.nanogpt, ids, given.micro, given.steps, runtime.device))
    num_ids = WINDOWS * data.spec.num_predicted
    print(
        f"a step of {num_ids:,} ids {1e3 * min(ours):.0f} ms: {num_ids / min(ours):,.0f} ids/s (mark {OUR_MARK:,}), "
        f"MFU {f'{100 * work / min(ours) / peak:.1f} %' if work and peak else 'n/a'}, {memory:.0f} GiB"
    )
    if theirs:
        print(f"nanoGPT {1e3 * min(theirs):.0f} ms, {min(theirs) / min(ours):.2f} times as fast")


if __name__ == "__main__":
    main()
