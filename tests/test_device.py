"""The device layer: seeds, CPUs, and errors for what is not there."""

from __future__ import annotations

import re
import resource
import sys

import pytest
import torch

from genai import device
from genai.errors import ConfigError, OutOfMemoryError


def test_seeds_differ_by_every_number_and_its_place() -> None:
    seeds = {device.mix(a, b, c) for a in range(12) for b in range(12) for c in range(12)}
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == 12**3
    assert device.mix(1, 2) != device.mix(2, 1)
    bits = [bin(device.mix(0, n) ^ device.mix(0, n + 1)).count("1") for n in range(500)]
    assert 30 < sum(bits) / len(bits) < 34  # one more flips half of the 64 bits


def test_seeding_is_a_function_of_its_numbers() -> None:
    runtime = device.start("cpu")
    runtime.seed(1, 2, 3)
    first = torch.randn(4)
    torch.randn(100)
    runtime.seed(1, 2, 3)
    assert torch.equal(first, torch.randn(4))
    runtime.seed(1, 2, 4)
    assert not torch.equal(first, torch.randn(4))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:7", "tpu"])
def test_an_absent_device_is_an_error_that_lists_what_is_there(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' is not here, there is cpu"):
        device.start(name)


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32"), (None, "fp32")],
)
def test_a_cpu_computes_in_bf16_where_it_multiplies_so_and_says_why(
    capabilities: dict[str, bool] | None, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if capabilities is None:  # torch before 2.11
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    runtime = device.start("cpu")
    assert runtime.precision == precision
    assert re.search(r"this CPU (multiplies|does not multiply) in bf16", str(runtime))


def test_a_dtype_asked_for_is_taken() -> None:
    for name in ("fp32", "bf16"):
        assert device.start("cpu", name).precision == name
    assert device.start("cpu", "fp64").dtype is torch.float64


def test_the_type_of_many_small_steps_goes_by_the_network_alone_their_threads_by_all() -> None:
    runtime = device.start("cpu", "bf16", threads=2)
    for parameters, rows, in_bf16, threads in ((10**6, 1, False, 1), (10**6, 64, False, 2), (10**8, 1, True, 2)):
        with runtime.steps_of(parameters, rows):
            assert torch.is_autocast_enabled("cpu") is in_bf16
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2


def test_cpus_follow_the_containers_quota(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    import builtins
    import io

    real = builtins.open

    def fake(path: object, *args: object, **kwargs: object) -> object:
        if path == "/sys/fs/cgroup/cpu.max":
            return io.StringIO("150000 100000\n")
        return real(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(device.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(builtins, "open", fake)
    assert device.available_cpus() == 1
    monkeypatch.setattr(builtins, "open", real)
    assert device.available_cpus() >= 1


def test_what_a_compiler_cannot_do_is_an_error_with_a_remedy() -> None:
    from torch._inductor.exc import InductorError

    with pytest.raises(ConfigError, match="no C\\+\\+") as caught, device.compile_errors():
        raise InductorError(RuntimeError("no C++ compiler"), None)
    assert "compile=false" in caught.value.fix
    with pytest.raises(RuntimeError, match="something else"), device.compile_errors():
        raise RuntimeError("something else")


def test_training_check_agrees_with_itself() -> None:
    assert device.training_check("cpu") == 0.0


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="memory is granted otherwise there")
def test_more_memory_than_there_is_ends_in_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    held = device._usable_bytes()
    assert held > torch.empty(1 << 20).nbytes
    monkeypatch.setattr(device, "_usable_bytes", lambda: held_now() + (1 << 28))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with device.memory_errors("type less"):
        assert torch.ones(1 << 20).sum() == 1 << 20
    told = r"^out of memory, 2\.0 GiB more were asked for - type less$"
    with pytest.raises(OutOfMemoryError, match=told), device.memory_errors("type less"):
        torch.empty(1 << 31, dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def held_now() -> int:
    """Bytes of writable memory that this process has mapped."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
