#!/usr/bin/env python3
"""Compiles all kernels for an A100 (sm_80) and a Hopper (sm_90a), without a GPU, and keeps what the compiler says of each.

    pip install -r kernels/requirements.txt
    python scripts/compile_kernels.py            # writes kernels/registers.json
    python scripts/compile_kernels.py --check    # writes nothing; fails where it is not up to date, or a kernel spills

It also gives them to NVRTC, as the program does when it starts on a GPU (src/backend/cuda/gpu/compile.rs).
"""

import argparse
import ctypes
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"
RESULT = KERNELS / "registers.json"
ARCHITECTURES = ["sm_80", "sm_90a"]


def toolkit():
    """The folder of the packages of kernels/requirements.txt."""
    try:
        import nvidia
    except ImportError:
        sys.exit("NVIDIA's compilers are not there; pip install -r kernels/requirements.txt")
    folders = [Path(place) / "cu13" for place in nvidia.__path__]
    found = [folder for folder in folders if (folder / "bin/nvcc").is_file()]
    return found[0] if found else sys.exit("nvcc is not there; pip install -r kernels/requirements.txt")


def with_nvcc(nvcc, file, architecture):
    """Registers, bytes spilled, and bytes of static shared memory, of each kernel of a file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, f"-arch={architecture}", "-std=c++17", "-cubin", "-Xptxas", "-v", "-o", f"{folder}/out.cubin", file]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{file.name} does not compile for {architecture}:\n{done.stderr}")
    said = {}
    for part in done.stderr.split("Compiling entry function '")[1:]:
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        shared = re.search(r"(\d+) bytes smem", part)
        said[part.split("'")[0]] = {
            "registers": int(re.search(r"Used (\d+) registers", part)[1]),
            "spilled_bytes": spills,
            "shared_bytes": int(shared[1]) if shared else 0,
        }
    return said


def with_nvrtc(home, architecture):
    """Compiles all files as one program, with the headers in memory."""
    ctypes.CDLL(str(next(home.glob("lib/libnvrtc-builtins.so.*"))))  # which NVRTC looks for by its name
    nvrtc = ctypes.CDLL(str(home / "lib/libnvrtc.so.13"))
    files = sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cuh")])
    source = "".join(f'#include "{file.name}"\n' for file in files if file.suffix == ".cu").encode()
    texts = (ctypes.c_char_p * len(files))(*[file.read_bytes() for file in files])
    names = (ctypes.c_char_p * len(files))(*[file.name.encode() for file in files])
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", len(files), texts, names)
    options = [f"--gpu-architecture={architecture}", "--std=c++17", f"--include-path={home / 'include'}"]
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    if nvrtc.nvrtcCompileProgram(program, len(options), given):
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(f"NVRTC does not compile the kernels for {architecture}:\n{log.value.decode()}")


def main():
    parser = argparse.ArgumentParser(description="Compile the kernels for GPUs, and keep registers and spills.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if registers.json is not up to date")
    check = parser.parse_args().check
    home = toolkit()
    version = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    result = {"nvcc": re.search(r"V([\d.]+)", version)[1], "kernels": {}}
    for architecture in ARCHITECTURES:
        with_nvrtc(home, architecture)
        for file in sorted(KERNELS.glob("*.cu")):
            for kernel, said in with_nvcc(home / "bin/nvcc", file, architecture).items():
                result["kernels"].setdefault(f"{file.name} {kernel}", {})[architecture] = said
    spilled = [kernel for kernel, on in result["kernels"].items() if any(said["spilled_bytes"] for said in on.values())]
    if spilled:
        sys.exit(f"these kernels spill registers to memory: {', '.join(spilled)}")
    lines = [f'    {json.dumps(name)}: {json.dumps(on)}' for name, on in sorted(result["kernels"].items())]
    text = f'{{\n  "nvcc": "{result["nvcc"]}",\n  "kernels": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    if not check:
        RESULT.write_text(text, encoding="utf-8")
    elif not RESULT.is_file() or RESULT.read_text(encoding="utf-8") != text:
        sys.exit("kernels/registers.json is not what the compiler says; run scripts/compile_kernels.py and look at what has changed")
    most = max(said["registers"] for on in result["kernels"].values() for said in on.values())
    print(f"{len(lines)} kernels for {' and '.join(ARCHITECTURES)}: at most {most} registers, nothing spilled; NVRTC takes them too")


if __name__ == "__main__":
    main()
