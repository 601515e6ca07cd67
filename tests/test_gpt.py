"""The decoder: nothing looks ahead, and what is kept of a text changes nothing of what follows."""

from __future__ import annotations

import math

import pytest
import torch

from genai.errors import ConfigError
from genai.nets import GptConfig
from genai.nets.gpt import Cache, Gpt, unit

FORMS = {
    "default": {},
    "shared keys, gated": {"kv_heads": 2, "feed": "swiglu"},
    "gpt-2": {"norm": "layer", "positions": "learned", "feed": "gelu", "qk_norm": False, "bias": True, "tied": True,
              "softcap": 0.0},
}  # fmt: skip
CONTEXT, VOCAB = 24, 50
SIZE_3 = {"layers": 3, "width": 192, "heads": 3}


def gpt(**settings: object) -> Gpt:
    """With weights that are all of a size, so that every layer says something."""
    torch.manual_seed(0)
    made = Gpt(ids=VOCAB, vocab=VOCAB, context=CONTEXT, config=GptConfig(name="gpt", **settings)).eval()  # type: ignore[arg-type]
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.requires_grad_(False)


def greedy(decoder: Gpt, rows: list[list[int]], count: int) -> list[list[int]]:
    cache = Cache(decoder, rows, CONTEXT)
    h, found = cache.read(), []
    for _ in range(count):
        found.append(decoder.logits(h).argmax(1).tolist())
        h = cache.follow(found[-1])
    return torch.tensor(found).T.tolist()


@pytest.fixture(params=FORMS)
def decoder(request: pytest.FixtureRequest) -> Gpt:
    return gpt(**FORMS[request.param])


PROMPTS = [torch.randint(VOCAB, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in range(1, 33)]


def test_no_id_changes_what_is_said_before_it(decoder: Gpt) -> None:
    ids = torch.tensor([PROMPTS[19]])
    changed = ids.clone()
    changed[0, 12] = (changed[0, 12] + 1) % VOCAB
    before, after = decoder.logits(decoder(ids)), decoder.logits(decoder(changed))
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_with_the_cache_is_as_without(decoder: Gpt) -> None:
    row = list(PROMPTS[8])
    for new in greedy(decoder, [row], CONTEXT - len(row))[0]:
        assert decoder.logits(decoder(torch.tensor([row])))[0, -1].argmax() == new
        row.append(new)


def test_prompts_of_unequal_length_together_are_as_one_by_one(decoder: Gpt) -> None:
    """32 of them, far beyond the context, some longer than it."""
    together = greedy(decoder, PROMPTS, 2 * CONTEXT)
    assert together == [greedy(decoder, [prompt], 2 * CONTEXT)[0] for prompt in PROMPTS]


def test_a_full_context_goes_on_with_its_later_half(decoder: Gpt) -> None:
    row = list(PROMPTS[CONTEXT - 1])
    first, second = greedy(decoder, [row], 2)[0]
    half = [*row, first][-(CONTEXT // 2) :]
    assert decoder.logits(decoder(torch.tensor([half])))[0, -1].argmax() == second


def test_a_fresh_decoder_says_nothing() -> None:
    """Every id is as likely as any other, and the residual branches add nothing."""
    fresh = Gpt(ids=VOCAB, vocab=VOCAB, context=CONTEXT, config=GptConfig(name="gpt"))
    assert not fresh.logits(fresh(torch.tensor([PROMPTS[9]]))).any()


def test_gpt2_has_the_parameters_of_the_paper() -> None:
    """124.4 million with 12 layers of width 768, 50,257 ids and 1,024 places; ours has a table of 50,304 rows."""
    with torch.device("meta"):
        big = Gpt(
            ids=50_257,
            vocab=50_257,
            context=1024,
            config=GptConfig(name="gpt", layers=12, width=768, heads=12, **FORMS["gpt-2"]),  # type: ignore[arg-type]
        )
    assert sum(p.numel() for p in big.parameters()) == 124_439_808 + (50_304 - 50_257) * 768


@pytest.mark.parametrize("settings", [{"heads": 3}, {"heads": 4, "kv_heads": 3}, {"width": 12, "heads": 4}])
def test_sizes_that_do_not_divide_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="heads"):
        Gpt(ids=8, vocab=8, context=8, config=GptConfig(name="gpt", **settings))  # type: ignore[arg-type]


def test_the_norm_and_its_gradient_are_torchs_own() -> None:
    h = torch.randn(3, 4, 8, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn_like(h)
    own, theirs = unit(h), torch.nn.functional.rms_norm(h, (8,), eps=0.0)
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=0)
    (one,), (other,) = (torch.autograd.grad(y, h, gradient) for y in (own, theirs))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_a_decoder_begins_without_a_preference(tied: bool) -> None:
    torch.manual_seed(0)
    made = Gpt(ids=VOCAB, vocab=VOCAB, context=CONTEXT, config=GptConfig(name="gpt", tied=tied))
    ids = torch.randint(VOCAB, (8, CONTEXT + 1))
    loss = made(ids[:, :-1], wanted=ids[:, 1:]) / (8 * CONTEXT)
    assert loss.item() == pytest.approx(math.log(VOCAB), abs=0.3)


def test_one_number_sizes_a_decoder() -> None:
    weights = [[p.shape for p in gpt(**settings).parameters()] for settings in ({"size": 3}, SIZE_3)]
    assert weights[0] == weights[1]


def test_operations_are_the_published_ones_of_gpt2() -> None:
    """490,000 ids a second are 42.3 % of an H200's 989 * 10^12 operations."""
    parts = {**FORMS["gpt-2"], "layers": 12, "width": 768, "heads": 12}
    with torch.device("meta"):
        made = Gpt(ids=50257, vocab=50257, context=1024, config=GptConfig(name="gpt", **parts))  # type: ignore[arg-type]
    assert made.operations() * 490_000 / 989.4e12 == pytest.approx(0.423, abs=0.002)
