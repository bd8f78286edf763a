#!/usr/bin/env python3
"""Counts the code lines of each step: what its build compiles, what it adds to the step below, and what its chapter walks through.

    python3 scripts/count_code.py            # a table
    python3 scripts/count_code.py --check    # fails if BOOK.md shows other numbers, or a limit is passed
    python3 scripts/count_code.py --update   # writes the table into BOOK.md

A code line is neither blank nor comment nor test. A step's build is followed from src/lib.rs and src/main.rs along `mod` lines, whose
`#[cfg(...)]` is evaluated with the step's features. The files on a chapter's path stand in steps/stepN-*/path.txt. Standard library only."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- scripts/count_code.py -->", "<!-- end of scripts/count_code.py -->"
STEPS = [f"step{n}" for n in range(1, 10)]
# What enters with step 8 is counted apart from the rest of src/: the server, its command, and the clients that speak with one.
STEP_8 = [ROOT / "src" / place for place in ("server", "cli/serve.rs", "cli/chat", "cli/bench/serve")]
# And what enters with step 9: layouts of packed weights, their products, files that are pickles, GGUF files, Mistral's layout.
STEP_9 = [ROOT / "src" / place for place in ("quant", "backend/cpu/linear/packed.rs", "backend/cpu/linear/x86/packed", "checkpoint/gguf", "checkpoint/pickle", "checkpoint/mistral.rs", "config/mistral.rs", "cli/compare", "cli/quantize.rs",
    "convert", "cli/convert.rs", "backend/cpu/linear/int8", "backend/cuda/quant_matmul", "backend/cuda/workload/quant.rs")]  # fmt: skip
# And what the feature hub adds: models by name.
HUB = [ROOT / "src" / place for place in ("hub", "cli/hub_args.rs", "cli/hub_cache.rs", "cli/pull.rs", "cli/versions.rs")]
# No more code than this in src/ without steps 8 and 9 and the hub, in step 1's build, and on chapter 1's path. Lower a limit when code goes.
# Step 9 took 1,800 lines in files of earlier steps: a matrix may be packed, a directory may hold other files, dtypes are ours, plan and --auto know more.
LIMITS = {"src": 22_400, "step1": 9_800, "path1": 2_500}


def without_tests(text: str) -> str:
    """The text less its items behind `#[cfg(test)]`."""
    lines, kept, i = text.splitlines(), [], 0
    while i < len(lines):
        if lines[i].strip().startswith("#[cfg(test)]"):
            indent = len(lines[i]) - len(lines[i].lstrip())
            i += 1
            while i < len(lines) and lines[i].strip().startswith("#["):
                i += 1
            if not lines[i].rstrip().endswith((";", "}")):
                while lines[i].strip() != "}" or len(lines[i]) - len(lines[i].lstrip()) != indent:
                    i += 1
            i += 1
            continue
        kept.append(lines[i])
        i += 1
    return "\n".join(kept)


def code_lines(path: pathlib.Path) -> int:
    """Lines that are neither blank nor comment nor test."""
    count, in_comment = 0, False
    for line in without_tests(path.read_text()).splitlines():
        line = line.strip()
        if in_comment:
            in_comment = "*/" not in line
        elif line.startswith("/*"):
            in_comment = "*/" not in line
        elif line and not line.startswith("//"):
            count += 1
    return count


def holds(condition: str, features: set[str]) -> bool:
    """Whether a `cfg` condition holds on x86-64 Linux with these features."""
    condition = condition.strip()
    called = re.fullmatch(r"(all|any|not)\((.*)\)", condition, re.S)
    if called:
        parts, depth, start = [], 0, 0
        inner = called[2] + ","
        for at, char in enumerate(inner):
            depth += (char == "(") - (char == ")")
            if char == "," and depth == 0:
                if inner[start:at].strip():
                    parts.append(holds(inner[start:at], features))
                start = at + 1
        return {"all": all, "any": any, "not": lambda p: not p[0]}[called[1]](parts)
    feature = re.fullmatch(r'feature\s*=\s*"(.*)"', condition)
    if feature:
        return feature[1] in features
    return condition in ('target_arch = "x86_64"', 'target_os = "linux"', "unix")


MOD = re.compile(r'((?:^[ \t]*#\[[^\n]*\]\s*\n)*)^[ \t]*(?:pub(?:\([^)]*\))? )?mod (\w+);', re.M)


def files(root: pathlib.Path, features: set[str]) -> set[pathlib.Path]:
    """The files that a build compiles from this root on."""
    found, todo = set(), [root]
    while todo:
        path = todo.pop()
        found.add(path)
        folder = path.parent if path.name in ("mod.rs", "lib.rs", "main.rs") else path.with_suffix("")
        for attributes, name in MOD.findall(without_tests(path.read_text())):
            conditions = re.findall(r"#\[cfg\((.*)\)\]", attributes)
            if not all(holds(condition, features) for condition in conditions):
                continue
            renamed = re.findall(r'#\[path = "(.*)"\]', attributes)
            renamed += [file for condition, file in re.findall(r'#\[cfg_attr\((.*), path = "(.*)"\)\]', attributes) if holds(condition, features)]
            places = [folder / renamed[0]] if renamed else [folder / f"{name}.rs", folder / name / "mod.rs"]
            todo += [place for place in places if place.exists()]
    return found


def build(number: int) -> int:
    """Code lines that step `number`'s build compiles."""
    # Steps 8 and 9 stand on everything below them; their own features need less.
    features = set(STEPS[:number]) | {feature for step, feature in ((8, "serve"), (9, "quantized")) if number >= step}
    compiled = set().union(*(files(ROOT / "src" / name, features) for name in ("lib.rs", "main.rs")))
    return sum(map(code_lines, compiled))


