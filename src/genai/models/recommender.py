"""p(item | the items that a user had): factors of items, by which what was had is compared with what may be offered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genai.contract import Batch, Model, Request, Spec, Terms, Update
from genai.errors import ConfigError
from genai.metrics import ranking
from genai.models import DiscriminativeConfig
from genai.models.unread import refuse_unread
from genai.schema import NetConfig

_AT_ONCE = 4096  # users
_SPREAD = 0.01  # of factors before training
_USUAL = {"mse": (150.0, 0.5), "softmax": (10.0, 0.1), "bpr": (3.0, 0.1)}  # penalty, left_out


class Tower(nn.Module):
    """(items, factors): a vector of each item's own, and where more is known of it the sum of theirs."""

    numbers: Tensor
    starts: Tensor
    shares: Tensor

    def __init__(self, items: int, factors: int, features: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(items, factors) * _SPREAD)
        count = max((number for row in features for number in row), default=-1) + 1
        self.known = nn.Parameter(torch.zeros(count, factors)) if count else None
        flat = [number for row in features for number in row]
        numbers = torch.tensor(flat, dtype=torch.int64)
        lengths = torch.tensor([0, *(len(row) for row in features)])
        # What many items share moves all of them: a step of it is to be the smaller.
        shares = torch.bincount(numbers, minlength=count).clamp(min=1) ** -0.5
        self.register_buffer("numbers", numbers, persistent=False)
        self.register_buffer("shares", shares[numbers], persistent=False)
        self.register_buffer("starts", lengths.cumsum(0)[:-1], persistent=False)

    def forward(self) -> Tensor:
        if self.known is None:
            return self.own
        return self.own + F.embedding_bag(
            self.numbers, self.known, self.starts, mode="sum", per_sample_weights=self.shares
        )


class Towers(nn.Module):
    """E, of items that were had, V, of items that are offered, and the bias of each item where there is one."""

    def __init__(self, spec: Spec, config: DiscriminativeConfig) -> None:
        super().__init__()
        features = spec.features if config.item_features else ()
        self.had = Tower(spec.classes, config.factors, features)
        self.offered = Tower(spec.classes, config.factors, features)
        # By squares a bias is worth less than it costs: that an item is had often is learned by all others.
        self.bias = None if config.loss == "mse" else nn.Parameter(torch.zeros(spec.classes))

    def forward(self) -> tuple[Tensor, Tensor, Tensor | float]:
        return self.had(), self.offered(), 0.0 if self.bias is None else self.bias


