"""Runs every benchmark of this folder (own.py is what they share), one after the other; `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    failed = []
    for script in sorted(Path(__file__).parent.glob("*.py")):
        if script.name not in ("all.py", "own.py"):
            print(f"-- {script.stem}", flush=True)
            if subprocess.run([sys.executable, str(script)], check=False).returncode:
                failed.append(script.stem)
    print(f"over the limit: {', '.join(failed)}" if failed else "all within their limits")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
