"""Checkpoints hold what was saved, on disk in the right order, and say so when it cannot be done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from genai import checkpoint as checkpoints
from genai import tensorfile
from genai.errors import CheckpointError, ConfigError, NonFiniteError, OutputError
from small_checkpoint import save


def newest_step(folder: Path) -> int | None:
    found = checkpoints.newest(folder, warn=None)
    return None if found is None else found.step


ALL_DTYPES = [getattr(torch, name) for name, _ in tensorfile._NAMES.values()]


def awkward_tensors() -> dict[str, Tensor]:
    wide = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))
    tensors = {str(dtype): (wide * 9).abs().to(dtype) for dtype in ALL_DTYPES}
    channels_last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    return (
        tensors
        | {
            "scalar": torch.tensor(3.5),
            "empty": torch.empty(0, 7),
            "odd": torch.arange(3, dtype=torch.uint8),  # after it nothing would be aligned, were it not written last
            "transposed": wide.transpose(0, 2),
            "slice": wide[1:, ::2],
            "channels_last": channels_last,
            "tied": wide,
            "名/前": nn.Parameter(torch.ones(2)),
        }
    )


def test_tensors_read_back_bit_for_bit_as_the_library_reads_them(tmp_path: Path) -> None:
    tensors = awkward_tensors()
    saved = save(tmp_path, 1, tensors={"model": tensors})
    ours = saved.tensors("model")
    reference = safetensors.torch.load_file(saved.path / "model.safetensors")
    assert ours.keys() == reference.keys() == tensors.keys()
    for name, tensor in tensors.items():
        for read in (ours[name], reference[name]):
            assert read.dtype == tensor.dtype
            assert read.shape == tensor.shape
            same = read.contiguous().reshape(-1).view(torch.uint8)
            assert torch.equal(same, tensor.detach().contiguous().reshape(-1).view(torch.uint8)), name


def test_files_of_the_library_read_alike(tmp_path: Path) -> None:
    tensors = {name: tensor.detach().contiguous() for name, tensor in awkward_tensors().items() if name != "tied"}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"a": "b"})
    read = tensorfile.read_tensors(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name].view(torch.uint8), t.view(torch.uint8)) for name, t in tensors.items() if t.ndim)
    assert dict(tensorfile.read_header(tmp_path / "x.safetensors").metadata) == {"a": "b"}


def test_a_read_tensor_has_memory_of_its_own(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    saved.tensors("model")["w"].fill_(7)
    assert saved.tensors("model")["w"].eq(1).all()


def test_documents_and_manifest_say_what_was_saved(tmp_path: Path) -> None:
    save(tmp_path, 12)
    found = checkpoints.newest(tmp_path, warn=None)
    assert found is not None
    assert found.json("state.json") == {"step": 12}
    assert found.has("ema")
    assert not found.has("codec")
    manifest = json.loads((found.path / "MANIFEST.json").read_bytes())
    assert set(manifest) == {"format", "run_id", "model", "step", "complete", "files"}
    assert (manifest["step"], manifest["complete"]) == (12, True)
    assert set(manifest["files"]) | {"MANIFEST.json"} == set(os.listdir(found.path))
    with pytest.raises(CheckpointError):
        found.tensors("codec")


def test_what_json_cannot_keep_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for state, kind in (
        (float("nan"), NonFiniteError),
        ("${oc.env:HOME}", ConfigError),
        ({"_target_": "x"}, ConfigError),
    ):
        with pytest.raises(kind):
            save(tmp_path, 1, documents={"state": {"a": [state]}})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("group", ["model", "ema"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, value: float, group: str) -> None:
    save(tmp_path, 1)
    good, bad = torch.zeros(1000), torch.zeros(1000)
    bad[457] = value
    with pytest.raises(NonFiniteError, match=r"layer\.bad"):
        save(tmp_path, 2, tensors={group: {"good": good, "layer.bad": bad, "count": torch.ones(2, dtype=torch.long)}})
    assert os.listdir(tmp_path) == ["step_00000001"]
    save(tmp_path, 2, tensors={"model": {"good": good}, "optim": {"bad": bad}})  # an optimizer may hold what it likes


def test_every_file_is_on_disk_before_the_manifest_and_all_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    events: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        events.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def noted_rename(a: Any, b: Any) -> None:
        events.append(("rename", Path(b).name))
        rename(a, b)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    saved = save(folder, 3)
    names = [name for action, name in events if action == "fsync"]
    files = set(os.listdir(saved.path))
    assert set(names[1:-2]) == files  # after the parent of the new folder `checkpoints`
    assert names[0] == tmp_path.name
    assert names[-3] == "MANIFEST.json"
    assert names[-2].startswith(".tmp-step_00000003")
    assert names[-1] == "checkpoints"
    assert [name for action, name in events if action == "rename"] == ["step_00000003"]
    assert events[-2:] == [("rename", "step_00000003"), ("fsync", "checkpoints")]


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_modes_follow_the_umask(tmp_path: Path, mask: int, file_mode: int, folder_mode: int) -> None:
    before = os.umask(mask)
    try:
        saved = save(tmp_path / "c", 1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved.path.iterdir()} == {file_mode}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (saved.path, tmp_path / "c")} == {folder_mode}


def test_a_full_disk_leaves_the_last_good_checkpoint_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    monkeypatch.setenv("GENAI_TEST_FAULTS", "1")
    monkeypatch.setenv("GENAI_FAULT", "enospc@save")
    with pytest.raises(OutputError, match=r"no space left .* last good: step_00000001"):
        save(tmp_path, 2)
    assert os.listdir(tmp_path) == ["step_00000001"]
    assert newest_step(tmp_path) == 1


@pytest.mark.parametrize("failing", range(1, 8))
def test_an_error_of_the_disk_at_any_file_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    save(tmp_path, 1)
    write, calls = os.write, [0]

    def failing_write(descriptor: int, data: Any) -> int:
        if "/.tmp-" in os.readlink(f"/proc/self/fd/{descriptor}"):
            calls[0] += 1
            if calls[0] == failing:
                raise OSError(errno.EIO, "Input/output error")
            return write(descriptor, data[: max(1, len(data) // 2)])  # short writes are legal
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing_write)
    with pytest.raises(OutputError, match="Input/output error; last good: step_00000001"):
        save(tmp_path, 2)
    assert os.listdir(tmp_path) == ["step_00000001"]
    calls[0] = 1000
    save(tmp_path, 2)
    monkeypatch.undo()
    assert newest_step(tmp_path) == 2


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="there is no checkpoint yet"):
        save(tmp_path / "file" / "checkpoints", 1)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save(tmp_path, 5, documents={"state": {"again": True}})
    found = checkpoints.newest(tmp_path, warn=None)
    assert found is not None
    assert found.json("state.json") == {"again": True}
    assert os.listdir(tmp_path) == ["step_00000005"]


def test_a_training_that_went_back_drops_the_steps_it_left(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step)
    (tmp_path / "step_00000030" / "model.safetensors").write_bytes(b"damaged")
    save(tmp_path, 15)
    assert checkpoints.steps(tmp_path) == [10, 15]
    assert newest_step(tmp_path) == 15


def test_newest_means_numbers_not_strings(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step)
    assert sorted(os.listdir(tmp_path))[-1] == "step_99999999"  # the control: strings would say otherwise
    assert newest_step(tmp_path) == 100_000_000


def expected_after_pruning(existing: set[int], keep: int, protect: set[int]) -> set[int]:
    kept = set(protect)
    for step in sorted(existing, reverse=True):
        if keep > 0:
            kept.add(step)
            keep -= 1
    return existing & kept


@settings(max_examples=60, deadline=None)
@given(
    existing=st.sets(st.integers(0, 2 * 10**8), min_size=1, max_size=8),
    keep=st.integers(1, 5),
    data=st.data(),
)
def test_pruning_keeps_the_newest_and_the_protected(
    tmp_path_factory: pytest.TempPathFactory, existing: set[int], keep: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("prune")
    protect = data.draw(st.sets(st.sampled_from(sorted(existing)), max_size=3))
    for step in existing:
        (folder / f"step_{step:08d}").mkdir()
        (folder / f"step_{step:08d}" / "file").touch()
    (folder / "step_notes").mkdir()
    (folder / "mine").mkdir()
    checkpoints.prune(folder, keep=keep, protect=protect)
    left = set(checkpoints.steps(folder))
    assert left == expected_after_pruning(existing, keep, protect)
    assert max(existing) in left
    assert len(os.listdir(folder)) == len(left) + 2
    shutil.rmtree(folder)


def test_a_model_that_does_not_fit_is_told_by_name_and_shape(tmp_path: Path) -> None:
    layer = nn.Linear(3, 8)
    saved = save(tmp_path, 1, tensors={"model": {**layer.state_dict(), "extra": torch.ones(1)}})
    with pytest.raises(CheckpointError, match=r"unexpected extra; weight: checkpoint \[8, 3\], model \[8, 1\]"):
        checkpoints.load_weights(nn.Linear(1, 8), saved, "model")
    with pytest.raises(CheckpointError, match=r"missing 0\.weight"):
        checkpoints.load_weights(nn.Sequential(layer), saved, "model")


def test_weights_load_bit_for_bit_and_keep_the_memory_format(tmp_path: Path) -> None:
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    saved = save(tmp_path, 1, tensors={"model": layer.state_dict()})
    other = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    checkpoints.load_weights(other, saved, "model")
    assert torch.equal(other.weight, layer.weight)
    assert other.weight.is_contiguous(memory_format=torch.channels_last)


def test_files_hold_cpu_tensors_and_no_device(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    for path in saved.path.iterdir():
        assert b"cuda" not in path.read_bytes()
        assert b"cpu" not in path.read_bytes()


def test_the_golden_checkpoint_of_format_1_still_loads() -> None:
    golden = checkpoints.named(Path(__file__).parent / "golden" / "format_1" / "step_00000007")
    assert golden.step == 7
    assert torch.equal(golden.tensors("model")["weight"], torch.arange(6, dtype=torch.float32).reshape(2, 3))
    assert golden.tensors("ema")["half"].dtype == torch.bfloat16
    assert golden.json("state.json")["samples"] == 448
