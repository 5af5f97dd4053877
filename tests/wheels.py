"""Wheels of what is installed here, for machines that reach no package index: `python wheels.py DIRECTORY NAME ...`."""

import importlib.metadata
import sys
import zipfile
from pathlib import Path


def make(directory, name):
    found = importlib.metadata.distribution(name)
    tag = next(line[5:] for line in found.read_text("WHEEL").splitlines() if line.startswith("Tag: "))
    wheel = Path(directory, f"{found.metadata['Name'].replace('-', '_')}-{found.version}-{tag}.whl")
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in found.files:
            if (
                ".." not in file.parts
                and "__pycache__" not in file.parts
                and file.name not in ("INSTALLER", "REQUESTED")
            ):
                archive.write(file.locate(), str(file))


if __name__ == "__main__":
    for name in sys.argv[2:]:
        make(sys.argv[1], name)
