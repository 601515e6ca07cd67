"""Downloads against a server on this machine that does what servers do: break off, lie, stall, redirect."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.__main__ import run
from genai.console import Console
from genai.data import cifar, download
from genai.data.download import RemoteFile, data_folder, fetch, verified
from genai.data.downloaded import SETS
from genai.data.packaged import DIGIT_NAMES, FASHION_NAMES
from genai.data.source import Source, open_source
from genai.errors import ConfigError, DataError, OutputError, SecurityError
from genai.schema import DataConfig, PathText

CONTENT = np.random.default_rng(0).bytes(300_000)
FILE = RemoteFile("data.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
Captured = pytest.CaptureFixture[str]


# -- the server --------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined]
        site.asked.append((self.path, self.headers.get("Range")))
        turns = site.turns.get(self.path, [])
        answer = turns.pop(0) if turns else site.usual
        self.close_connection = True
        try:
            answer(self, site.files.get(self.path))
        except OSError:
            return  # the client has gone

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on stderr."""

    def head(self, status: int, length: int | None, **more: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


Answer = Callable[[Handler, bytes | None], None]


class Site:
    """`files` by path; `turns` says how the next requests for a path are answered, `asked` what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.turns: dict[str, list[Answer]] = {}
        self.usual: Answer = serve
        self.asked: list[tuple[str, str | None]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.site = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def mirror(self, name: str, *turns: Answer, content: bytes | None = CONTENT) -> str:
        """The address of a mirror that has FILE, or nothing."""
        path = f"/{name}/{FILE.name}"
        if content is not None:
            self.files[path] = content
        self.turns[path] = list(turns)
        return f"{self.url}/{name}"

    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.asked]

    def mirrors_asked(self) -> list[str]:
        return [path.split("/")[1] for path, _ in self.asked]


def serve(handler: Handler, content: bytes | None) -> None:
    """As a good server does: the part that is asked for."""
    asked = handler.headers.get("Range")
    if content is None:
        handler.head(404, 0)
    elif asked is None:
        handler.head(200, len(content))
        handler.wfile.write(content)
    else:
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(content):
            handler.head(416, 0, Content_Range=f"bytes */{len(content)}")
            return
        stated = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        handler.head(206, len(content) - begin, Content_Range=stated)
        handler.wfile.write(content[begin:])


def serve_all(handler: Handler, content: bytes | None) -> None:
    """As a server that knows no Range does."""
    assert content is not None
    handler.head(200, len(content))
    handler.wfile.write(content)


def broken_off_after(count: int, usual: Answer = serve) -> Answer:
    """The right Content-Length, then `count` bytes and the end of the connection."""

    def answer(handler: Handler, content: bytes | None) -> None:
        stream, sent = handler.wfile, bytearray()
        handler.wfile = io.BytesIO()  # type: ignore[assignment]
        usual(handler, content)
        sent += handler.wfile.getvalue()  # type: ignore[attr-defined]
        handler.wfile = stream
        stream.write(sent[: sent.index(b"\r\n\r\n") + 4 + count])

    return answer


def stalled_after(count: int) -> Answer:
    def answer(handler: Handler, content: bytes | None) -> None:
        broken_off_after(count)(handler, content)
        handler.wfile.flush()
        time.sleep(60)

    return answer


def status(code: int) -> Answer:
    return lambda handler, content: handler.head(code, 0)


def redirected_to(url: str) -> Answer:
    return lambda handler, content: handler.head(302, 0, Location=url)


def chunked(handler: Handler, content: bytes | None) -> None:
    """Without a Content-Length."""
    assert content is not None
    handler.head(200, None, Transfer_Encoding="chunked")
    for begin in range(0, len(content), 50_000):
        block = content[begin : begin + 50_000]
        handler.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("GENAI_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def got(*mirrors: str, console: Console | None = None) -> bytes:
    """What is under the final name after a download."""
    (path,) = fetch("set", [FILE], mirrors, console)
    assert path == data_folder() / "set" / FILE.name
    assert not part_path().exists()
    return path.read_bytes()


def part_path() -> Path:
    return data_folder() / "set" / f"{FILE.name}.part"


def leave_part(content: bytes) -> None:
    part_path().parent.mkdir(parents=True, exist_ok=True)
    part_path().write_bytes(content)


def assert_nothing_under_the_final_name() -> None:
    assert not (data_folder() / "set" / FILE.name).exists()


# -- one file ----------------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once_and_then_only_verified(site: Site) -> None:
    mirror = site.mirror("a")
    assert got(mirror) == got(mirror) == CONTENT
    assert site.asked == [("/a/data.bin", None)]
    umask = os.umask(0)
    os.umask(umask)
    assert (data_folder() / "set" / FILE.name).stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_folder_is_that_of_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, value, folder in (
        ("XDG_CACHE_HOME", "", tmp_path / ".cache/genai"),
        ("XDG_CACHE_HOME", "relative", tmp_path / ".cache/genai"),  # the standard says to ignore it
        ("XDG_CACHE_HOME", "/x", Path("/x/genai")),
        ("GENAI_DATA", "", Path("/x/genai")),
        ("GENAI_DATA", "~/own", tmp_path / "own"),
    ):
        monkeypatch.setenv(variable, value)
        assert data_folder() == folder


def test_a_connection_that_breaks_off_goes_on_where_it_stopped(site: Site) -> None:
    assert got(site.mirror("a", broken_off_after(100_000), broken_off_after(50_000))) == CONTENT
    assert site.ranges() == [None, "bytes=100000-", "bytes=150000-"]


def test_a_part_that_was_left_is_completed_by_the_rest_alone(site: Site) -> None:
    leave_part(CONTENT[:123_456])
    assert got(site.mirror("a")) == CONTENT
    assert site.ranges() == ["bytes=123456-"]


def test_a_complete_part_needs_no_connection(site: Site) -> None:
    leave_part(CONTENT)
    assert got(site.mirror("a")) == CONTENT
    assert site.asked == []


def test_a_server_that_ignores_range_is_read_from_the_start(site: Site) -> None:
    leave_part(CONTENT[:1000])
    assert got(site.mirror("a", serve_all)) == CONTENT
    assert site.ranges() == ["bytes=1000-"]


def test_a_server_that_starts_over_and_breaks_off_each_time_is_left_for_the_next(site: Site) -> None:
    bad = site.mirror("a", *[broken_off_after(1000, serve_all)] * 50)
    assert got(bad, site.mirror("b")) == CONTENT
    assert site.mirrors_asked() == ["a", "a", "b"]


def test_a_part_of_a_file_that_has_changed_is_started_over(site: Site) -> None:
    """The same size and other bytes; as many bytes and more; a server that says 416."""
    for part, ranges in (
        (b"x" * 1000, ["bytes=1000-", None]),
        (b"x" * len(CONTENT), [None]),
        (CONTENT + b"x", [None]),
    ):
        site.asked.clear()
        leave_part(part)
        assert got(site.mirror("a")) == CONTENT
        assert site.ranges() == ranges
        (data_folder() / "set" / FILE.name).unlink()
    site.asked.clear()
    leave_part(CONTENT[:200_000])
    assert got(site.mirror("a", status(416))) == CONTENT
    assert site.ranges() == ["bytes=200000-", None]


def test_wrong_bytes_of_the_right_size_never_get_the_final_name(site: Site) -> None:
    wrong = bytes(len(CONTENT))
    with pytest.raises(DataError, match=r"data\.bin.*wrong bytes") as caught:
        got(site.mirror("a", content=wrong), site.mirror("b", content=wrong))
    assert caught.value.exit_code == 3
    assert site.mirrors_asked() == ["a", "b"]  # each once: wrong bytes stay wrong
    assert_nothing_under_the_final_name()
    assert not part_path().exists()
    assert got(site.mirror("c", content=wrong), site.mirror("d")) == CONTENT


def test_wrong_bytes_from_one_mirror_do_not_spoil_the_next(site: Site) -> None:
    """A stops after some wrong bytes, B goes on from them: the hash shows it, and B is asked for all."""
    bad = site.mirror("a", *[broken_off_after(1000)] + [status(503)] * 9, content=bytes(len(CONTENT)))
    assert got(bad, site.mirror("b")) == CONTENT
    assert site.asked[-2:] == [("/b/data.bin", "bytes=1000-"), ("/b/data.bin", None)]


def test_a_file_of_another_size_is_not_read(site: Site) -> None:
    leave_part(CONTENT[:1000])
    longer = site.mirror("a", content=CONTENT + b"more")  # says so in Content-Range
    page = site.mirror("b", serve_all, content=b"<html>log in first")
    with pytest.raises(DataError, match="expected 300000"):
        got(longer, page)
    assert part_path().read_bytes() == CONTENT[:1000]
    assert got(longer, site.mirror("c")) == CONTENT
    assert site.ranges()[-1] == "bytes=1000-"


def test_a_stream_without_a_length_is_read_and_its_end_checked(site: Site) -> None:
    assert got(site.mirror("a", chunked)) == CONTENT
    (data_folder() / "set" / FILE.name).unlink()
    short = site.mirror("b", *[chunked] * 9, content=CONTENT[:70_000])
    with pytest.raises(DataError, match="ended after 70,000 of 300,000 bytes"):
        got(short)
    assert_nothing_under_the_final_name()


def test_mirrors_are_asked_in_order_and_one_without_the_file_only_once(site: Site) -> None:
    assert got(site.mirror("a", content=None), site.mirror("b", status(403)), site.mirror("c")) == CONTENT
    assert site.mirrors_asked() == ["a", "b", "c"]


def test_a_server_in_trouble_is_asked_again(site: Site) -> None:
    assert got(site.mirror("a", status(503), status(429))) == CONTENT
    assert site.mirrors_asked() == ["a", "a", "a"]
    with pytest.raises(DataError, match="HTTP 500"):
        fetch("other", [FILE], [site.mirror("b", *[status(500)] * 9)])
    assert site.mirrors_asked().count("b") == 3


def test_a_stall_ends_at_the_timeout_and_what_came_is_kept(site: Site) -> None:
    began = time.monotonic()
    assert got(site.mirror("a", stalled_after(80_000))) == CONTENT
    assert time.monotonic() - began < 5
    assert site.ranges() == [None, "bytes=80000-"]


def test_redirects_are_followed_also_with_a_range(site: Site) -> None:
    leave_part(CONTENT[:1000])
    target = site.mirror("b")
    assert got(site.mirror("a", redirected_to(f"{target}/data.bin"))) == CONTENT
    assert site.asked == [("/a/data.bin", "bytes=1000-"), ("/b/data.bin", "bytes=1000-")]


def test_a_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "http://data.invalid/a"
    site.files[f"{address}/{FILE.name}"] = CONTENT
    monkeypatch.setenv("http_proxy", site.url)
    assert got(address) == CONTENT
    assert site.asked == [(f"{address}/{FILE.name}", None)]


def test_a_mirror_of_ones_own_comes_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["/own/set/data.bin"] = CONTENT
    monkeypatch.setenv("GENAI_MIRROR", f"{site.url}/own/")
    assert got(site.mirror("a")) == CONTENT
    assert site.asked == [("/own/set/data.bin", None)]
    monkeypatch.setenv("GENAI_MIRROR", f"{site.url}/gone")
    (data_folder() / "set" / FILE.name).unlink()
    assert got(site.mirror("a")) == CONTENT
    for odd in ("file:///etc", "mirror.example.org", "http://", "http://[x"):
        monkeypatch.setenv("GENAI_MIRROR", odd)
        with pytest.raises(ConfigError, match="GENAI_MIRROR"):
            fetch("other", [FILE], [])


def test_without_a_network_one_sentence_says_which_files_go_where(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [replace(FILE, name="b.bin"), replace(FILE, name="c.bin")]
    closed = "http://127.0.0.1:1"
    with pytest.raises(DataError) as caught:
        fetch("set", [FILE, *others], [closed, "http://nowhere.invalid"])
    (line,) = caught.value.lines()
    assert f"[{data_folder() / 'set'}] - put data.bin, b.bin and c.bin into that folder, type data.path=" in line
    assert "connection refused" in line
    assert "nowhere.invalid: " in line
    # What is there already need not be put there.
    (data_folder() / "set" / FILE.name).write_bytes(CONTENT)
    with pytest.raises(DataError, match=r"put b\.bin and c\.bin into"):
        fetch("set", [FILE, *others], [closed])


def test_a_password_in_an_address_is_not_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    with pytest.raises(DataError) as caught:
        fetch("set", [FILE], ["http://user:secret@127.0.0.1:1"], Console(stream=said))
    assert "secret" not in str(caught.value) + said.getvalue()


def test_a_damaged_file_is_fetched_again_and_stays_until_the_good_one_is_complete(site: Site) -> None:
    path = data_folder() / "set" / FILE.name
    path.parent.mkdir(parents=True)
    damaged = b"x" + CONTENT[1:]
    path.write_bytes(damaged)
    with pytest.raises(DataError):
        got("http://127.0.0.1:1")
    assert path.read_bytes() == damaged
    said = io.StringIO()
    assert got(site.mirror("a"), console=Console(stream=said)) == CONTENT
    assert f"{path} is not the published file" in said.getvalue()


def test_a_file_packed_again_or_unpacked_is_known_by_its_content(site: Site) -> None:
    packed = gzip.compress(CONTENT, 1)
    file = RemoteFile("a.gz", len(packed), hashlib.sha256(packed).hexdigest(), FILE.sha256)
    folder = data_folder() / "set"
    folder.mkdir(parents=True)
    for name, content in (("a.gz", packed), ("a.gz", gzip.compress(CONTENT, 9)), ("a", CONTENT)):
        (folder / name).write_bytes(content)
        assert fetch("set", [file], []) == [folder / name]
        (folder / name).unlink()
    for name, content in (("a.gz", packed[:-20]), ("a.gz", gzip.compress(b"other")), ("a", CONTENT[1:]), ("a", b"")):
        (folder / name).write_bytes(content)
        assert verified(folder, file) is None
        (folder / name).unlink()
    # A good packed file counts although a wrong one lies unpacked beside it.
    (folder / "a").write_bytes(b"other")
    (folder / "a.gz").write_bytes(packed)
    assert verified(folder, file) == folder / "a.gz"


# -- the disk, interruptions, several processes ------------------------------------------------------------------------


def test_a_full_disk_and_a_folder_that_cannot_be_made_are_output_errors(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_path().parent.mkdir(parents=True)
    part_path().symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"no space left.*GENAI_DATA") as caught:
        got(site.mirror("a"))
    assert caught.value.exit_code == 7
    assert str(data_folder() / "set") in str(caught.value)
    assert_nothing_under_the_final_name()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GENAI_DATA", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=str(tmp_path / "file")):
        got(site.mirror("a"))


def in_another_process(mirror: str, **more: str) -> subprocess.Popen[str]:
    code = (
        "import sys; from genai.console import Console; from genai.data.download import RemoteFile, fetch;"
        f"fetch('set', [RemoteFile({FILE.name!r}, {FILE.num_bytes}, {FILE.sha256!r})], [{mirror!r}], Console())"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env={**os.environ, **more})


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_a_stopped_process_has_downloaded_is_kept(site: Site, number: signal.Signals) -> None:
    mirror = site.mirror("a", stalled_after(150_000))
    process = in_another_process(mirror)
    deadline = time.monotonic() + 60
    while not part_path().exists() or part_path().stat().st_size < 150_000:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert_nothing_under_the_final_name()
    assert got(mirror) == CONTENT
    assert site.ranges() == [None, "bytes=150000-"]


def test_two_processes_at_once_download_a_file_once(site: Site) -> None:
    def slowly(handler: Handler, content: bytes | None) -> None:
        time.sleep(1.5)
        serve(handler, content)

    site.usual = slowly
    processes = [in_another_process(site.mirror("a")) for _ in range(2)]
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert len(site.asked) == 1
    assert sum("another process downloads it" in text for text in said) == 1
    assert (data_folder() / "set" / FILE.name).read_bytes() == CONTENT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_only_where_a_person_looks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    mirror = site.mirror("a", broken_off_after(1000))
    told = []
    for stream, quiet in ((Terminal(), False), (io.StringIO(), False), (Terminal(), True)):
        assert got(mirror, console=Console(stream=stream, quiet=quiet)) == CONTENT
        (data_folder() / "set" / FILE.name).unlink()
        told.append(stream.getvalue())
    note = f"data=set: downloading 0.3 MB from 127.0.0.1 to {data_folder() / 'set'}\n"
    assert told[0].startswith(note)
    assert "data.bin" in told[0]
    assert told[1:] == [note, ""]


# -- the sets ----------------------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def small(name: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A set of the same form with 30 + 20 pictures, served by `site` alone; its values by file name."""
    random = np.random.default_rng(1)
    values, files = {}, []
    for file in SETS[name].files:
        count = 30 if file.name.startswith("train") else 20
        shape = (count, 28, 28) if "images" in file.name else (count,)
        values[file.name] = random.integers(0, 256 if len(shape) > 1 else 10, shape, dtype=np.uint8)
        plain = idx(values[file.name])
        content = gzip.compress(plain)
        site.files[f"/{name}/{file.name}"] = content
        sums = [hashlib.sha256(text).hexdigest() for text in (content, plain)]
        files.append(RemoteFile(file.name, len(content), *sums))
    monkeypatch.setitem(SETS, name, replace(SETS[name], files=tuple(files), mirrors=(f"{site.url}/{name}",)))
    return values


def opened(name: str, path: object = None, **settings: Any) -> Source:
    given = None if path is None else PathText(str(path))
    source = open_source(DataConfig(name=name, path=given, **settings))
    assert isinstance(source, Source)
    return source


@pytest.mark.parametrize(("name", "names"), [("mnist", DIGIT_NAMES), ("fashion_mnist_full", FASHION_NAMES)])
def test_idx_sets_are_downloaded_at_first_use_and_read_as_published(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str, names: tuple[str, ...]
) -> None:
    values = small(name, site, monkeypatch)
    for _ in range(2):
        source = opened(name)
        assert (source.name, source.names) == (name, names)
        assert source.test is not None
        for part, prefix in ((source.train, "train"), (source.test, "t10k")):
            assert np.array_equal(np.asarray(part.x)[:, 0], values[f"{prefix}-images-idx3-ubyte.gz"])
            assert np.array_equal(part.labels, values[f"{prefix}-labels-idx1-ubyte.gz"])  # type: ignore[arg-type]
    assert len(site.asked) == 4
    # Put there by hand, and unpacked.
    for path in (data_folder() / name).glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert np.array_equal(np.asarray(opened(name).train.x)[:, 0], values["train-images-idx3-ubyte.gz"])
    assert len(site.asked) == 4


def test_a_path_is_read_as_the_sets_copy_without_a_download(site: Site, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 28, 28), np.uint8), labels=[8, 3, 8])
    source = opened("mnist", tmp_path / "a.npz")
    assert source.names == DIGIT_NAMES
    assert source.train.labels is not None
    assert source.train.labels.tolist() == [8, 3, 8]
    assert site.asked == []


