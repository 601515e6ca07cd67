"""WebDataset tars: read in place as their samples say, resident and streamed alike; damage and tricks are refused."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.data import cache
from genai.data import listed as listed_module
from genai.data import tar as tar_module
from genai.data.check import check
from genai.data.source import modality_of
from genai.errors import DataError, GenaiError, SecurityError
from pictures import config, labels, one_line, opened, pixels, png, values, write_tar


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GENAI_DATA", str(folder))
    return folder


def shard(path: Path, numbers: range, **others: Any) -> Path:
    """Samples with a label (the number modulo 3) and a caption."""
    members: dict[str, bytes] = {}
    for i in numbers:
        members |= {f"{i:04}.png": png(i), f"{i:04}.cls": str(i % 3).encode(), f"{i:04}.txt": f"number {i}\n".encode()}
    return write_tar(path, members | others)


def shard_with(path: Path, name: str, kind: bytes, target: str) -> Path:
    """Three samples, and a member of another kind that may name a target."""
    with tarfile.open(shard(path, range(3)), "a") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return path


def refusal(path: Path, kind: type[GenaiError] = DataError, **settings: Any) -> GenaiError:
    with pytest.raises(kind) as caught:
        opened(path, **settings)
    one_line(caught.value)
    return caught.value


@pytest.mark.parametrize("stream", [False, True])
def test_one_tar_gives_pictures_labels_and_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    path = shard(tmp_path / "a.tar", range(12))
    if stream:
        monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    assert modality_of("path", str(path)) == "image"
    data = opened(path)
    assert data.train.streams == stream
    assert values(data.train) == list(range(12))
    assert labels(data.train) == [i % 3 for i in range(12)]
    assert data.train.captions == tuple(f"number {i}" for i in range(12))  # type: ignore[attr-defined]
    if stream:
        rows = pickle.loads(pickle.dumps(data.train.rows))  # type: ignore[attr-defined]
        assert rows.read(np.array([7, 2]))[:, 0, 0, 0].tolist() == [7, 2]


def test_samples_are_grouped_up_to_the_first_dot_as_webdataset_does(tmp_path: Path) -> None:
    members = {
        "a/v1.0.png": png(1),  # of sample a/v1, ending 0.png
        "a/v1.cls": b"cat",
        "b/v1.PNG": png(2),
        "b/v1.json": json.dumps({"label": "dog", "caption": "a dog", "other": [1]}).encode(),
        "b/v1.seg.npy": b"left out",
        "._b/v1.png": b"hidden",
        "a/v1.txt": b"a cat",
    }
    data = opened(write_tar(tmp_path / "a.tar", members))
    assert values(data.train) == [1, 2]
    assert data.spec.cond["label"].names == ("cat", "dog")
    assert data.train.captions == ("a cat", "a dog")  # type: ignore[attr-defined]


@pytest.mark.parametrize("layout", ["{part}-{i:03}.tar", "{part}/{i:03}.tar"])
def test_shards_are_read_in_order_and_their_names_give_the_parts(tmp_path: Path, layout: str) -> None:
    for i in range(3):
        shard(tmp_path / layout.format(part="train", i=i), range(i * 4, i * 4 + 4))
    shard(tmp_path / layout.format(part="val", i=0), range(50, 53))
    shard(tmp_path / layout.format(part="test", i=0), range(60, 62))
    (tmp_path / "README.md").write_text("x")
    data = opened(tmp_path)
    assert data.valid is not None
    assert values(data.train) == list(range(12))
    assert values(data.valid) == [50, 51, 52]
    assert data.notes == ("held-out data is 'val'; not used: test",)


def test_a_folder_of_nameless_shards_trains_on_all(tmp_path: Path) -> None:
    for i in range(2):
        shard(tmp_path / f"{i:05}.tar", range(i * 5, i * 5 + 5))
    assert values(opened(tmp_path).train) == list(range(10))
    # Pictures that lie beside a tar are what is meant.
    (tmp_path / "1.png").write_bytes(png(7))
    (tmp_path / "2.png").write_bytes(png(8))
    assert values(opened(tmp_path).train) == [7, 8]


def test_the_index_is_kept_used_and_made_again_when_the_tar_changes(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path / "a.tar", range(4))
    scans = []
    scan = tar_module._scan
    monkeypatch.setattr(tar_module, "_scan", lambda path: scans.append(path) or scan(path))
    for _ in range(3):
        assert values(opened(path).train) == [0, 1, 2, 3]
    assert len(scans) == 1
    (kept,) = (cache_folder / "index").iterdir()
    content = kept.read_bytes()
    damages = [content[:-30], content.replace(b"0", b"1", 5), b"", b"\xff\xfe", b"[]", content[65:]]
    for number, damaged in enumerate(damages, start=2):  # made again in silence
        assert damaged != content
        kept.write_bytes(damaged)
        assert values(opened(path).train) == [0, 1, 2, 3]
        assert len(scans) == number
        assert kept.read_bytes() == content
    shard(path, range(10, 15))
    assert values(opened(path).train) == [10, 11, 12, 13, 14]
    assert [file.name for file in (cache_folder / "index").iterdir()] == [kept.name]


def test_without_a_cache_that_can_be_written_it_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GENAI_DATA", str(tmp_path / "file"))
    path = shard(tmp_path / "a.tar", range(4))
    assert values(opened(path).train) == [0, 1, 2, 3]
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_DATA", "/a/b")
    assert cache.data_folder() == Path("/a/b")
    monkeypatch.delenv("GENAI_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache.data_folder() == Path("/c/genai")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.data_folder() == Path.home() / ".cache" / "genai"


# -- what should not be there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "a/../../b.png", "C:/a.png", "..\\a.png"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_path_that_leads_outside_is_a_matter_of_security(tmp_path: Path, name: str, kind: str) -> None:
    member = {"file": tarfile.REGTYPE, "folder": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[kind]
    path = shard_with(tmp_path / "a.tar", name, member, "0000.png")
    error = refusal(path, SecurityError)
    assert error.exit_code == 9
    assert error.path == path
    assert name in error.what
    with pytest.raises(SecurityError):
        check(config(path))


def test_a_link_inside_is_not_followed(tmp_path: Path) -> None:
    path = shard_with(tmp_path / "a.tar", "0009.png", tarfile.SYMTYPE, "/etc/passwd")
    assert values(opened(path).train) == [0, 1, 2]


def test_a_hard_link_is_refused_with_what_to_type(tmp_path: Path) -> None:
    error = refusal(shard_with(tmp_path / "a.tar", "again.png", tarfile.LNKTYPE, "0000.png"))
    assert "again.png" in error.what
    assert "--hard-dereference" in error.fix


def test_a_member_of_negative_size_is_refused_and_not_read_for_ever(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", range(3))
    header = bytearray(tarfile.TarInfo("loop.bin").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (-512 & 0xFFFF).to_bytes(2, "big")  # base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + path.read_bytes())
    assert "loop.bin" in refusal(path).what


def test_every_cut_is_told_with_the_tar_and_the_member(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", range(4))
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    end = members[-1].offset_data + 512
    for length in [600, members[5].offset, members[5].offset + 100, members[6].offset_data + 20, end - 1, end]:
        path.write_bytes(content[:length])
        error = refusal(path)
        assert error.path == path
        assert any(member.name in error.what for member in members), error.what
        assert error.exit_code == 3
    path.write_bytes(content[:100])
    assert refusal(path).path == path
    path.write_bytes(b"")
    assert refusal(path).path == path
    path.write_bytes(content[: members[3].offset] + b"x" * 512 + content[members[3].offset + 512 :])
    assert f"damaged at '{members[2].name}'" in refusal(path).what
    path.write_bytes(content + content)
    assert "goes on after its end" in refusal(path).what


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_a_gzipped_tar_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    plain = shard(tmp_path / "plain.tar", range(3))
    path = tmp_path / "only" / name
    path.parent.mkdir()
    path.write_bytes(gzip.compress(plain.read_bytes()))
    for given in (path, path.parent):
        error = refusal(given)
        assert error.path == path
        assert "unpack the gzip first: gunzip" in error.fix
    with pytest.raises(DataError, match="gunzip"):
        modality_of("path", str(path))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"9.txt": b"alone"}, "'9.txt' has no picture"),
        ({"9.cls": b"1"}, "'9.cls' has no picture"),
        ({"0000.jpg": png(3)}, "'0000.jpg' is a second picture"),
        ({"9.png": png(1)}, "without a caption"),
        ({"9.png": png(1), "9.txt": b"x"}, "without a label"),
        ({"9.png": png(1), "9.txt": b"x", "9.cls": b"-1"}, "label -1 of '9.png' is out of range"),
        ({"9.png": png(1), "9.txt": b"\xff\xfe", "9.cls": b"1"}, "'9.txt' is no UTF-8"),
        ({"9.png": png(1), "9.json": b"{"}, "'9.json' is no JSON"),
    ],
)
def test_samples_that_are_not_whole_are_refused(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    path = shard(tmp_path / "a.tar", range(3), **members)
    error = refusal(path)
    assert words in error.what
    assert str(error.path).startswith(str(path))


def test_a_tar_without_pictures_is_refused(tmp_path: Path) -> None:
    assert "no picture in the tar" in refusal(write_tar(tmp_path / "a.tar", {"a.npy": b"x"})).what


def test_bad_pictures_are_named_skipped_and_listed_as_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard(tmp_path / "a.tar", range(20))
    members = {f"{i:04}.png": png(i) for i in range(20)} | {"0003.png": b"", "0011.png": png(11)[:-40]}
    write_tar(path, members)
    error = refusal(path)
    assert "2 of 20 files are bad" in error.what
    assert str(error.path) == f"{path}/0003.png"
    report = check(config(path))
    assert [name for name, _ in report.bad] == [f"{path}/0003.png", f"{path}/0011.png"]
    assert "empty" in report.bad[0][1]
    good = [i for i in range(20) if i not in (3, 11)]
    resident = opened(path, on_bad="skip")
    monkeypatch.setattr(listed_module, "RESIDENT_BYTES", 0)
    streamed = opened(path, on_bad="skip")
    assert streamed.train.streams
    assert values(resident.train) == values(streamed.train) == good
    write_tar(path, members | {f"{i:04}.png": b"" for i in range(9)})
    assert "10 of 20" in refusal(path, on_bad="skip").what


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_bomb_in_a_tar_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """13,000 x 13,000 pixels in some 160 KB, which would be half a gigabyte of colours."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 13000, 13000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(13001 * 13000), 9)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert len(bomb) < 170_000
    path = shard(tmp_path / "a.tar", range(12), **{"9999.png": bomb, "9999.cls": b"0", "9999.txt": b"x"})
    began = time.process_time()
    error = refusal(path)
    assert "13000x13000 pixels, at most 64 million" in error.what
    assert str(error.path) == f"{path}/9999.png"
    assert [name for name, _ in check(config(path)).bad] == [f"{path}/9999.png"]
    assert len(opened(path, on_bad="skip").train) == 12
    assert time.process_time() - began < 2


def test_one_picture_is_no_set(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"only.png": png(1)})
    error = refusal(path)
    assert "one picture only" in error.what
    assert str(error.path) == str(path)


def test_folders_in_a_tar_are_told_to_be_no_classes(tmp_path: Path) -> None:
    members = {f"{name}/{i}.png": png(i) for i, name in enumerate(("cat", "dog", "cow"))}
    data = opened(write_tar(tmp_path / "a.tar", members))
    assert data.spec.label_classes == 0
    assert any("cat, cow, dog, ...) are no classes" in note for note in data.notes)


def test_a_tar_and_a_folder_of_the_same_files_are_the_same_pictures(tmp_path: Path) -> None:
    members = {f"{i}.png": png(i, (20, 30)) for i in range(5)}
    for name, content in members.items():
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    tar = opened(write_tar(tmp_path / "a.tar", members), size=12)
    assert np.array_equal(pixels(tar.train), pixels(opened(tmp_path / "folder", size=12).train))
