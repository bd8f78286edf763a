"""Draws the book's figures: `python scripts/figures.py`. With `--check` it writes nothing and exits 1 if a figure in the
repository is not what this script draws.

Python's standard library only. The numbers in the pictures are read from models/demo and benches/results, the names of the
model's parts are looked up in src/model/decoder.rs. What each picture shows is in scripts/figures/.
"""

import argparse
import sys
from pathlib import Path

from figures import staircase

ROOT = Path(__file__).resolve().parent.parent
CHAPTER_1 = "steps/step1-forward/figures"

# Where each figure goes, and what draws it.
FIGURES = {
    "steps/figures/staircase.svg": staircase.staircase,
}


def main():
    parser = argparse.ArgumentParser(description="Draw the book's figures.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a figure is not up to date")
    check = parser.parse_args().check
    stale = []
    for path, draw in FIGURES.items():
        try:
            figure = draw()
        except FileNotFoundError as e:
            print(f"{path}: skipped, there is no {Path(e.filename).relative_to(ROOT)}", file=sys.stderr)
            continue
        text, file = figure.svg(), ROOT / path
        if file.exists() and file.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
            print(f"{path}: {len(text.encode())} bytes")
    if check and stale:
        sys.exit(f"not what scripts/figures.py draws, run it: {', '.join(stale)}")


if __name__ == "__main__":
    main()
