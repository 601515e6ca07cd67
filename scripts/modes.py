"""Trains on mixtures of Gaussians for several seeds and prints how many modes the samples reach, and how exactly.

    python scripts/modes.py MODEL [KEY=VALUE ...] [seed=0,1,2,3,4] [data=grid25,ring8]

A sample hits a mode when it is within three standard deviations of its centre; a mode counts as found with one hit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from genai.data.points import GRID_DEVIATION, RING_DEVIATION, grid_centres, ring_centres

SETS = {"grid25": (grid_centres(), GRID_DEVIATION), "ring8": (ring_centres(), RING_DEVIATION)}
SAMPLES = 2500


def genai(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "genai", *arguments, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    model, *settings = sys.argv[1:] or ["gan"]
    chosen = {"seed": "0,1,2,3,4", "data": ",".join(SETS)}
    chosen |= {key: value for key, _, value in (text.partition("=") for text in settings) if key in chosen}
    settings = [text for text in settings if text.split("=")[0] not in chosen]
    print(f"{'data':8} {'seed':>4} {'steps':>7} {'modes':>6} {'hits':>6}  fewest and most hits of a mode", flush=True)
    for name in chosen["data"].split(","):
        centres, deviation = SETS[name]
        for seed in chosen["seed"].split(","):
            with tempfile.TemporaryDirectory() as folder:
                run, out = Path(folder) / "run", Path(folder) / "out"
                genai("train", model, f"data={name}", f"seed={seed}", f"run.dir={run}", *settings)
                genai("sample", str(run), "-n", str(SAMPLES), "--format", "npz", "--out", str(out))
                points = np.load(out / "samples.npz")["samples"]
                steps = json.loads((run / "run.json").read_text())["steps"]
            distance = np.linalg.norm(points[:, None] - centres, axis=2)
            hit = distance.min(axis=1) < 3 * deviation
            hits = np.bincount(distance.argmin(axis=1)[hit], minlength=len(centres))
            found = f"{(hits > 0).sum()}/{len(centres)}"
            print(f"{name:8} {seed:>4} {steps:7,} {found:>6} {hit.mean():6.3f}  {hits.min()} {hits.max()}", flush=True)


if __name__ == "__main__":
    main()