class Recommender(Model):
    """A user is the sum z of the vectors E of what they had (Koren 2008; Kabbur et al. 2013), an item is worth z V^T.

    What was had is predicted from all else that was had: of an item itself its own E is taken off, so that no item
    speaks for itself (Steck 2019). The weights B = E V^T from item to item cost what leaving out items at random would,
    and `penalty` (Steck 2020). Losses, of users that weigh (items had)^-equalise: squares over all items, 1 for those
    had and 0 for others (Hu et al. 2008); one item had against all that were not; or against one of them (Rendle et al.
    2009).
    """

    predicts = "target"
    probable = False
    stop_metric = f"ndcg_at_{ranking.PLACES}"
    items: Tensor
    learned: Tensor
    starts: Tensor
    popularity: Tensor
    taken: Tensor
    mean_weight: Tensor

    def __init__(self, *, spec: Spec, config: DiscriminativeConfig, net: NetConfig) -> None:
        super().__init__()
        if config.kind != "network" or config.loss not in _USUAL:
            key = "kind" if config.kind != "network" else "loss"
            what = f"model.{key}={getattr(config, key)} is of classes and numbers, the data are ratings"
            raise ConfigError(what, fix=f"leave it out; model.loss={'|'.join(_USUAL)}")
        refuse_unread(config, spec)
        self.spec, self.config = spec, config
        users = spec.cond["input"]
        usual = _USUAL[config.loss]
        self.penalty = usual[0] if config.penalty == "auto" else config.penalty
        self.left_out = usual[1] if config.left_out == "auto" else config.left_out
        self.towers = Towers(spec, config)
        # What each user had: the model recommends nothing of it.
        self.register_buffer("items", torch.zeros(users.num_samples, dtype=torch.int64))
        self.register_buffer("learned", torch.zeros(users.num_samples, dtype=torch.bool))
        self.register_buffer("starts", torch.zeros(users.classes + 1, dtype=torch.int64))
        self.register_buffer("popularity", torch.zeros(spec.classes, dtype=torch.int64))
        self.register_buffer("taken", torch.zeros(spec.classes), persistent=False)
        self.register_buffer("mean_weight", torch.ones(()), persistent=False)

    def notes(self) -> Sequence[str]:
        told = (
            f"{self.config.loss}, {self.config.factors} factors, penalty {self.penalty:g}, left_out {self.left_out:g}"
        )
        known = self.towers.offered.known
        return [told + ("" if known is None else f", {len(known):,} things known of items")]

    def prepare(self, fetch: Callable[[Tensor], Batch], count: int, seed: int) -> None:
        """What each of the `count` users had, in their order, and what of it is learned from."""
        items, learned, lengths, weights = [], [], [], []
        self.taken.zero_()
        for part in torch.arange(count).split(_AT_ONCE):
            batch = fetch(part)
            assert batch.mask is not None
            there, counts = batch.x >= 0, batch.mask.sum(1)
            items.append(batch.x[there])
            learned.append(batch.mask[there])
            lengths.append(there.sum(1))
            weights.append(self._weights(counts))
            self.taken.index_add_(0, batch.x[batch.mask], weights[-1].repeat_interleave(counts))
        self.items.copy_(torch.cat(items))
        self.learned.copy_(torch.cat(learned))
        self.starts[1:] = torch.cat(lengths).cumsum(0)
        self.popularity.copy_(torch.bincount(self.items[self.learned], minlength=self.spec.classes))
        self.mean_weight.copy_(torch.cat(weights).mean())
        self.taken.div_(self.mean_weight)

    def _weights(self, counts: Tensor) -> Tensor:
        """(B,) of users who had so many items."""
        return counts.clamp(min=1).to(self.taken.dtype) ** -self.config.equalise

    def updates(self) -> Sequence[Update]:
        return [Update(trains="towers", loss=lambda batch, samples: self.objective(batch), full_precision=True)]

    def objective(self, batch: Batch) -> Terms:
        assert batch.mask is not None
        (had, offered, bias), counts = self.towers(), batch.mask.sum(1)
        # An item that nobody had was perhaps never on offer: that it was not taken tells nothing of it.
        offered = offered * (self.popularity > 0)[:, None]
        user, item = batch.mask.nonzero()[:, 0], batch.x[batch.mask]
        users = torch.zeros(len(batch), had.shape[1], dtype=had.dtype, device=had.device).index_add(0, user, had[item])
        theirs = offered[item]
        whole = (users[user] * theirs).sum(1)
        scores = whole - (had[item] * theirs).sum(1)  # of what was had, by all else that was
        if isinstance(bias, Tensor):
            scores = scores + bias[item]
        if self.config.loss == "mse":
            # Over all items (z V^T)^2, of which those of what was had are replaced.
            each, over_all = (1 - scores).square() - whole.square(), ((users @ (offered.T @ offered)) * users).sum(1)
        else:
            each, over_all = self._contrast(batch, users, offered, bias, user, scores), 0.0
        per_user = torch.zeros_like(users[:, 0]).index_add(0, user, each) + over_all
        loss = (self._weights(counts) / self.mean_weight * per_user).mean()
        return {"loss": loss + self._cost(had, offered), "per_item": (per_user.sum() / counts.sum()).detach()}

    def _contrast(
        self, batch: Batch, users: Tensor, offered: Tensor, bias: Tensor | float, user: Tensor, scores: Tensor
    ) -> Tensor:
        """-ln p of each item had, against all that the user had not, or against one of them."""
        assert batch.mask is not None
        had = self._marked(batch.x, batch.mask) | (self.popularity == 0)
        if self.config.loss == "softmax":
            others = (users @ offered.T + bias).masked_fill(had, -1e9).logsumexp(1)
            return torch.logaddexp(scores, others[user]) - scores
        other = torch.randint(self.spec.classes, (len(user),), device=user.device)
        theirs = (users[user] * offered[other]).sum(1)
        if isinstance(bias, Tensor):
            theirs = theirs + bias[other]
        return F.softplus(theirs - scores).masked_fill(had[user, other], 0.0)

    def _cost(self, had: Tensor, offered: Tensor) -> Tensor:
        """Of the weights B from item to item, without those to itself, sum(c_i B_ij^2) for each user: c is what leaving
        out that share of what was had costs on average, and the penalty."""
        c = (self.left_out / (1 - self.left_out) * self.taken + self.penalty) / max(1, self.spec.num_samples)
        every = ((offered.T @ offered) * (had.T @ (c[:, None] * had))).sum()
        return every - (c * (had * offered).sum(1).square()).sum()

    def _marked(self, items: Tensor, which: Tensor) -> Tensor:
        """(B, T) items, of which some count -> (B, classes) booleans."""
        marks = torch.zeros(len(items), self.spec.classes + 1, dtype=torch.bool, device=items.device)
        return marks.scatter_(1, items.masked_fill(~which, self.spec.classes), True)[:, :-1]

    def had_by(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) numbers of users, -1 for one that is not known -> (B, classes) booleans: what they had, and what of it
        was learned from."""
        place = torch.arange(self.spec.shape[0], device=users.device)
        known = users.clamp(min=0)
        at = self.starts[known, None] + place
        inside = (at < self.starts[known + 1, None]) & (users >= 0)[:, None]
        at = at.clamp(max=len(self.items) - 1)
        return self._marked(self.items[at], inside), self._marked(self.items[at], inside & self.learned[at])

    def scores(self, had: Tensor) -> Tensor:
        """(B, classes) booleans -> scores, -inf for what was had."""
        own, offered, bias = self.towers()
        unmet = self.popularity == 0  # of which only what data.items tells is learned, and no bias
        offered = torch.where(unmet[:, None], offered - self.towers.offered.own, offered)
        if isinstance(bias, Tensor):
            bias = bias.masked_fill(unmet, bias[~unmet].min())
        return (had.to(own.dtype) @ own @ offered.T + bias).float().masked_fill(had, -torch.inf)

    def evaluate(self, batch: Batch) -> Terms:
        """Against all items but what the user is known to have had beside those looked for, which are none that were
        learned from."""
        known, learned = self.had_by(batch.cond["input"])
        there = batch.x >= 0
        looked_for = there if batch.mask is None else batch.mask
        wanted = self._marked(batch.x, looked_for) & ~learned
        had, relevant = (known | self._marked(batch.x, there & ~looked_for)) & ~wanted, wanted.sum(1)
        most = torch.arange(self.spec.classes, 0, -1, device=had.device, dtype=torch.float32)
        popular = torch.empty_like(most).scatter_(0, self.popularity.argsort(descending=True, stable=True), most)
        terms: Terms = {"share": (relevant > 0).float().mean()}
        for prefix, scores in (("", self.scores(had)), ("popularity_", popular.masked_fill(had, -torch.inf))):
            best = scores.topk(min(ranking.PLACES, self.spec.classes))
            hits = wanted.gather(1, best.indices).cpu().numpy()
            found = ranking.figures(hits, relevant.cpu().numpy())
            terms |= {prefix + name: torch.tensor(values.mean()) for name, values in found.items()}
            if not prefix:
                offered = torch.zeros(self.spec.classes + 1, device=had.device)
                shown = best.indices.masked_fill(best.values.isinf() | (relevant == 0)[:, None], self.spec.classes)
                terms["offered"] = offered.index_fill_(0, shown.flatten(), 1.0)[:-1]
        return terms

    def conclude(self, means: Terms) -> Terms:
        share, offered = means["share"].clamp(min=torch.finfo(torch.float32).tiny), means["offered"]
        left = [name for name in means if name not in ("share", "offered") and not name.startswith("popularity_")]
        found = {name: means[name] / share for name in left}
        found[f"coverage_at_{ranking.PLACES}"] = (offered > 0).to(offered.dtype).mean()
        name = f"popularity_{self.stop_metric}"
        return {**found, name: means[name] / share}

    def draw(self, request: Request) -> Tensor:
        """(count, classes): scores of all items, -inf for what the users had, with cond["had"] (B, T) that, too."""
        had, _ = self.had_by(request.cond["input"])
        if "had" in request.cond:
            more = request.cond["had"]
            had = had | self._marked(more, more >= 0)
        return self.scores(had)
