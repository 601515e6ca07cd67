"""What samples of text are worth, by the rules of their kind.

    python scripts/text_figures.py poems SAMPLES            Chinese verses: couplets whose lines are of equal length
    python scripts/text_figures.py smiles SAMPLES TRAINING  molecules: valid, unique among these, not in TRAINING
    python scripts/text_figures.py abc SAMPLES              tunes that can be read, and hold a note

SAMPLES is a folder of `genai sample` of text, TRAINING a file with one molecule a line. Molecules are
read by rdkit, tunes by music21 (pip install rdkit music21).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


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
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    read = [Chem.MolFromSmiles(text.strip()) if text.strip() else None for text in texts]
    valid = [Chem.MolToSmiles(molecule) for molecule in read if molecule is not None]
    known = set()
    for line in training.read_text().split():
        molecule = Chem.MolFromSmiles(line)
        if molecule is not None:
            known.add(Chem.MolToSmiles(molecule))
    different = set(valid)
    return (
        f"{len(texts)} molecules, valid {len(valid) / len(texts):.3f}, unique {len(different) / len(valid):.3f}, "
        f"novel {len(different - known) / len(different):.3f}"
    )


def tunes(texts: list[str]) -> str:
    from music21 import converter

    good = 0
    for text in texts:
        try:
            good += len(converter.parse(text.strip() + "\n", format="abc").flatten().notes) > 0
        except Exception:  # whatever a broken tune makes it raise
            continue
    return f"{len(texts)} tunes, read {good / len(texts):.3f}"


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in ("poems", "smiles", "abc"):
        raise SystemExit(__doc__)
    texts = texts_of(Path(sys.argv[2]))
    if sys.argv[1] == "poems":
        print(couplets(texts))
    elif sys.argv[1] == "smiles":
        print(molecules(texts, Path(sys.argv[3])))
    else:
        print(tunes(texts))


if __name__ == "__main__":
    main()
