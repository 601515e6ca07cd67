"""What samples of text are worth, by the rules of their kind.

    python scripts/text_figures.py poems SAMPLES            Chinese verses: couplets whose lines are of equal length
    python scripts/text_figures.py smiles SAMPLES TRAINING  molecules: valid, unique, not in TRAINING, diverse
    python scripts/text_figures.py abc SAMPLES [TUNES]      tunes that can be read, and whose bars are full
    python scripts/text_figures.py labels SAMPLES REAL.csv  texts by label: how many a judge of real ones names so

SAMPLES is a folder of `genai sample` of text, TRAINING a file with one molecule a line, TUNES one with real tunes: its
last tenth, which training does not see by default, is measured beside them. Molecules are read by rdkit, tunes by
music21, texts judged by scikit-learn (pip install rdkit music21 scikit-learn).
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

_AT_ONCE = 1000  # real tunes that are measured


def texts_of(folder: Path) -> list[str]:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["prompt"] + record["text"] for record in map(json.loads, lines)]


def couplets(texts: list[str]) -> str:
    """A couplet is what ends with a full stop and has one comma."""
    found = [re.findall(r"([\u4e00-\u9fff]+)，([\u4e00-\u9fff]+)[。？！]", text) for text in texts]
    pairs = [pair for each in found for pair in each]
    equal = sum(len(one) == len(other) for one, other in pairs)
    five_or_seven = sum(len(one) == len(other) in (5, 7) for one, other in pairs)
    shares = f"lines of equal length {equal / len(pairs):.3f}, of 5 or 7 {five_or_seven / len(pairs):.3f}"
    return f"{len(pairs)} couplets, {shares}"


def molecules(texts: list[str], training: Path) -> str:
    """As MOSES defines them (Polykovskiy et al. 2020): valid of all, unique of these, novel of those that differ; the
    diversity is 1 - the mean Tanimoto similarity over all pairs of valid ones, each with itself, too (IntDiv). Its
    filters, and the distance to its test set, are not measured here."""
    from rdkit import Chem, RDLogger
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
    from rdkit.DataStructs import BulkTanimotoSimilarity

    RDLogger.DisableLog("rdApp.*")
    read = [Chem.MolFromSmiles(text.strip()) if text.strip() else None for text in texts]
    valid = [molecule for molecule in read if molecule is not None]
    names = [Chem.MolToSmiles(molecule) for molecule in valid]
    known = set()
    for line in training.read_text().split():
        molecule = Chem.MolFromSmiles(line)
        if molecule is not None:
            known.add(Chem.MolToSmiles(molecule))
    different = set(names)
    prints = [GetMorganGenerator(radius=2, fpSize=1024).GetFingerprint(molecule) for molecule in valid]
    above = sum(sum(BulkTanimotoSimilarity(one, prints[:i])) for i, one in enumerate(prints))
    diversity = 1 - (2 * above + len(prints)) / len(prints) ** 2
    return "\n".join(
        [
            f"{len(texts)} molecules, valid {len(valid) / len(texts):.3f}, unique {len(different) / len(valid):.3f}, "
            f"novel {len(different - known) / len(different):.3f}, IntDiv {diversity:.3f}",
            # The means of three runs in MOSES' table, of 30,000 molecules each, after training on 1.6 million: of these
            # it knows more by heart the more it has seen, so novelty is no better where it is higher.
            "CharRNN of MOSES: valid 0.975, unique@10k 0.999, novel 0.842, IntDiv 0.856 (training set 0.857), "
            "FCD/Test 0.073",
        ]
    )


def full_bars(tune: str) -> list[bool] | None:
    """Of each bar between two plain bar lines, whether it is as long as the metre says; beside other lines, and at both
    ends, stand upbeats. None for what music21 cannot read, or holds no notes."""
    from music21 import converter

    try:
        read = converter.parse(tune.strip() + "\n", format="abc")
        measures = list(read["Measure"])
        inner = [
            here
            for before, here, after in zip(measures, measures[1:], measures[2:], strict=False)
            if not (before.rightBarline or here.leftBarline or here.rightBarline or after.leftBarline)
        ]
        full = [here.duration.quarterLength == here.barDuration.quarterLength for here in inner]
        return full if len(read.flatten().notes) > 0 else None
    except Exception:  # whatever a broken tune makes it raise
        return None


def tunes(texts: list[str], what: str) -> str:
    """`read`: music21 finds notes, which says little, as it passes over what it does not know."""
    read = [full for full in map(full_bars, texts) if full is not None]
    bars = [each for full in read for each in full]
    return (
        f"{len(texts)} {what}, read {len(read) / len(texts):.3f}, bars as long as the metre "
        f"{sum(bars) / max(1, len(bars)):.3f}, tunes of such bars alone "
        f"{sum(all(full) for full in read if full) / len(texts):.3f}"
    )


def held_out(path: Path) -> list[str]:
    """From the last tenth, evenly."""
    real = [tune for tune in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")) if tune.strip()]
    real = real[len(real) * 9 // 10 :]
    return real[:: -(-len(real) // _AT_ONCE)]


def agreement(folder: Path, real: Path) -> str:
    """A linear SVM over TF-IDF that learned nine tenths of the real texts (columns `text` and `label`), on the rest of
    them and on all samples."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    with real.open(encoding="utf-8-sig", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    texts, labels = zip(*rows, strict=True)
    learned, rest, learned_labels, rest_labels = train_test_split(texts, labels, test_size=0.1, random_state=0)
    # Pairs of characters are the words of Chinese.
    chinese = sum("\u4e00" <= character <= "\u9fff" for text in texts[:100] for character in text) > 100
    terms = {"analyzer": "char", "ngram_range": (1, 3)} if chinese else {"ngram_range": (1, 2)}
    judge = make_pipeline(TfidfVectorizer(**terms, sublinear_tf=True), LinearSVC()).fit(learned, learned_labels)
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    asked = [sample["prompt"].partition(": ")[2] for sample in samples]
    drawn = [sample["text"] for sample in samples]
    found = judge.predict(drawn)
    known = set(texts)
    of_each = ", ".join(
        f"{label} {sum(a == b for a, b in zip(asked, found, strict=True) if a == label) / asked.count(label):.3f}"
        for label in sorted(set(asked))
    )
    right = sum(a == b for a, b in zip(asked, found, strict=True)) / len(asked)
    return (
        f"{len(drawn)} texts, named rightly {right:.3f} ({of_each}), real ones that the judge did not learn "
        f"{judge.score(rest, rest_labels):.3f}; in the real set {sum(text in known for text in drawn) / len(drawn):.3f}"
    )


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in ("poems", "smiles", "abc", "labels"):
        raise SystemExit(__doc__)
    if sys.argv[1] == "labels":
        print(agreement(Path(sys.argv[2]), Path(sys.argv[3])))
        return
    texts = texts_of(Path(sys.argv[2]))
    if sys.argv[1] == "poems":
        print(couplets(texts))
    elif sys.argv[1] == "smiles":
        print(molecules(texts, Path(sys.argv[3])))
    else:
        print(tunes(texts, "samples"))
        if len(sys.argv) > 3:
            print(tunes(held_out(Path(sys.argv[3])), "real tunes"))


if __name__ == "__main__":
    main()
