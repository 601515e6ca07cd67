"""The only file that names devices: which one, in which precision, in which process of how many."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genai import cpu
from genai.errors import ConfigError, OutOfMemoryError, PeerLostError
from genai.job import place

_MASK = (1 << 64) - 1
_FEW_PARAMETERS = 1 << 23  # of a network whose small steps on a CPU are not faster in bf16
_FEW_MULTIPLICATIONS = 1 << 23  # of a step on a CPU: a thread that is woken adds as much time as it takes off


def mix(*numbers: int) -> int:
    """A 64-bit hash of integers (splitmix64 steps): equal numbers give equal seeds on every machine."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def _callable(module: nn.Module) -> Iterator[nn.Module]:
    """The module, or what it holds where it only holds: to compile what is never called would change nothing."""
    if type(module).forward is not nn.Module.forward:
        yield module
    else:
        for child in module.children():
            yield from _callable(child)


# Of dense products in bf16 that accumulate in fp32, in 10^12 operations a second, by NVIDIA's data sheets.
_PEAKS = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200": 989.4,
    "H100 PCIe": 756.5,
    "H100 NVL": 835.5,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.1,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


@dataclass
class Runtime:
    """Where and how tensors are computed; chosen once, printed with its reason."""

    device: torch.device
    precision: Literal["fp32", "bf16", "fp64"]
    reason: str
    threads: int
    rank: int = 0
    world: int = 1
    compiled: bool = False
    deterministic: bool = False
    _generators: list[torch.Generator] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of parameters and data: float32 also where autocast computes in bfloat16."""
        return torch.float64 if self.precision == "fp64" else torch.float32

    @property
    def wide(self) -> torch.dtype:
        """The widest dtype of the device, for sums over many values."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def looks_free(self) -> bool:
        """Whether reading a number off the device costs nothing, so that each step is checked before it is taken."""
        return self.device.type == "cpu"

    def __str__(self) -> str:
        where = str(self.device) + (f" x {self.world}" if self.world > 1 else "")
        return f"{where}, {self.precision}, {self.threads} threads: {self.reason}"

    def environment(self) -> dict[str, str]:
        """What bit-exactness depends on."""
        return {
            "device": self.device.type,
            "precision": self.precision,
            "threads": str(self.threads),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "deterministic": str(self.deterministic).lower(),
        }

    def autocast(self, enabled: bool = True) -> contextlib.AbstractContextManager[Any]:
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @contextlib.contextmanager
    def steps_of(self, parameters: int, rows: int) -> Iterator[None]:
        """For many small steps of a network, one after the other, without gradients. On a CPU they run on one thread
        where to wake another takes longer than it helps, and a small network computes in full precision, where bf16
        takes more calls; that goes by the network alone, so that a row comes out the same beside any others."""
        on_cpu = self.device.type == "cpu"
        alone = on_cpu and rows * parameters < _FEW_MULTIPLICATIONS
        if alone:
            torch.set_num_threads(1)
        try:
            with torch.inference_mode(), self.autocast(not (on_cpu and parameters < _FEW_PARAMETERS)):
                yield
        finally:
            if alone:
                torch.set_num_threads(self.threads)

    def uncompiled(self, wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """For code that differentiates a gradient, which compiled graphs do not carry."""
        return torch.compiler.set_stance("force_eager") if wanted and self.compiled else contextlib.nullcontext()

    def place(self, model: nn.Module) -> None:
        """Moves a model here; convolutions run in channels_last, which is faster on every device that we know."""
        model.to(self.device, self.dtype)
        if any(p.ndim == 4 for p in model.parameters()):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compile(self, model: nn.Module) -> None:
        if self.compiled:
            for child in model.children():
                for net in _callable(child):
                    net.compile()

    def seed(self, *numbers: int) -> None:
        """Seeds the default generators of the CPU and of this device."""
        # torch.manual_seed would walk every device (0.5 ms); the CPU's generator keeps 32 bits.
        seed = mix(*numbers) & 0xFFFFFFFF
        for generator in self._generators or self._find_generators():
            generator.manual_seed(seed)

    def _find_generators(self) -> list[torch.Generator]:
        self._generators = [torch.default_generator]
        if self.device.type == "cuda":
            torch.cuda.init()
            self._generators.append(torch.cuda.default_generators[self.device.index or 0])
        elif self.device.type == "mps":
            self._generators.append(torch.mps._get_default_mps_generator())
        return self._generators

    def peak_operations(self) -> float | None:
        """Of floating point, a second, that the accelerators of all processes can do in bf16; None: not known."""
        if self.device.type != "cuda" or self.precision != "bf16":
            return None
        name = torch.cuda.get_device_name(self.device)
        tera = next((tera for known, tera in _PEAKS.items() if known in name), None)
        return None if tera is None else 1e12 * tera * self.world

    def peak_bytes(self) -> int:
        """Most memory in use so far: the device's own, or the process's on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    # -- between the processes of one job; nothing where there is one --------------------------------------------------

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes, in one flat all-reduce."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1).to(tensors[0].dtype) for t in tensors])
        self._collective(dist.all_reduce, flat)
        parts = flat.split([t.numel() for t in tensors])
        torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])

    def agree(self, *numbers: int) -> tuple[int, ...]:
        """The largest of all processes' numbers, each for itself."""
        if self.world == 1:
            return numbers
        values = torch.tensor(numbers, device=self.device)
        self._collective(dist.all_reduce, values, op=dist.ReduceOp.MAX)
        return tuple(values.tolist())

    def _collective(self, operation: Any, *args: Any, **options: Any) -> None:
        with _peer_errors(self.rank, self.world):
            operation(*args, **options)

    def close(self) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def start(
    device: str = "auto",
    dtype: str = "auto",
    compile: str | bool = "auto",
    *,
    deterministic: bool = False,
    threads: int | None = None,
    timeout_seconds: float = 600.0,
) -> Runtime:
    """Chooses the device and joins the other processes of the job, if there are any.

    Raises ConfigError when the device asked for is not there: never a silent run elsewhere.
    """
    rank, world = (own := place()).rank, own.world
    chosen, reason = _choose_device(device, rank)
    count = threads or max(1, available_cpus() // (world if chosen.type == "cpu" else 1))
    torch.set_num_threads(count)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    precision, why = _choose_precision(chosen, dtype)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    runtime = Runtime(
        device=chosen,
        precision=precision,
        reason="; ".join(filter(None, (reason, why))),
        threads=count,
        rank=rank,
        world=world,
        compiled=compile is True,  # auto: off; on a CPU it was measured to gain 3 % and to cost 15 to 70 s
        deterministic=deterministic,
    )
    if world > 1 and not dist.is_initialized():
        with _peer_errors(rank, world):
            dist.init_process_group(
                backend="nccl" if chosen.type == "cuda" else "gloo",
                init_method=own.rendezvous,
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=timeout_seconds),
            )
    return runtime


@contextlib.contextmanager
def _peer_errors(rank: int, world: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # What the library says of it (file names, addresses) is for --debug.
        what = f"process {rank} of {world} lost another one, or waited too long for it"
        raise PeerLostError(what, fix="once the cause is gone, type genai resume RUN") from error


@contextlib.contextmanager
def memory_errors(fix: str) -> Iterator[None]:
    """Running out of memory, wherever it happens, becomes an error that says what to type."""
    try:
        with _no_more_than_there_is():
            yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not re.search(r"can't allocate memory|size calculation overflow|Cannot allocate", str(error)):
            raise
        # A CPU's allocator says it in words of C++, a GPU's in a paragraph.
        asked = re.search(r"tried to allocate (\d+) bytes|Tried to allocate ([\d.]+ \w+)", str(error))
        more = f", {asked[2] or _readable(int(asked[1]))} more were asked for" if asked else ""
        raise OutOfMemoryError(f"out of memory{more}", fix=fix) from error


@contextlib.contextmanager
def compile_errors() -> Iterator[None]:
    """What a compiler cannot do, or that there is none, becomes an error that says what to type."""
    try:
        yield
    except RuntimeError as error:
        of_compiler = type(error).__module__.startswith(("torch._inductor", "torch._dynamo"))
        if not of_compiler:
            raise
        why = " ".join(str(error).split())[:160]
        fix = "type compile=false, or install a C++ compiler where there is none"
        raise ConfigError(f"compile=true cannot be had here: {why}", fix=fix) from error


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 1024**3:.1f} GiB" if num_bytes >= 1024**3 else f"{num_bytes / 1024**2:.1f} MiB"


@contextlib.contextmanager
def _no_more_than_there_is() -> Iterator[None]:
    """Linux grants all memory that is asked for, and kills the process that uses it. Inside, allocating more than is
    free fails instead, which is an error with a remedy. Not where there is a GPU, whose driver maps much and uses
    little."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if not torch.cuda.is_available():
        with contextlib.suppress(OSError, ValueError, KeyError):
            resource.setrlimit(resource.RLIMIT_DATA, (_usable_bytes(), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _usable_bytes() -> int:
    """What this process holds and what is free for it, by Linux and by the container's limit (cgroup v2 or v1).

    Raises OSError or KeyError where the system does not tell.
    """
    with open("/proc/meminfo") as file:
        machine = {line.split()[0]: int(line.split()[1]) * 1024 for line in file}
    free = machine["MemAvailable:"] + machine["SwapFree:"]
    for folder, most, used, cached in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "cache"),
    ):
        with contextlib.suppress(OSError, ValueError, KeyError):
            with open(f"{folder}/memory.stat") as file:
                stat = dict(line.split() for line in file)
            with open(f"{folder}/{most}") as limit, open(f"{folder}/{used}") as use:
                # Cached files count as used, and give way.
                free = min(free, int(limit.read()) - int(use.read()) + int(stat[cached]))
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    return int(status["VmData"].split()[0]) * 1024 + max(free, 0)


def devices() -> list[str]:
    """Every device of this machine that torch can use, by the name that `device=` takes."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, capped by the container's quota (cgroup v2 or v1)."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas: Iterable[tuple[str, str | None]] = (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    )
    for quota_path, period_path in quotas:
        with contextlib.suppress(OSError, ValueError):
            with open(quota_path) as file:
                words = file.read().split()
            if period_path is not None:
                with open(period_path) as file:
                    words += file.read().split()
            if words[0] not in ("max", "-1"):
                count = min(count, max(1, math.floor(int(words[0]) / int(words[1]))))
    return count


def _choose_device(asked: str, rank: int) -> tuple[torch.device, str]:
    found = devices()
    why = "as asked"
    if asked == "auto":
        if len(found) == 1:
            return torch.device("cpu"), "no accelerator found"
        asked, why = found[1].partition(":")[0], "the first accelerator found"
    if asked == "cuda" and "cuda:0" in found:
        gpus = [name for name in found if name.startswith("cuda")]
        if rank >= len(gpus):
            raise ConfigError(f"{rank + 1} GPUs are needed, there are {len(gpus)}", fix=f"trainer.devices={len(gpus)}")
        return torch.device(gpus[rank]), why
    if asked not in found:
        raise ConfigError(f"device '{asked}' is not here, there is {', '.join(found)}", fix=f"type device={found[-1]}")
    return torch.device(asked), why


def _choose_precision(device: torch.device, asked: str) -> tuple[Literal["fp32", "bf16", "fp64"], str]:
    if asked == "fp64" and device.type == "mps":
        raise ConfigError("dtype=fp64 is not available on mps", fix="type device=cpu or dtype=fp32")
    if asked in ("fp32", "bf16", "fp64"):
        return asked, ""  # type: ignore[return-value]
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "bf16 is native here"
    if device.type == "cpu":
        if cpu.multiplies_bf16():
            return "bf16", "this CPU multiplies in bf16"
        return "fp32", "this CPU does not multiply in bf16"
    return "fp32", "bf16 is not native here"


def training_check(device: str) -> float:
    """Trains a small network for five steps here and on the CPU; the largest relative difference of their losses."""

    def losses(where: torch.device) -> list[float]:
        generator = torch.Generator().manual_seed(0)
        layers = [torch.randn(8, 16, generator=generator), torch.randn(16, 1, generator=generator)]
        weights = [(w / math.sqrt(len(w))).to(where).requires_grad_() for w in layers]
        x = torch.randn(64, 8, generator=generator).to(where)
        found = []
        for _ in range(5):
            loss = (torch.tanh(x @ weights[0]) @ weights[1] - x[:, :1]).square().mean()
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                for weight, gradient in zip(weights, gradients, strict=True):
                    weight -= 0.1 * gradient
            found.append(loss.item())
        return found

    pairs = zip(losses(torch.device(device)), losses(torch.device("cpu")), strict=True)
    return max(abs(here - there) / abs(there) for here, there in pairs)
