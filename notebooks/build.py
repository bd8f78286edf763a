#!/usr/bin/env python3
"""Makes every notebook from its reviewed source: NAME.py (jupytext, percent format) to NAME.ipynb, executed.

    pip install -r notebooks/requirements.txt
    python notebooks/build.py            # executes and writes them
    python notebooks/build.py --check    # writes nothing; fails where NAME.ipynb is not from NAME.py, or is too large
    pytest --nbmake notebooks/           # executes the .ipynb as they are; their asserts must hold

Outputs are not compared: another machine draws other pixels.
"""

import argparse
import sys
from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent
LIMIT = 100_000  # bytes of a notebook with its plots


def sources():
    return [path for path in sorted(FOLDER.glob("*.py")) if path != Path(__file__).resolve()]


def build(source):
    """Executes `source` and writes the notebook beside it, without times, so that a rebuild changes little."""
    notebook = jupytext.read(source)
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    resources = {"metadata": {"path": FOLDER}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources, record_timing=False).execute()
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def complaint(source):
    """What is wrong with the notebook of `source`, or None."""
    file = source.with_suffix(".ipynb")
    if not file.is_file():
        return f"{file.name} is missing"
    notebook = nbformat.read(file, as_version=4)
    if [(c.cell_type, c.source) for c in notebook.cells] != [(c.cell_type, c.source) for c in jupytext.read(source).cells]:
        return f"{file.name} is not from {source.name}"
    if any(c.cell_type == "code" and c.execution_count is None for c in notebook.cells):
        return f"{file.name} is not executed"
    if file.stat().st_size > LIMIT:
        return f"{file.name} has {file.stat().st_size} bytes; at most {LIMIT}"
    return None


def main():
    parser = argparse.ArgumentParser(description="Make the executed notebooks from their sources.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a notebook is not from its source")
    check = parser.parse_args().check
    if not check:
        for source in sources():
            build(source)
            print(f"{source.stem}.ipynb: {source.with_suffix('.ipynb').stat().st_size} bytes")
    if complaints := [c for source in sources() if (c := complaint(source))]:
        sys.exit("\n".join(complaints) + "\nrun python notebooks/build.py")


if __name__ == "__main__":
    main()