def test_the_hashes_are_those_of_the_original_fashion_mnist() -> None:
    folder = Path(os.environ.get("GENAI_TEST_DATA", "")) / "fashion_mnist"
    if not folder.is_dir() or not os.environ.get("GENAI_TEST_DATA"):
        pytest.skip("GENAI_TEST_DATA does not name the test data")
    for file in SETS["fashion_mnist_full"].files:
        assert verified(folder, file) == folder / file.name
        assert verified(folder, replace(file, unpacked_sha256="0" * 64)) is None


def test_every_set_states_whole_hashes_and_names_that_mirrors_serve() -> None:
    for chosen in SETS.values():
        assert len(chosen.mirrors) >= 2
        for mirror in chosen.mirrors:
            assert mirror.startswith(("https://", "http://fashion-mnist.s3-website"))
        for file in chosen.files:
            assert all(
                len(text) in (0, 64) and int(text or "0", 16) >= 0 for text in (file.sha256, file.unpacked_sha256)
            )


# -- CIFAR-10 ----------------------------------------------------------------------------------------------------------

NUM_RECORDS = 10


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a CIFAR-10 with 10 records in each."""
    monkeypatch.setattr(cifar, "NUM_RECORDS", NUM_RECORDS)
    random, made = np.random.default_rng(2), {}
    for name in (*cifar.TRAIN_FILES, cifar.TEST_FILE):
        records = random.integers(0, 256, (NUM_RECORDS, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        made[name] = records.tobytes()
    return {"batches.meta.txt": "\n".join(cifar.CIFAR10_NAMES).encode(), **made, "readme.html": b"<html>"}


def packed(
    path: Path, files: dict[str, bytes], *more: tuple[tarfile.TarInfo, bytes], folder: str = cifar.FOLDER
) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info, content in more:
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def assert_is_cifar10(source: Source, batches: dict[str, bytes]) -> None:
    """Against the records, read by hand: a label, then the red, green and blue plane, row by row."""
    assert source.names == cifar.CIFAR10_NAMES
    train = b"".join(batches[f"data_batch_{number}.bin"] for number in range(1, 6))
    for part, content in ((source.train, train), (source.test, batches["test_batch.bin"])):
        assert part is not None
        assert part.labels is not None
        x = np.asarray(part.x)
        assert len(x) == len(content) // 3073
        for number in (0, 7, len(x) - 1):
            record = content[3073 * number : 3073 * (number + 1)]
            assert part.labels[number] == record[0]
            for channel, row, column in ((0, 0, 0), (1, 2, 3), (2, 31, 30)):
                assert x[number, channel, row, column] == record[1 + 1024 * channel + 32 * row + column]


def test_cifar10_is_read_from_the_archive_without_extracting_it(
    site: Site, batches: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = packed(tmp_path / "made.tar.gz", batches).read_bytes()
    file = RemoteFile("cifar-10-binary.tar.gz", len(content), hashlib.sha256(content).hexdigest())
    site.files[f"/{file.name}"] = content
    monkeypatch.setitem(SETS, "cifar10", replace(SETS["cifar10"], files=(file,), mirrors=(site.url,)))
    assert_is_cifar10(opened("cifar10"), batches)
    assert {path.name for path in (data_folder() / "cifar10").iterdir()} == {".lock", file.name}


def test_cifar10_by_path_is_the_archive_under_a_like_name_or_its_folder(
    batches: dict[str, bytes], tmp_path: Path, capfd: Captured
) -> None:
    archive = packed(tmp_path / "CIFAR own copy.tgz", batches)
    folder = tmp_path / "above" / cifar.FOLDER
    folder.mkdir(parents=True)
    for name, content in batches.items():
        (folder / name).write_bytes(content)
    for path in (archive, folder, folder.parent):
        for name in ("cifar10", "path"):
            assert_is_cifar10(opened(name, path), batches)
    assert opened("cifar10", archive, size=16, channels=1).train.shape == (1, 16, 16)
    assert run(["data", "check", str(folder), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["train"] == 50


def test_cifar10_unpacked_by_hand_in_the_data_folder_needs_no_download(site: Site, batches: dict[str, bytes]) -> None:
    folder = data_folder() / "cifar10" / cifar.FOLDER
    folder.mkdir(parents=True)
    for name, content in batches.items():
        (folder / name).write_bytes(content)
    assert_is_cifar10(opened("cifar10"), batches)


def test_the_pickled_version_is_refused_with_the_name_of_the_other(tmp_path: Path) -> None:
    pickled = {"batches.meta": b"\x80\x04.", "data_batch_1": b"\x80\x04."}
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, content in pickled.items():
        (folder / name).write_bytes(content)
    archive = packed(tmp_path / "cifar-10-python.tar.gz", pickled, folder="cifar-10-batches-py")
    for path in (archive, folder, tmp_path):
        with pytest.raises(DataError, match=r"pickled.*cifar-10-binary\.tar\.gz"):
            opened("cifar10", path)


def odd_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    "info",
    [
        odd_member("../outside"),
        odd_member("/etc/passwd"),
        odd_member(f"{cifar.FOLDER}/../../outside"),
        odd_member("link", tarfile.SYMTYPE, "/etc/passwd"),
        odd_member("hard", tarfile.LNKTYPE, "../../outside"),
        odd_member("device", tarfile.CHRTYPE),
    ],
    ids=lambda info: info.name,
)
def test_an_archive_that_leads_outside_itself_is_refused(
    batches: dict[str, bytes], tmp_path: Path, info: tarfile.TarInfo
) -> None:
    with pytest.raises(SecurityError) as caught:
        opened("cifar10", packed(tmp_path / "cifar-a.tar.gz", batches, (info, b"")))
    assert caught.value.exit_code == 9


def test_an_archive_that_is_damaged_or_not_complete_is_named(batches: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "cifar-a.tar.gz"
    short = {**batches, "data_batch_3.bin": batches["data_batch_3.bin"][:-3073]}
    missing = {name: content for name, content in batches.items() if name != "test_batch.bin"}
    wrong = {**batches, "data_batch_1.bin": b"\x0a" + batches["data_batch_1.bin"][1:]}
    twice = (odd_member("data_batch_1.bin"), batches["data_batch_1.bin"])
    foreign = (odd_member("film.mp4"), bytes(2 << 20))
    for files, more, said in (
        (short, (), "data_batch_3.bin has 27,657 bytes"),
        (missing, (), "no test_batch.bin"),
        (wrong, (), "10 at 0 of labels is out of range"),
        (batches, (twice,), "twice"),
        (batches, (foreign,), "film.mp4"),
        (batches, tuple((odd_member(f"m{i}"), b"") for i in range(100)), "more than 100"),
    ):
        with pytest.raises(DataError, match=said):
            opened("cifar10", packed(path, files, *more))
    whole = packed(path, batches).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no archive", gzip.compress(b"no archive" * 999)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.tar\.gz"):
            opened("cifar10", path)


def test_a_small_archive_that_unpacks_to_very_much_is_refused_early(batches: dict[str, bytes], tmp_path: Path) -> None:
    """Also where the many bytes are in a header, which tar readers hold in memory."""
    path = tmp_path / "cifar-a.tar.gz"
    header = odd_member("x", tarfile.XHDTYPE, size=4 << 30).tobuf()
    with gzip.open(path, "wb", 1) as file:
        file.write(header)
        for _ in range(300):
            file.write(bytes(1 << 20))
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30));"
        "from pathlib import Path; from genai.data import cifar; cifar.NUM_RECORDS = 10;"
        f"cifar.read_cifar10(Path({str(path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "unpacks to more than CIFAR-10" in done.stderr


# -- the command line --------------------------------------------------------------------------------------------------


def test_prepare_downloads_and_prints_the_folder(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: Captured, tmp_path: Path
) -> None:
    small("mnist", site, monkeypatch)
    assert run(["data", "prepare", "mnist"]) == 0
    out, err = capfd.readouterr()
    assert out == f"{data_folder() / 'mnist'}\n"
    assert "downloading" in err
    assert run(["data", "prepare", "mnist", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"name": "mnist", "folder": str(data_folder() / "mnist")}
    assert err == ""
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8))
    for what in ("digits", "ring8", str(tmp_path / "a.npz")):
        assert run(["data", "prepare", what]) == 0
        assert capfd.readouterr().out.startswith("nothing needs preparing")
    assert run(["data", "prepare", str(tmp_path / "gone")]) == 3
    assert run(["data", "prepare", "path"]) == 2


def test_a_failed_download_has_its_exit_code_and_one_line(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: Captured, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    small("mnist", site, monkeypatch)
    site.files.clear()
    for arguments in (["data", "prepare", "mnist"], ["data", "show", "mnist"], ["train", "gan", "data=mnist"]):
        assert run([*arguments, "--quiet"]) == 3
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("error: data=mnist cannot be downloaded: train-images-idx3-ubyte.gz: 127.0.0.1: HTTP 404")
        assert err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*/*"))


def test_listing_and_a_dry_run_download_nothing(site: Site, monkeypatch: pytest.MonkeyPatch, capfd: Captured) -> None:
    small("mnist", site, monkeypatch)
    assert run(["data", "list"]) == 0
    assert {"mnist", "fashion_mnist_full", "cifar10"} <= set(capfd.readouterr().out.split())
    assert run(["train", "gan", "data=mnist", "--dry-run"]) == 0
    assert site.asked == []
    assert not data_folder().exists()


def test_training_on_a_set_downloads_it_before_the_run_begins(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: Captured, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    small("mnist", site, monkeypatch)
    command = ["train", "gan", "data=mnist", "run.dir=run", "net=mlp", "net.width=8", "net.layers=1", "threads=1"]
    assert run([*command, "trainer.max_steps=2", "trainer.batch_size=8", "trainer.preview_every=0"]) == 0
    err = capfd.readouterr().err
    assert f"downloading 0.0 MB from 127.0.0.1 to {data_folder() / 'mnist'}" in err
    assert err.index("downloading") < err.index("device: ")
    assert json.loads((tmp_path / "run/run.json").read_text())["data"] == "mnist"
