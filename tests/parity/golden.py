"""Writes golden.npz: a toy checkpoint, a clip and what FunASR made of it.

    python tests/parity/golden.py

needs FunASR. With the file, the comparison also runs where FunASR is not installed.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml

from e2v_port.converters import emotion2vec as emotion2vec_converter
from e2v_port.parity import emotion2vec as emotion2vec_reference

FILE = Path(__file__).with_name("golden.npz")


def unpack(folder: Path) -> tuple[Path, np.ndarray, dict[str, np.ndarray]]:
    """Returns a checkpoint folder made of the file, the clip [samples] at 16 kHz, and FunASR's stages by name."""
    with np.load(FILE) as npz:
        about = json.loads(str(npz["about"]))
        tensors = {
            name.removeprefix("weights/"): torch.from_numpy(npz[name].astype(np.float32))
            for name in npz.files
            if name.startswith("weights/")
        }
        stages = {name.removeprefix("stages/"): npz[name] for name in npz.files if name.startswith("stages/")}
        clip = npz["clip"]
    (folder / "config.yaml").write_text(yaml.safe_dump(about["config"]))
    (folder / "tokens.txt").write_text("\n".join(about["tokens"]), "utf-8")
    torch.save({"model": tensors}, folder / "model.pt")
    return folder, clip, stages


def main() -> None:
    from e2v_port.checkpoints.checkpoint import local
    from e2v_port.parity import verify

    config = replace(
        emotion2vec_converter.BASE,
        conv_layers=((8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2),
        embed_dim=24,
        num_heads=6,
        num_alibi_heads=6,
        prenet_depth=1,
        depth=2,
        ffn_dim=40,
        conv_pos_depth=2,
        conv_pos_kernel=5,
        conv_pos_groups=4,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = emotion2vec_converter.make(config, Path(name), seed=1)
        tensors = torch.load(folder / "model.pt", weights_only=True)["model"]
        halves = {key: value.half() for key, value in tensors.items()}  # what 16 bits hold, float32 holds exactly
        torch.save({"model": {key: value.float() for key, value in halves.items()}}, folder / "model.pt")
        # Longer than the shortest clip, so that there are several frames, and short enough to keep the file small.
        clip = verify.test_clip()[4000:5500]
        stages = emotion2vec_reference.FunASR(local(folder)).stages(clip)
        about = {
            "config": yaml.safe_load((folder / "config.yaml").read_text()),
            "tokens": (folder / "tokens.txt").read_text("utf-8").split(),
        }
    np.savez_compressed(
        FILE,
        about=np.array(json.dumps(about)),
        clip=clip,
        **{f"weights/{key}": value.numpy() for key, value in halves.items()},
        **{f"stages/{key}": value for key, value in stages.items()},
    )
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
