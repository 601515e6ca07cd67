"""Whether a training goes well: a model's alarms over what is logged, and how varied its previews are."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property

import torch
from torch import Tensor

from genai.contract import Alarm
from genai.data.source import Split

_REAL_SAMPLES, _REAL_VALUES, _AT_ONCE = 512, 1 << 26, 128  # that stand for the data, at most


class Watch:
    """Means of the terms that alarms are about, each over the alarm's own stretch of steps."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        self._values: dict[Alarm, deque[tuple[int, float]]] = {alarm: deque() for alarm in alarms}
        self._ringing: set[Alarm] = set()

    def read(self, terms: Mapping[str, float], step: int) -> list[str]:
        """What is to be said after `step` steps; of an alarm that rings on, nothing again."""
        told = []
        for alarm, values in self._values.items():
            with suppress(KeyError):
                values.append((step, alarm.measure(terms)))
            if not values or values[-1][0] != step:
                continue
            while len(values) > 1 and values[1][0] <= step - alarm.steps:
                values.popleft()
            if values[0][0] > step - alarm.steps:
                continue  # too early to tell
            mean = sum(value for _, value in values) / len(values)
            if alarm.below <= mean <= alarm.above:
                self._ringing.discard(alarm)
            elif alarm not in self._ringing:
                self._ringing.add(alarm)
                told.append(f"{alarm.name} is {mean:.3g} over {step - values[0][0]:,} steps: {alarm.says}")
        return told


class Diversity:
    """How far samples lie from each other, over how far real ones do: the root mean square distance of pairs of one
    class. 1 is as varied as the data, 0 is one and the same sample again and again."""

    def __init__(self, real: Split, labels: Sequence[int] | None) -> None:
        """`real` as it is trained on, `labels` of the samples that will be compared."""
        self._split = real
        self._labels = None if labels is None else torch.tensor(labels)

    def of(self, batches: Sequence[Tensor]) -> float | None:
        """Of samples in model units, batch after batch; None where the data does not vary."""
        return _spread(torch.cat([x.cpu() for x in batches]), self._labels) / self._real if self._real else None

    @cached_property
    def _real(self) -> float:
        split = self._split
        # Drawn from all of it: folders lie class after class.
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
        count = min(_REAL_SAMPLES, max(_AT_ONCE, _REAL_VALUES // split.fetch(order[:1]).x.numel()))
        batches = [split.fetch(index) for index in order[:count].split(_AT_ONCE)]
        found = [batch.cond["label"].cpu() for batch in batches if "label" in batch.cond]
        return _spread(
            torch.cat([batch.x.cpu() for batch in batches]),
            torch.cat(found) if found and self._labels is not None else None,
        )


def _spread(x: Tensor, labels: Tensor | None) -> float:
    """Root mean square distance of pairs of one class: twice the variance around the class's mean, summed."""
    values = x.flatten(1).double()
    variances = [values.var(0).sum()] if labels is None and len(values) > 1 else []
    for label in [] if labels is None else labels.unique():
        members = values[labels == label]
        if len(members) > 1:
            variances.append(members.var(0).sum())
    return float(torch.stack(variances).mean().mul(2).sqrt()) if variances else 0.0
