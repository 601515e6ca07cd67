"""Text of one's own: files, folders, records, tables; what is no text; windows, epochs and what is held out."""

from __future__ import annotations

import csv
import json
import mmap
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genai.config import compose_train
from genai.data import text_files
from genai.data.documents import given_columns
from genai.data.loader import Loader
from genai.data.source import Corpus, Dataset, SeenBy, modality_of, open_data, open_source
from genai.data.texts import Windows
from genai.data.tokens import read_tokenizer
from genai.errors import ConfigError, DataError
from genai.schema import DataConfig, PathText

LINES = "".join(f"line {i} says {i * i}\n" for i in range(200))


def opened(path: Path, **settings: object) -> Dataset:
    return open_data(DataConfig(name="path", path=PathText(str(path)), **settings), predicts="data")  # type: ignore[arg-type]


def text_of(data: Dataset, split: Windows) -> str:
    """All of a split, window after window."""
    tokenizer = read_tokenizer(data.spec.tokenizer)
    return tokenizer.decode(np.array(split.ids))


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_text(LINES)
    return path


def test_the_last_tenth_is_held_out(novel: Path) -> None:
    data = opened(novel, context=32)
    assert isinstance(data.train, Windows)
    assert isinstance(data.valid, Windows)
    cut = len(LINES) - len(LINES) // 10
    assert text_of(data, data.train) == LINES[:cut]
    assert text_of(data, data.valid) == LINES[cut:]


def test_every_id_of_an_epoch_is_predicted_once_and_epochs_are_cut_elsewhere(novel: Path) -> None:
    train = opened(novel, context=32).train
    assert isinstance(train, Windows)
    epochs = [train.fetch(torch.arange(len(train)) + epoch * len(train)).x for epoch in range(2)]
    for x in epochs:
        assert x.shape == (len(train), 33)
        assert torch.equal(x[:-1, -1], x[1:, 0])  # what is predicted last is predicted from first
    ids = torch.from_numpy(train.ids.astype(np.int64))
    assert torch.equal(epochs[0][:, 1:].flatten(), ids[1 : 1 + 32 * len(train)])
    assert not torch.equal(epochs[0], epochs[1])


def test_of_documents_some_windows_begin_as_samples_do(tmp_path: Path) -> None:
    """The others are cut as ever."""
    (tmp_path / "tunes.txt").write_text("".join(f"X:{i}\nabc def{i:3}\n\n" for i in range(200)))
    train = opened(tmp_path / "tunes.txt", context=32, documents="paragraph").train
    assert isinstance(train, Windows)
    tokenizer = read_tokenizer(opened(tmp_path / "tunes.txt", context=32, documents="paragraph").spec.tokenizer)
    x = train.fetch(torch.arange(len(train))).x
    assert all(row[0] == tokenizer.end and tokenizer.decode(row.numpy()).startswith("X:") for row in x[:-8:8])
    plain = Windows(train.ids, 33, whole=False).fetch(torch.arange(len(train))).x
    others = torch.arange(len(train)) % 8 > 0
    assert torch.equal(x[others], plain[others])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_ids_above_half_of_what_their_bytes_hold_are_read_as_they_are(dtype: type) -> None:
    ids = np.arange(0, 64001, 1000).astype(dtype)
    assert Windows(ids, 65, whole=False).fetch(torch.tensor([0])).x[0].tolist() == ids.tolist()


def test_of_ids_on_the_disk_those_that_come_next_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(np.arange(40_001, dtype=np.uint16).tobytes())
    ids = np.memmap(tmp_path / "ids", dtype=np.uint16, mode="r")
    windows, asked = Windows(ids, 101, whole=False), []

    class Memory:
        def madvise(self, advice: int, start: int, size: int) -> None:
            assert start % mmap.PAGESIZE == 0
            assert start + size <= 80_002
            asked.append((start, start + size))

        def __len__(self) -> int:
            return 80_002

    ids._mmap = Memory()  # type: ignore[attr-defined]
    index = torch.arange(5 * len(windows))
    windows.expect(index)
    for (start, end), x in zip(asked, windows.fetch(index).x, strict=True):
        whole = x[x >= x[0]]  # the last window goes on at the beginning
        assert start <= 2 * int(whole.min())
        assert 2 * (int(whole.max()) + 1) <= end


