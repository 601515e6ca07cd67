"""Micro-batches of a training run, from any position on: the same for every number of worker processes."""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from genai.contract import Batch
from genai.data import images
from genai.data.codec import LatentSplit
from genai.data.order import permutation
from genai.data.source import Split
from genai.data.split import Stored, Streaming
from genai.data.texts import Windows
from genai.errors import ConfigError, GenaiError

_BATCHES_AHEAD = 3  # per worker process


class Loader:
    """Cuts the sequence of samples into this process's micro-batches.

    A global batch is `num_micro` micro-batches whose sizes differ by one sample at most; this process takes `own_micro`
    of them, from number `first_micro` on. Raises ConfigError for a set smaller than a batch, or a batch too small.
    """

    def __init__(
        self,
        split: Split,
        *,
        seed: int,
        batch_size: int,
        num_micro: int,
        first_micro: int,
        own_micro: int,
        device: torch.device,
        dtype: torch.dtype,
        workers: int = 0,
    ) -> None:
        if batch_size > len(split):
            raise ConfigError(
                f"trainer.batch_size is {batch_size}, the training set has {len(split)} samples",
                fix="type trainer.batch_size=all, or a smaller number",
            )
        if batch_size < num_micro:  # of the whole set; a number is refused with the settings
            raise ConfigError(
                f"{batch_size} samples cannot be cut into {num_micro} micro-batches (devices x accumulate)",
                fix="type smaller trainer.devices or trainer.accumulate",
            )
        self.split = split.to(device)
        self.seed, self.batch_size, self.device, self.dtype = seed, batch_size, device, dtype
        cuts = [batch_size * i // num_micro for i in range(first_micro, first_micro + own_micro + 1)]
        self._start, self._count = cuts[0], cuts[-1] - cuts[0]
        self._parts = [slice(a - self._start, b - self._start) for a, b in pairwise(cuts)]
        self._order_device = torch.device("cpu") if split.streams else device
        self._epochs: dict[int, Tensor] = {}
        stored = self.split.split if isinstance(self.split, LatentSplit) else self.split
        self._reader = _Reader(self, stored, workers) if isinstance(stored, Streaming) else None

    def take(self, position: int) -> list[Batch]:
        """This process's micro-batches of the global batch that follows the first `position` samples."""
        if self._reader is not None:
            batch = self._reader.take(position)
            parts = [_part(batch, part) for part in self._parts]
            if isinstance(self.split, LatentSplit):
                parts = [self.split.encoded(part) for part in parts]
        else:
            # A micro-batch is fetched by itself: what it weighs is its own.
            index = self.index(position)
            parts = [self.split.fetch(index[part]) for part in self._parts]
            if isinstance(self.split, Windows) and self.split.streams:
                self.split.expect(self.index(position + self.batch_size))
        return parts if self.dtype == torch.float32 else [part.to(self.device, self.dtype) for part in parts]

    def close(self) -> None:
        """Ends the worker processes, if there are any."""
        if self._reader is not None:
            self._reader.close()

    def index(self, position: int) -> Tensor:
        """Ids of this process's samples of the global batch at `position`."""
        n = len(self.split)
        epoch, start = divmod(position + self._start, n)
        if start + self._count <= n:
            return self._order(epoch)[start : start + self._count]
        rest = start + self._count - n
        return torch.cat([self._order(epoch)[start:], self._order(epoch + 1)[:rest]])

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            order = permutation(self.seed, epoch, len(self.split)).to(self._order_device)
            if isinstance(self.split, Windows):  # which are cut anew
                order += epoch * len(self.split)
            self._epochs = {e: o for e, o in self._epochs.items() if e == epoch - 1} | {epoch: order}
        return self._epochs[epoch]


def _part(batch: Batch, part: slice) -> Batch:
    index = None if batch.index is None else batch.index[part]
    return Batch(x=batch.x[part], cond={name: values[part] for name, values in batch.cond.items()}, index=index)


class _Reader:
    """Reads a streaming split ahead of the trainer, in `workers` processes; at once and in order without them."""

    def __init__(self, loader: Loader, split: Streaming, workers: int) -> None:
        self._loader, self._split, self._workers = loader, split, workers
        self._units = split.units.to(loader.device)
        self._pinned = loader.device.type != "cpu" and torch.accelerator.is_available()
        self._next = -1  # the position that the running workers deliver next
        self._batches: Iterator[tuple[Stored | GenaiError, Tensor]] | None = None

    def take(self, position: int) -> Batch:
        if self._workers == 0:
            index = self._loader.index(position)
            stored: Stored | GenaiError = self._split.read(index)
        else:
            stored, index = self._take_from_workers(position)
        if isinstance(stored, GenaiError):
            self.close()
            raise stored
        device = self._loader.device
        values, labels, prompts = (None if t is None else t.to(device, non_blocking=self._pinned) for t in stored)
        assert values is not None
        return self._units.batch(values, labels, prompts, index.to(device, non_blocking=self._pinned))

    def close(self) -> None:
        atexit.unregister(self.close)
        # By name: an error's traceback may hold the iterator, which ends its workers only when nothing does.
        shutdown = getattr(self._batches, "_shutdown_workers", None)
        self._batches = None
        if shutdown is not None:
            shutdown()

    def _take_from_workers(self, position: int) -> tuple[Stored | GenaiError, Tensor]:
        if self._batches is None or position != self._next:
            self.close()
            self._batches = self._start(position)
        self._next = position + self._loader.batch_size
        try:
            return next(self._batches)
        except (RuntimeError, OSError, EOFError) as error:  # the last two: it ended while it handed over a batch
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            self.close()
            raise GenaiError(
                f"a process that reads data ended ({' '.join(str(error).split()).rstrip('.')})",
                fix="if memory ran out, type a smaller data.workers; then genai resume RUN",
            ) from error

    def _start(self, position: int) -> Iterator[tuple[Stored | GenaiError, Tensor]]:
        reads = DataLoader(
            _Reads(self._split),
            sampler=_Positions(self._loader, position),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=_BATCHES_AHEAD,
            pin_memory=self._pinned,
            worker_init_fn=_set_up_worker,
            generator=torch.Generator(),  # of its own: starting workers draws a number, and training's must not shift
        )
        # torch's handler raises wherever the trainer happens to be when a worker dies; ours reports it in take().
        owns_signals = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGCHLD) if owns_signals else None
        batches = iter(reads)
        if owns_signals:
            with contextlib.suppress(TypeError):  # a handler that was not set from Python cannot be put back
                signal.signal(signal.SIGCHLD, before)
        # Workers ignore SIGTERM, so they must be told to end before the interpreter waits for them.
        atexit.register(self.close)
        return batches


class _Reads(TorchDataset[tuple[Stored | GenaiError, Tensor]]):
    """What a worker process runs: an index of samples -> their stored values, or the error that stopped it."""

    def __init__(self, split: Streaming) -> None:
        self._split = split

    def __getitem__(self, index: Tensor) -> tuple[Stored | GenaiError, Tensor]:
        try:
            return self._split.read(index), index
        except GenaiError as error:  # as a value: torch would wrap it in the text of a traceback
            return error, index


class _Positions:
    """The indices of one global batch after another, without end."""

    def __init__(self, loader: Loader, position: int) -> None:
        self._loader, self._position = loader, position

    def __iter__(self) -> Iterator[Tensor]:
        position = self._position
        while True:
            yield self._loader.index(position).clone()
            position += self._loader.batch_size


def _set_up_worker(number: int) -> None:
    images.be_one_of_several()
    # A signal to the whole group of processes is the trainer's to answer; it ends its workers itself.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(ignored, signal.SIG_IGN)
