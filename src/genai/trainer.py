"""The one trainer: it takes the updates that a model states and knows nothing else about the model."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from genai import checkpoint as checkpoints
from genai.budget import Budget, State
from genai.checkpoint import Checkpoint
from genai.console import Console, Progress
from genai.contract import Batch, Calibrates, Model, Update
from genai.data.loader import Loader
from genai.data.order import step_index
from genai.data.source import Dataset
from genai.device import Runtime
from genai.errors import CheckpointError, ConfigError, ConfigErrors, DataError, Interrupted, NonFiniteError, to_resume
from genai.evaluation import evaluating, held_out_terms, in_units_of_text
from genai.faults import fault
from genai.health import Watch
from genai.meters import Meters, Pace
from genai.optim import Ema, global_norm, lr_scale, pack_state, unpack_state
from genai.registry import find, load
from genai.run import RunFolder
from genai.run_info import Best
from genai.schema import HIGHER_IS_BETTER, Config, plain, read
from genai.searches import Searching
from genai.signals import answered_by

_SHOW_SECONDS = 0.5  # between readings of the speed for people


@dataclass
class Learner:
    """A child module, its optimizer and its parameters."""

    child: nn.Module
    optimizer: Optimizer
    parameters: list[nn.Parameter]
    searches: bool  # calls its closure several times (L-BFGS, Newton): not clipped, and trial points may be non-finite
    skips: bool  # leaves weights alone where a flag on the device says so


class Trainer:
    """Trains `model` on `data` into `run` (None in every process but the first).

    `preview` draws a fixed picture of the model it is given, for a step, and returns what it measures of it: at step 0,
    on intervals and at the end.
    """

    def __init__(
        self,
        *,
        model: Model,
        data: Dataset,
        config: Config,
        runtime: Runtime,
        console: Console,
        run: RunFolder | None,
    ) -> None:
        self.model, self.data, self.config, self.runtime = model, data, config, runtime
        self.console, self.run = console, run
        self.preview: Callable[[Model, int], Mapping[str, float]] | None = None  # draws pictures, returns figures
        settings = self.settings = config.trainer
        num_samples = len(data.train)
        wanted = num_samples if settings.batch_size == "all" else settings.batch_size
        if settings.batch_tokens is not None:
            if data.spec.num_predicted <= 0:
                fix = "type trainer.batch_size=N"
                raise ConfigError(f"trainer.batch_tokens counts ids, a sample is {data.spec.modality}", fix=fix)
            wanted = max(1, round(settings.batch_tokens / data.spec.num_predicted))
        self.batch_size = min(wanted, num_samples)
        num_micro = settings.accumulate * runtime.world
        self.first_micro = runtime.rank * settings.accumulate
        self.loader = Loader(
            data.train,
            seed=config.seed,
            batch_size=self.batch_size,
            num_micro=num_micro,
            first_micro=self.first_micro,
            own_micro=settings.accumulate,
            device=runtime.device,
            dtype=runtime.dtype,
            workers=config.data.workers,
        )
        self.budget = Budget(settings)
        self.state = State(
            step=0,
            samples=0,
            seconds=0.0,
            data=data.fingerprint,
            plan=(self.batch_size, num_micro),
            environment=runtime.environment(),
        )
        self.operations, self.peak = model.operations(), runtime.peak_operations()
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self.updates = list(model.updates())
        self.learners = {name: self._learner(name) for name in dict.fromkeys(u.trains for u in self.updates)}
        self._learning: str | None = None
        model.requires_grad_(False)
        searches = any(learner.searches for learner in self.learners.values())
        if searches:
            if self.batch_size < len(data.train):
                what = f"optim={config.optim.name} needs the same samples at every step"
                raise ConfigError(f"{what}, trainer.batch_size is {self.batch_size}", fix="type trainer.batch_size=all")
            if settings.ema_half_life_samples is not None and runtime.main:
                console.warn(f"optim={config.optim.name} keeps no moving average: it ends at its best point")
        half_life = None if searches else settings.ema_half_life_samples
        self.ema = None
        if half_life is not None:
            self.ema = Ema(model, half_life_samples=half_life, rampup=settings.ema_rampup)
        runtime.compile(model)
        self.stop_metric = settings.stop_metric or (None if data.valid is None else model.stop_metric)
        self.meters = Meters([u.prefix for u in self.updates], runtime)
        self.pace = Pace()
        self.watch = Watch(model.alarms())
        self._bad_step: Tensor | None = None  # on an accelerator: the first step that was not finite, or -1
        self._gradient_norms: dict[str, Tensor] = {}  # of each update's last step
        self._signal = 0
        self._received = 0  # signal of this process; _signal is what all processes agreed on

    def _learner(self, name: str) -> Learner:
        child = self.model.get_submodule(name)
        parameters = list(child.parameters())
        optimizer = load(find("optim", self.config.optim.name).target)(parameters, self.config.optim)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        searches = isinstance(optimizer, Searching)
        if isinstance(optimizer, Searching):
            optimizer.tolerance_grad = self.settings.grad_tolerance or 0.0
        return Learner(child, optimizer, parameters, searches, bool(optimizer.defaults.get("fused")))

    @property
    def averaged(self) -> Model:
        """The model that is evaluated and drawn from: its moving average, where there is one."""
        return self.model if self.ema is None else self.ema.model  # type: ignore[return-value]

    # -- the hot path --------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Every update that is due, on the same micro-batches; then the moving average."""
        state = self.state
        micro_batches = self.loader.take(state.samples)
        scale = lr_scale(self.config.optim, state.samples, self.budget.fraction(state))
        for number, update in enumerate(self.updates):
            if update.due(state.step):
                for group in self.learners[update.trains].optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * scale
                self.apply(number, update, micro_batches)
        state.step += 1
        state.samples += self.batch_size
        if self.ema is not None:
            self.ema.update(self.model, samples=state.samples, batch=self.batch_size)

    def apply(self, number: int, update: Update, micro_batches: Sequence[Batch]) -> None:
        """One optimizer step of one update, over the micro-batches of all processes."""
        runtime, learner, state = self.runtime, self.learners[update.trains], self.state
        self._let_learn(update.trains)
        shares = self._shares(micro_batches)
        measured: dict[str, Tensor] = {}
        trial = False

        def closure() -> Tensor:
            nonlocal trial
            learner.optimizer.zero_grad(set_to_none=True)
            measured.clear()
            for i, (batch, share) in enumerate(zip(micro_batches, shares, strict=True)):
                # Reseeded here, so that every call of the closure sees one function, and a resume needs no RNG state.
                runtime.seed(self.config.seed, state.step, number, self.first_micro + i)
                with runtime.autocast(not (update.second_order or update.full_precision)):
                    terms = update.loss(batch.drawn(), state.samples)
                if share is not None:
                    terms = {name: term * share for name, term in terms.items()}
                terms["loss"].backward()
                for name, term in terms.items():
                    measured[name] = measured[name] + term.detach() if name in measured else term.detach()
            gradients = [p.grad for p in learner.parameters if p.grad is not None]
            runtime.sum([*gradients, *measured.values()])
            norm = global_norm(gradients) if gradients else torch.zeros(())
            measured["grad_norm"] = self._gradient_norms[update.prefix] = norm
            if not (trial and learner.searches):
                self._check(update, measured["loss"], norm, learner)
            trial = True
            if self.settings.clip_norm is not None and not learner.searches:
                torch._foreach_mul_(gradients, (self.settings.clip_norm / (norm + 1e-6)).clamp(max=1.0))
            return measured["loss"]

        with runtime.uncompiled(update.second_order):
            learner.optimizer.step(closure)  # type: ignore[arg-type]
        if update.after is not None:
            with torch.no_grad():
                update.after(measured)
        self.meters.add(update.prefix, {name: term for name, term in measured.items() if term.ndim == 0})

    def _let_learn(self, name: str) -> None:
        if name == self._learning:
            return
        if self._learning is not None:
            self.learners[self._learning].child.requires_grad_(False)
        self.learners[name].child.requires_grad_(True)
        self._learning = name

    def _shares(self, micro_batches: Sequence[Batch]) -> list[Tensor | float | None]:
        """Each micro-batch's part of the weight of the global batch; None where it is the whole."""
        num_micro = self.state.plan[1]
        if num_micro == 1:
            return [None]
        weights = [batch.weight for batch in micro_batches if batch.weight is not None]
        if not weights:
            return [len(batch) / self.batch_size for batch in micro_batches]
        total = torch.stack(weights).sum()
        self.runtime.sum([total])
        return [weight / total for weight in weights]

    def _check(self, update: Update, loss: Tensor, norm: Tensor, learner: Learner) -> None:
        """Keeps a non-finite loss or gradient from the weights.

        By a flag on the device, at which the optimizer skips the step, and which the next log reads; by looking where
        that is free (a CPU) or the optimizer cannot skip.
        """
        if self.runtime.looks_free or not learner.skips:
            if not (math.isfinite(norm.item()) and math.isfinite(loss.item())):
                raise self._non_finite(
                    self.state.step, f"{update.prefix} loss {loss.item():g}, gradient {norm.item():g}"
                )
            return
        bad = torch.where(torch.isfinite(norm) & torch.isfinite(loss), -1, self.state.step)
        self._bad_step = bad if self._bad_step is None else torch.where(self._bad_step >= 0, self._bad_step, bad)
        # Fused kernels leave weights and state alone where this is 1; once bad, every later step is skipped too.
        learner.optimizer.found_inf = (self._bad_step >= 0).float()  # type: ignore[attr-defined]

    def _non_finite(self, step: int, what: str) -> NonFiniteError:
        position = self.state.samples - (self.state.step - step) * self.batch_size
        ids = step_index(self.config.seed, position, self.batch_size, len(self.data.train)).tolist()
        shown = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
        return NonFiniteError(
            f"not finite at step {step}: {what}; samples {shown}; no checkpoint was changed",
            path=None if self.run is None else self.run.path,
            fix=f"go on with a smaller rate: {to_resume(self.run.path if self.run else 'RUN')} "
            f"optim.lr={min(self.config.optim.lr / 3, 1e-3):.1g}",
        )

    # -- the loop ------------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Trains until a budget is used up, a metric stops improving or a signal arrives; the last step is saved.

        Raises Interrupted after a signal, NonFiniteError when a loss or gradient is not finite.
        """
        try:
            with self._signals():
                self._loop()
        finally:
            self.loader.close()

    def _loop(self) -> None:
        settings, state = self.settings, self.state
        if state.step == 0:
            self._draw_preview()
            if self._ended():
                self.save()
        clock = time.monotonic() - state.seconds
        saved_seconds = state.seconds
        self.pace.start(state.samples)
        while not self._ended():
            fault(f"step:{state.step}")
            self.step()
            self._agree(clock)
            record: dict[str, float] = {}
            if self._due(settings.log_every):
                record |= self._log()
            gained = False
            if self.data.valid is not None and self._due(settings.eval_every) and not self._signal:
                record |= self._log()
                with self.pace.pause():
                    held_out = self.evaluate()
                self._agree(clock)
                if not self._signal:  # a signal cuts an evaluation short
                    record |= {f"valid/{name}": value for name, value in held_out.items()}
                    gained = self._note_gain(held_out)
                    for model in (self.model, self.averaged):  # the average follows what the model holds
                        if isinstance(model, Calibrates):
                            model.calibrate(held_out)
            if self._due(settings.preview_every) and not self._signal:
                record |= self._log()
                with self.pace.pause():
                    record |= self._draw_preview()
            if record:
                self._write(record)
            late = settings.save_minutes is not None and state.seconds - saved_seconds > 60 * settings.save_minutes
            with self.pace.pause():
                if gained or late or self._due(settings.save_every):
                    self.save()
                    saved_seconds = state.seconds
            self._show()
        if self._signal:
            fix = f"type {to_resume(self.run.path)}" if self.run is not None else ""
            raise Interrupted(f"stopped at step {state.step}, saved", signal=self._signal, fix=fix)

    def _due(self, every: int) -> bool:
        return self._ended() or (every > 0 and self.state.step % every == 0)

    def _ended(self) -> bool:
        return bool(self._signal) or self.budget.used_up(self.state) or self._converged()

    def _converged(self) -> bool:
        searches = [learner.optimizer for learner in self.learners.values()]
        if self.state.step and all(isinstance(search, Searching) and search.stalled for search in searches):
            return True  # also where nothing learns by steps
        tolerance, norms = self.settings.grad_tolerance, self._gradient_norms
        return tolerance is not None and bool(norms) and all(float(norm) < tolerance for norm in norms.values())

    def _agree(self, clock: float) -> None:
        """The same time and the same signal in all processes, so that they decide alike."""
        milliseconds = round(1000 * (time.monotonic() - clock))
        self._signal, milliseconds = self.runtime.agree(self._received, milliseconds)
        self.state.seconds = milliseconds / 1000

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """A first signal ends the training at the step's end; a second one ends the process at once."""
        self._received = 0

        def receive(number: int, frame: Any) -> None:
            if self._received:
                self.console.stop()
                if self.run is not None and self.run.info.checkpoint is not None:
                    self.console.warn(f"left at once; from the last checkpoint: {to_resume(self.run.path)}")
                os._exit(128 + number)  # files are complete at every instant, and the lock goes with the process
            self._received = number

        with answered_by(receive):
            yield

    # -- what happens on intervals -------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Held-out terms of the averaged weights, over all of the held-out data."""
        assert self.data.valid is not None
        micro_size = max(1, self.batch_size // self.state.plan[1])
        figures = held_out_terms(
            self.averaged,
            self.data.valid,
            self.runtime,
            micro_size,
            self.config.seed,
            stopped=lambda: bool(self._received),
            measure=self.averaged.evaluate_openly if isinstance(self.averaged, Calibrates) else None,
        )
        return in_units_of_text(figures, self.data.text)

    def check_stop_metric(self) -> None:
        """Finds a stop metric that is never measured, on one held-out batch. Raises ConfigError."""
        if self.stop_metric is None:
            if self.settings.patience is not None:
                raise ConfigError("trainer.patience needs a metric to watch", fix="type trainer.stop_metric=NAME")
            return
        if self.data.valid is None:
            raise ConfigError(
                f"trainer.stop_metric={self.stop_metric} needs held-out data", fix="type data.valid_fraction=0.1"
            )
        if self.settings.stop_metric is not None:
            few = torch.arange(min(len(self.data.valid), 8))
            measured = held_out_terms(self.averaged, self.data.valid, self.runtime, 8, self.config.seed, index=few)
            if self.stop_metric not in measured:
                raise ConfigError(
                    f"trainer.stop_metric={self.stop_metric} is not measured",
                    fix=f"choose one of {', '.join(measured)}",
                )

    def _note_gain(self, held_out: Mapping[str, float]) -> bool:
        """Whether the stop metric is better than ever; counts the evaluations since it was."""
        if self.stop_metric is None or self.stop_metric not in held_out:
            return False
        state, value = self.state, held_out[self.stop_metric]
        higher = self.stop_metric in HIGHER_IS_BETTER
        gained = math.isfinite(value) and (
            state.best_value is None or (value > state.best_value if higher else value < state.best_value)
        )
        if gained:
            state.best_step, state.best_value, state.evaluations_without_gain = state.step, value, 0
        else:
            state.evaluations_without_gain += 1
        return gained

    def _log(self) -> dict[str, float]:
        """The means since the last log; raises NonFiniteError if the device's flag says so. The loop's one sync."""
        self._refuse_bad_step()
        rates = {f"lr/{name}": learner.optimizer.param_groups[0]["lr"] for name, learner in self.learners.items()}
        speed = {"samples_per_second": self.pace.since_log(self.state.samples)}
        if (ids := self.data.spec.num_predicted) > 0:
            speed["tokens_per_second"] = ids * speed["samples_per_second"]
        if (mfu := self._mfu(speed["samples_per_second"])) is not None:
            speed["mfu"] = mfu
        return {**self.meters.means(), **speed, **rates}

    def _mfu(self, samples_per_second: float) -> float | None:
        """Operations that training takes, over those that the devices could do; None where one is not known."""
        return self.operations * samples_per_second / self.peak if self.peak and self.operations else None

    def _refuse_bad_step(self) -> None:
        """Raises NonFiniteError where a step on the device was not finite."""
        if self._bad_step is not None and (bad := int(self._bad_step)) >= 0:
            raise self._non_finite(bad, "a loss or gradient")

    def _write(self, record: Mapping[str, float]) -> None:
        state = self.state
        if self.run is not None:
            for warning in self.watch.read(record, state.step):
                self.console.warn(f"step {state.step:,}: {warning}")
                self.run.log(f"warning: {warning}")
            self.run.append_metrics({"step": state.step, "samples": state.samples, "seconds": state.seconds, **record})

    def _show(self) -> None:
        state = self.state
        if not self.runtime.main or (self.pace.age() < _SHOW_SECONDS and not self._ended()):
            return
        fraction = self.budget.fraction(state)
        speed, ids = self.pace.reading(state.samples), self.data.spec.num_predicted
        self.console.progress(
            Progress(
                step=state.step,
                samples=state.samples,
                seconds=state.seconds,
                fraction=fraction,
                eta_seconds=state.seconds * (1 / fraction - 1) if fraction else None,
                samples_per_second=speed,
                tokens_per_second=ids * speed if ids else None,
                mfu=self._mfu(speed),
                memory_bytes=self.runtime.peak_bytes(),
                terms=self.meters.last,
            )
        )

    def _draw_preview(self) -> dict[str, float]:
        if self.preview is None or not self.runtime.main:
            return {}
        with evaluating(self.averaged) as model:
            return {f"preview/{name}": value for name, value in self.preview(model, self.state.step).items()}

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes a checkpoint of this step, then prunes old ones."""
        self._refuse_bad_step()  # what follows statistics (Update.after) has no flag of its own
        if self.run is None:
            return
        state = self.state
        state.meters = self.meters.state()
        tensors: dict[str, Mapping[str, Tensor]] = {"model": self.model.state_dict(), "optim": {}}
        for name, learner in self.learners.items():
            packed, state.optimizers[name] = pack_state(learner.optimizer, self.names)
            tensors["optim"] = {**tensors["optim"], **packed}
        if self.ema is not None:
            tensors["ema"] = self.ema.model.state_dict()
        self.run.flush_metrics()
        saved = checkpoints.save(
            self.run.checkpoints,
            step=state.step,
            model=self.config.model.name,
            run_id=self.run.id,
            tensors=tensors,
            documents={"state": asdict(state), "config": plain(self.config), "spec": plain(self.data.spec)},
        )
        # Noted before pruning: a kill in between must not leave run.json naming what is gone.
        best = None
        if state.best_step is not None and state.best_value is not None and self.stop_metric is not None:
            best = Best(state.best_step, state.best_value, self.stop_metric)
        self.run.saved(saved.path.name, step=state.step, samples=state.samples, seconds=state.seconds, best=best)
        protect = {state.step} | ({state.best_step} if state.best_step is not None else set())
        checkpoints.prune(self.run.checkpoints, keep=self.settings.keep, protect=protect)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes up the training where `checkpoint` was saved. Raises CheckpointError when it does not fit."""
        try:
            state = read(State, checkpoint.json("state.json"))
        except ConfigErrors as error:
            raise CheckpointError(f"damaged training state: {error.lines()[0]}", path=checkpoint.path) from error
        if state.data != self.state.data:
            raise DataError(
                "the data or its split is not what this run was trained on",
                path=self.config.data.path or self.config.data.name,
                fix="put the data back, or start a new run with model.init_from=RUN",
            )
        checkpoints.load_weights(self.model, checkpoint, "model")
        if self.ema is not None:
            checkpoints.load_weights(self.ema.model, checkpoint, "ema" if checkpoint.has("ema") else "model")
        if state.optimizers.keys() != self.learners.keys():
            raise CheckpointError("the optimizers' state is not that of this model", path=checkpoint.path)
        tensors = checkpoint.tensors("optim")
        for name, learner in self.learners.items():
            unpack_state(learner.optimizer, self.names, tensors, state.optimizers[name])
        differing = [
            f"{key} {was}, now {self.state.environment.get(key)}"
            for key, was in state.environment.items()
            if was != self.state.environment.get(key)
        ]
        if state.plan != self.state.plan:
            differing.append(f"batch and micro-batches {state.plan}, now {self.state.plan}")
        if differing and self.runtime.main:
            self.console.warn(f"not bit-exact from here: {'; '.join(differing)}")
        self.meters.restore(state.meters)
        state.plan, state.environment = self.state.plan, self.state.environment
        self.state = state
