"""Make a student of a published pickle of SiD-LSG.

    python -m genbench_sid.convert batch512_cfg4.54.54.5_t625_8380_v2.pkl student.safetensors --base MODEL

The pickle is read in a process of its own in which nothing of it runs (`genbench_sid.unpickle`); this process reads
safetensors alone. `--base` is the word of the model that the student is drawn with, as `model=`.
"""

# pyright: basic
# safetensors carries no types.

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file
from torch import Tensor

from genbench.errors import GenbenchError, ModelError
from genbench.studentfiles import StudentFile, save_student
from genbench_sid.imports import published, time_of

ABOUT = "Make a student of a published pickle of SiD-LSG."
READER = Path(__file__).with_name("unpickle.py")
KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "TEMP", "SYSTEMROOT", "OMP_NUM_THREADS")
"""Of the environment, what the reading process is given."""


def convert(pickle: Path, student: Path, base: str, time: float | None = None, key: str = "ema") -> str:
    """Write the student and return one line about it. Raises GenbenchError where the file cannot be one."""
    level = time_of(pickle, time)
    tensors = read(pickle, key)
    layout = published({name: tuple(value.shape) for name, value in tensors.items()}, f"'{pickle}'")
    told = StudentFile("sid", base, "", "unet", (level,), {"steps": 1, "guidance_scale": 1.0})
    save_student(student, tensors, told)
    kind = "a layout that is not a published one" if layout is None else f"the UNet of {layout.name}"
    return (
        f"{student}, {len(tensors)} tensors, {kind}; draw with it: "
        f'genbench run plugin=sid model={base} sid.weights={student} prompt="..."'
    )


def read(pickle: Path, key: str = "ema") -> dict[str, Tensor]:
    """The tensors of the network that a pickle holds under `key`, by name. Raises ModelError."""
    if not pickle.is_file():
        raise ModelError(f"'{pickle}' does not exist; give the path of a file")
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    with TemporaryDirectory() as folder:
        out = Path(folder) / "tensors.safetensors"
        command = [sys.executable, "-IB", str(READER), str(pickle), key, str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode or not out.is_file():
            why = done.stderr.strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
            raise ModelError(f"'{pickle}' is not converted: {why[0]}")
        return load_file(out)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m genbench_sid.convert", description="Make a student of a published pickle of SiD-LSG."
    )
    parser.add_argument("pickle", type=Path, help="a published .pkl")
    parser.add_argument("student", type=Path, help="the .safetensors to write")
    parser.add_argument("--base", required=True, help="the model that it was made of, as in model=")
    parser.add_argument("--time", type=float, help="t / 1000 of its level; else as the file's name has it (_t625)")
    parser.add_argument("--key", default="ema", help="the network's name in the pickle")
    given = parser.parse_args(argv)
    try:
        told = convert(given.pickle, given.student, given.base, given.time, given.key)
    except GenbenchError as error:
        sys.stderr.write(f"genbench: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{told}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