def path(number: int) -> tuple[int, int]:
    """The chapter's path: its files, and their code lines."""
    (listed,) = ROOT.glob(f"steps/step{number}-*/path.txt")
    names = [line.split("#")[0].strip() for line in listed.read_text().splitlines()]
    walked = [ROOT / name for name in names if name]
    missing = [str(file.relative_to(ROOT)) for file in walked if not file.is_file()]
    if missing:
        sys.exit(f"{listed.relative_to(ROOT)}: there is no {', '.join(missing)}; correct the list")
    return len(walked), sum(map(code_lines, walked))


def table() -> tuple[str, dict[str, int]]:
    """The table, and the numbers that have limits."""
    rows, before, numbers = [], 0, {}
    for number in range(1, 10):
        lines, (count, walked) = build(number), path(number)
        rows.append(f"| {number} | {lines:,} | {lines - before:,} | {walked:,} in {count} files |")
        numbers |= {f"step{number}": lines, f"path{number}": walked}
        before = lines
    head = "| step | lines in its build | more than the step before | on the chapter's path |\n|---|---|---|---|"
    tests = {"tests.rs", "testing.rs"}  # modules behind `#[cfg(test)]`
    sources = [file for file in (ROOT / "src").rglob("*.rs") if file.name not in tests]
    numbers["step8"] = sum(code_lines(file) for file in sources if any(map(file.is_relative_to, STEP_8)))
    numbers["step9"] = sum(code_lines(file) for file in sources if any(map(file.is_relative_to, STEP_9)))
    numbers["hub"] = sum(code_lines(file) for file in sources if any(map(file.is_relative_to, HUB)))
    numbers["src"] = sum(map(code_lines, sources)) - numbers["step8"] - numbers["step9"] - numbers["hub"]
    return "\n".join([head, *rows]), numbers


def main() -> None:
    shown, numbers = table()
    book = ROOT / "BOOK.md"
    before, rest = book.read_text().split(BEGIN) if BEGIN in book.read_text() else (book.read_text(), END)
    after = rest.split(END)[1] if END in rest else ""
    wanted = f"{before}{BEGIN}\n{shown}\n{END}{after}"
    print(f"{shown}\n\nsrc/ without steps 8 and 9 and the hub: {numbers['src']:,} code lines, of {LIMITS['src']:,} at most")
    print(f"step 8, the server and its clients: {numbers['step8']:,} code lines; step 9, packed weights: {numbers['step9']:,}; models by name: {numbers['hub']:,}")
    if "--update" in sys.argv:
        book.write_text(wanted)
    if "--check" in sys.argv:
        over = [f"{what}: {numbers[what]:,} of {most:,}" for what, most in LIMITS.items() if numbers[what] > most]
        if over:
            sys.exit("more code lines than the limit: " + "; ".join(over))
        if book.read_text() != wanted:
            sys.exit("BOOK.md shows other numbers; run python3 scripts/count_code.py --update")


if __name__ == "__main__":
    main()