def test_a_loader_goes_through_epochs_alike_from_any_position(novel: Path) -> None:
    train = opened(novel, context=32).train

    def loader() -> Loader:
        return Loader(train, seed=1, batch_size=8, num_micro=1, first_micro=0, own_micro=1,
                      device=torch.device("cpu"), dtype=torch.float32)  # fmt: skip

    one, other = loader(), loader()
    taken = [one.take(position)[0].x for position in range(0, 5 * len(train), 8)]
    assert torch.equal(other.take(32 * 8)[0].x, taken[32])


def test_held_out_windows_hold_every_id_and_count_none_twice(novel: Path) -> None:
    valid = opened(novel, context=32).valid
    assert isinstance(valid, Windows)
    batch = valid.fetch(torch.arange(len(valid)))
    assert batch.mask is not None
    assert batch.weight is not None
    assert int(batch.weight) == len(valid.ids) - 1 == int(batch.mask[:, 1:].sum())
    assert torch.equal(batch.x[:, 1:][batch.mask[:, 1:]], torch.from_numpy(valid.ids[1:].astype(np.int64)))


def test_files_of_a_folder_are_documents(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.txt").write_text(name * 40)
    data = opened(tmp_path, context=8, valid_fraction=0)
    assert isinstance(data.train, Windows)
    tokenizer = read_tokenizer(data.spec.tokenizer)
    assert [part.size for part in np.split(data.train.ids, np.flatnonzero(data.train.ids == tokenizer.end))] == [
        40,
        41,
        41,
        1,
    ]
    assert data.spec.opening == (tokenizer.end,)
    assert data.valid is None


@pytest.mark.parametrize("field", [None, "body"])
def test_records_are_documents(tmp_path: Path, field: str | None) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("\n".join(json.dumps({field or "text": f"Nummer {i} für Öl", "n": i}) for i in range(50)) + "\n\n")
    data = opened(path, context=8, field=field)
    assert isinstance(data.train, Windows)
    assert isinstance(data.valid, Windows)
    ids, tokenizer = np.concatenate([data.train.ids, data.valid.ids]), read_tokenizer(data.spec.tokenizer)
    parts = np.split(ids, np.flatnonzero(ids == tokenizer.end) + 1)[:-1]
    assert sorted(map(tokenizer.decode, parts)) == sorted(f"Nummer {i} für Öl" for i in range(50))
    assert [tokenizer.decode(part) for part in parts[:2]] != ["Nummer 0 für Öl", "Nummer 1 für Öl"]  # by a seed


@pytest.mark.parametrize(("documents", "texts"), [("line", ["a", "b c", "d"]), ("paragraph", ["a\nb c", "d"])])
@pytest.mark.parametrize("part", [1 << 20, 1, 2, 3])
def test_documents_in_a_text_are_marked_wherever_it_is_read_in_parts(
    documents: str, texts: list[str], part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty ones are none. A sample follows on the mark."""
    monkeypatch.setattr(text_files, "_PART", part)
    (tmp_path / "a.txt").write_text("\n\na\nb c\n \n\n\nd\n" * 30)
    data = opened(tmp_path / "a.txt", documents=documents, context=16, valid_fraction=0)
    assert isinstance(data.train, Windows)
    tokenizer = read_tokenizer(data.spec.tokenizer)
    found = np.split(data.train.ids, np.flatnonzero(data.train.ids == tokenizer.end) + 1)
    assert [tokenizer.decode(ids) for ids in found] == [*texts * 30, ""]
    assert data.spec.opening == (tokenizer.end,)


def test_a_sample_of_one_long_text_follows_on_a_line(novel: Path) -> None:
    spec = opened(novel).spec
    assert read_tokenizer(spec.tokenizer).decode(np.array(spec.opening)) == "\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_that_say_how_they_are_encoded_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes(("春眠不觉晓，\r\n处处闻啼鸟。\r" * 20).encode(encoding))
    data = opened(path, context=8, valid_fraction=0)
    assert isinstance(data.train, Windows)
    assert text_of(data, data.train) == "春眠不觉晓，\n处处闻啼鸟。\n" * 20


def test_many_characters_become_pieces(tmp_path: Path) -> None:
    path = tmp_path / "all.txt"
    path.write_text("".join(chr(0x4E00 + i) for i in range(10_500)))
    data = opened(path, vocab_size=400)
    assert data.spec.vocab == 400


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_the_held_out_text_is_counted(novel: Path, kind: str) -> None:
    data = opened(novel, tokens=kind, vocab_size=300, context=16)
    assert data.text is not None
    held_out = text_of(data, data.valid)  # type: ignore[arg-type]
    assert (data.text.characters, data.text.num_bytes) == (len(held_out), len(held_out.encode()))


def test_another_text_is_read_with_the_ids_of_the_model(novel: Path, tmp_path: Path) -> None:
    learned = opened(novel, context=16).spec
    other = tmp_path / "other.txt"
    other.write_text("says line 77 " * 20)
    config = DataConfig(name="path", path=PathText(str(other)))
    data = open_data(config, predicts="data", seen_by=SeenBy(learned, (), True))
    assert data.spec.form == learned.form
    assert text_of(data, data.valid) == "says line 77 " * 20  # type: ignore[arg-type]
    other.write_text("says line 7!" * 20)
    with pytest.raises(DataError, match="'!'"):
        open_data(config, predicts="data", seen_by=SeenBy(learned, (), True))


@pytest.mark.parametrize("num_bytes", [100, 1 << 20])
def test_ids_of_a_large_text_are_kept_and_made_anew_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    from genai.data import cache, texts

    monkeypatch.setenv("GENAI_DATA", str(tmp_path / "kept"))
    monkeypatch.setattr(texts, "_KEPT", 1000)
    monkeypatch.setattr(texts, "RESIDENT_BYTES", num_bytes)
    path = tmp_path / "novel.txt"
    path.write_text(LINES)
    first = opened(path, context=32)
    assert first.train.streams == (num_bytes == 100)
    (blob,) = cache.data_folder().rglob("*.pictures")
    written = blob.stat().st_mtime_ns
    again = opened(path, context=32)
    index = torch.arange(len(first.train))
    assert torch.equal(first.train.fetch(index).x, again.train.fetch(index).x)
    assert blob.stat().st_mtime_ns == written
    assert first.fingerprint == again.fingerprint
    path.write_text(LINES.replace("says", "said"))
    changed = opened(path, context=32)
    assert not torch.equal(first.train.fetch(index).x, changed.train.fetch(index).x)
    assert first.fingerprint != changed.fingerprint


BAD = {
    "empty": (b"", "too few"),
    "short": (b"hello", "too few"),
    "binary": (b"abc\0def" * 100, "binary"),
    "latin": (("Im Fr\xfchling t\xf6nt die Gl\xf6ckner\xf6hre. " * 40).encode("cp1252"), "a Western encoding"),
    "gb18030": ("春眠不觉晓，处处闻啼鸟。".encode("gb18030") * 40, "GB18030"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_told(tmp_path: Path, name: str) -> None:
    content, says = BAD[name]
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        opened(path)
    assert says in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "a"}\nno json\n', "line 2"),
        ("[1]\n", "line 1"),
        ('{"n": 1}\n', "no column holds texts, the columns are n"),
        ('{"text": "a"}\n{"text": 3}\n', "record 2"),
        ('{"text": "a"}\n{"n": 1}\n', "record 2 has no text in 'text', its columns are n"),
    ],
)
def test_records_that_are_none_are_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=says):
        opened(path)


def test_a_window_longer_than_the_text_says_what_fits(novel: Path) -> None:
    with pytest.raises(DataError, match="too few") as error:
        opened(novel, context=100_000)
    assert "data.context=" in error.value.fix


# -- conversations -----------------------------------------------------------------------------------------------------

TURNS = [
    {"prompt": f"what is {i}\nplus one?", "response": f"it is\n{i + 1}"} if i % 2 else
    {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": f"{i}?"},
                  {"role": "assistant", "content": f"yes, {i}"}, {"role": "user", "content": "sure?"},
                  {"role": "assistant", "content": "sure"}]}
    for i in range(60)
]  # fmt: skip


def dialogue(tmp_path: Path, records: list[object]) -> Path:
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_answers_alone_are_learned(tmp_path: Path) -> None:
    data = opened(dialogue(tmp_path, TURNS), context=32, valid_fraction=0)  # type: ignore[arg-type]
    assert data.spec.dialogue
    assert isinstance(data.train, Windows)
    assert data.train.counted is not None
    tokenizer = read_tokenizer(data.spec.tokenizer)
    ids, counted = data.train.ids, data.train.counted
    turns = np.split(np.arange(len(ids)), np.flatnonzero(ids == tokenizer.end) + 1)[:-1]
    said = {tokenizer.decode(ids[turn][~counted[turn]]): tokenizer.decode(ids[turn][counted[turn]]) for turn in turns}
    expected = {f"what is {i} plus one?\n": f"it is\n{i + 1}" for i in range(1, 60, 2)}
    expected |= {f"be kind {i}?\n": f"yes, {i}" for i in range(0, 60, 2)} | {"sure?\n": "sure"}
    assert said == expected
    assert all(counted[turn[-1]] for turn in turns)  # the end of an answer, too
    batch = data.train.fetch(torch.arange(len(data.train)))
    assert batch.mask is not None
    assert torch.equal(batch.mask[1], torch.from_numpy(counted[32:65]))
    assert int(batch.weight) == int(batch.mask[:, 1:].sum())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([{"prompt": "a", "response": 3}] * 99, "record .* is no conversation"),
        ([{"messages": "a"}] * 99, "record .* is no conversation"),
        ([{"messages": [{"role": "user", "content": "hello there"}]}] * 99, "record .* has no answer"),
    ],
)
def test_conversations_without_answers_are_refused(tmp_path: Path, records: list[object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        opened(dialogue(tmp_path, records))
    with pytest.raises(DataError, match="too few"):
        opened(dialogue(tmp_path, records), on_bad="skip")
    good = [{"prompt": "a question", "response": "an answer"}] * 60
    key = "messages" if "messages" in records[0] else "prompt"  # type: ignore[operator]
    assert opened(
        dialogue(tmp_path, [*good, *records[:3]] if key == "prompt" else [*records[:3], *good]), on_bad="skip"
    )


@pytest.mark.parametrize("kind", ["characters", "bytes", "bpe"])
def test_half_a_surrogate_pair_in_json_is_a_question_mark(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_text('{"text": "cut in two \\ud83d"}\n' * 60)
    data = opened(path, tokens=kind, vocab_size=300, context=16)
    assert isinstance(data.train, Windows)
    assert text_of(data, data.train).startswith("cut in two ?cut")


# -- tables ------------------------------------------------------------------------------------------------------------

ROWS = [
    {"text": f'Nr. {i}, "gut"\nund; 好', "label": ("neg", "pos")[i % 2], "n": str(i), "price": ""} for i in range(40)
]


def table(path: Path, rows: list[dict[str, Any]] = ROWS, encoding: str = "utf-8") -> Path:
    """In the format that the suffix names."""
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding=encoding)
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow", reason="the extra [parquet] is not installed")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def parts_of(path: Path | str, **settings: Any) -> list[str]:
    """The documents of a set, and of conversations what is said and what is answered by turns."""
    corpus = open_source(DataConfig(name="path", path=PathText(str(path)), **{"documents": "file", **settings}))
    assert isinstance(corpus, Corpus)
    return [part for part in corpus.parts() if part != "\0"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_rows_are_documents_in_one_order_whatever_holds_them(tmp_path: Path, suffix: str) -> None:
    order = np.random.RandomState(3).permutation(len(ROWS))
    path = table(tmp_path / f"all{suffix}")
    for settings in ({"field": "text"}, {}):
        assert parts_of(path, split_seed=3, **settings) == [ROWS[i]["text"] for i in order]
    assert modality_of("path", str(path), as_text=True) == "text"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_records_are_found_by_their_place_in_any_encoding(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = table(tmp_path / f"all{suffix}", encoding=encoding)
    assert sorted(parts_of(path)) == sorted(row["text"] for row in ROWS)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_text_answers_to_what_is_given_of_it(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"名称": f"灯 {i}", "colour": "red; or\nblue", "price": 12.0, "in": ["a", "b"], "text": f"好 {i}"}
        for i in range(9)
    ]
    if suffix == ".csv":
        rows = [{**row, "price": "12", "in": "a, b"} for row in rows]
    rows[4] |= {"colour": None}
    path = table(tmp_path / f"all{suffix}", rows)
    parts = parts_of(path, given=("名称", "colour", "price", "in"))
    said = dict(zip(parts[1::2], parts[::2], strict=True))
    assert said["好 3"] == "名称: 灯 3; colour: red, or blue; price: 12; in: a, b\n"
    assert said["好 4"] == "名称: 灯 4; price: 12; in: a, b\n"
    assert parts_of(path, given="名称")[::2] == parts_of(path, given=("名称",))[::2]
    data = opened(path, given="名称", context=8, valid_fraction=0)
    assert isinstance(data.train, Windows)
    assert (data.spec.dialogue, data.spec.given, data.spec.questions[8]) == (True, ("名称",), "名称: 灯 8")
    tokenizer, ids = read_tokenizer(data.spec.tokenizer), data.train.ids
    assert data.train.counted is not None
    assert tokenizer.decode(ids[~data.train.counted]) == "".join(parts_of(path, given="名称")[::2])


@pytest.mark.parametrize(
    ("columns", "settings", "chosen"),
    [
        ({"id": "1", "review": "x", "title": "y"}, {}, "review"),
        ({"stars": "3.5", "meinung": "x"}, {}, "meinung"),
        ({"kind": "a", "评论": "x"}, {}, "评论"),
        ({"kind": "same", "words": ""}, {}, "words"),
        ({"review": "x", "title": "y"}, {"field": "title"}, "title"),
        ({"a": "x", "b": "y"}, {"given": "a"}, "b"),
        ({"a": "x", "b": "y"}, {}, None),
        ({"n": "1", "m": "2"}, {}, None),
    ],
)
def test_the_column_of_the_text_is_found_or_asked_for(
    tmp_path: Path, columns: dict[str, str], settings: dict[str, Any], chosen: str | None
) -> None:
    rows = [
        {k: v if k in ("kind", "n", "m", "stars") else f"{k} no. {i}" for k, v in columns.items()} for i in range(9)
    ]
    path = table(tmp_path / "all.csv", rows)
    if chosen is not None:
        parts = parts_of(path, **settings)
        assert parts[-1].startswith(f"{chosen} no.")
        return
    with pytest.raises(DataError, match=f"the columns are {', '.join(columns)}") as error:
        parts_of(path)
    assert error.value.fix == "type data.field=COLUMN"


def test_a_table_is_text_where_it_looks_so_or_is_asked_for(tmp_path: Path) -> None:
    def modality(row: dict[str, Any], *, count: int = 9, **settings: Any) -> str:
        path = table(tmp_path / "all.csv", [{k: v.format(i) for k, v in row.items()} for i in range(count)])
        return modality_of("path", str(path), **settings)

    assert modality({"id": "{}", "tweet": "no. {}", "score": "0.5"}) == "text"
    assert modality({"label": "a", "meinung": "no. {}"}) == "text"
    assert modality({"label": "a", "meinung": "no. {}"}, count=1) == "table"  # of one row nothing differs
    flowers = {"length": "{}.5", "width": "{}.1", "species": "setosa"}
    for row in (flowers, {"car": "no. {}", "speed": "{}.5"}):
        assert modality(row) == "table"
        assert modality(row, as_text=True) == "text"


BAD_TABLES = {
    "semicolons": ("label;text\npos;a\n", "divided by semicolons, expected commas"),
    "tabs": ("label\ttext\npos\ta\n", "rename it to bad.tsv"),
    "ragged": ("label,text\npos,a\nneg,b, c\n", "row 3 has 3 fields, the header 2"),
    "blank": ("label,text\n\npos,a\n\nneg,b, c\n", "row 5 has 3 fields"),
    "short": ("label,text\npos\n", "row 2 has 1 fields"),
    "open": ('label,text\npos,a\nneg,"b\nc,d\n', "row 3 cannot be read"),
    "twice": ("text,text\na,b\n", "two columns are called 'text'"),
    "empty": ("", "the table is empty"),
    "missing": ("label,text\npos,a\n", "no column 'body', the columns are label, text"),
    "given": ("text,body\npos,a\n", "no column 'label'"),
    "unsaid": ("label,text,body\npos,a,b\n\n,a,b\npos,a,b\n", "row 4 says nothing in label"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_what_is_wrong_with_a_table_is_one_line(tmp_path: Path, name: str) -> None:
    content, says = BAD_TABLES[name]
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        opened(path, field="body" if name in ("missing", "given", "unsaid") else None, given="label")
    assert says in error.value.lines()[0]
    assert error.value.fix


def test_a_table_in_another_encoding_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(("label,text\n" + "pos,春眠不觉晓，处处闻啼鸟\n" * 40).encode("gb18030"))
    with pytest.raises(DataError, match=r"no UTF-8 text, from byte .* iconv -f gb18030"):
        opened(path)


def test_rows_without_a_text_are_left_out_and_counted_and_bad_ones_only_when_asked(tmp_path: Path) -> None:
    path = table(tmp_path / "all.csv", [{**row, "text": row["text"] if i % 4 else " "} for i, row in enumerate(ROWS)])
    data = opened(path, given="label", context=16)
    assert "10 without a text are left out" in data.notes
    assert "\n\n" not in text_of(data, data.train)  # type: ignore[arg-type]
    path.write_text(path.read_text() + "1,2\n")
    with pytest.raises(DataError, match="row 42 has 2 fields"):
        opened(path)
    assert parts_of(path, on_bad="skip") == parts_of(path, on_bad="skip", field="text")


def test_records_are_read_from_their_places_not_kept(tmp_path: Path) -> None:
    """A file of 1 MB in less than a third of that."""
    rows = [{"text": f"{i} " + "text " * 200, "label": str(i % 2)} for i in range(1000)]
    for suffix in (".jsonl", ".csv"):
        path = table(tmp_path / f"all{suffix}", rows)
        corpus = open_source(DataConfig(name="path", path=PathText(str(path))))
        assert isinstance(corpus, Corpus)
        tracemalloc.start()
        assert sum(map(len, corpus.parts())) > 1_000_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300_000, suffix


def test_columns_of_plain_text_are_refused_when_typed_and_dropped_from_a_preset(novel: Path) -> None:
    with pytest.raises(ConfigError, match=r"without columns, of which data\.given says nothing"):
        opened(novel, given=("label",))
    preset = ["experiment=transformer/sentiment_text", f"data.path={novel}"]
    assert compose_train("transformer", preset).data.given is None


@pytest.mark.parametrize("typed", ["[标签, a b]", '["标签", "a b"]', "标签"])
def test_columns_are_named_as_they_are_typed(typed: str) -> None:
    config = compose_train("transformer", [f"data.given={typed}"])
    assert given_columns(config.data) == ("标签", "a b")[: 1 + ("," in typed)]
