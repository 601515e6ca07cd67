"""Downloads against a server on this machine that does what servers do: break off, lie, stall, redirect."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.console import Console
from genai.data import download
from genai.data.download import RemoteFile, data_folder, fetch, verified
from genai.errors import ConfigError, DataError, OutputError

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
