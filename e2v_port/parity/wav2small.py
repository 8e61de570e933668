"""wav2small written out in torch's own layers, run stage by stage."""

import json
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.parity.references import Tolerances, tensors

__all__ = ["REFERENCE", "Wav2small"]


class Wav2small:
    """The forward pass of wav2small's model card in float64, on an unconverted checkpoint's own tensors.

    No library has this model. Here the Fourier transform is the stored convolution and the batch norms are layers of
    torch, so that what the conversion makes of them is compared, too.
    """

    library: ClassVar[str] = "torch"
    # Of a Fourier transform, float32 leaves few digits in bands 90 dB below the loudest, which a logarithm shows. The
    # layers after it see a part of that, the outputs none. Measured on 30 s of speech: 0.011 dB, and 1e-3 after it.
    tolerances: ClassVar[Tolerances] = Tolerances(hidden=5e-3, stages={"spectrogram": 0.05})

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.state = {name: tensor.double() for name, tensor in tensors(checkpoint).items()}
        settings = json.loads(checkpoint.config.read_text("utf-8")) if checkpoint.config else {}
        self.hop: int = settings.get("hop", self.state["vgg7.spectrogram_extractor.conv_real.weight"].shape[2] // 2)

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `Reference`."""
        import torch
        from torch.nn import functional

        def keep(name: str, value: torch.Tensor) -> None:
            found[name] = value.float().numpy()

        state = self.state
        found: dict[str, NDArray[np.float32]] = {}
        x = torch.from_numpy(waveform).double()
        x = x - x.mean()
        x = x / torch.sqrt((x * x).mean() + 1e-7)
        keep("waveform", x)
        front = "vgg7.spectrogram_extractor"
        real, imag = (
            functional.conv1d(x[None, None], state[f"{front}.conv_{part}.weight"], stride=self.hop)
            for part in ("real", "imag")
        )
        power = (real**2 + imag**2)[0].T @ state["vgg7.logmel_extractor.melW"]  # [T, bands]
        x = 10 * torch.log10(power.clamp_min(state["vgg7.logmel_extractor.amin"].item()))
        keep("spectrogram", x)
        x = x[None, None]  # [1, 1, T, bands]
        for i in range(1, 8):
            layer = f"vgg7.l{i}"
            x = functional.conv2d(x, state[f"{layer}.conv.weight"], padding=1)
            mean, variance = state[f"{layer}.norm.running_mean"], state[f"{layer}.norm.running_var"]
            x = functional.batch_norm(x, mean, variance, state[f"{layer}.norm.weight"], state[f"{layer}.norm.bias"])
            x = functional.relu(x)
            keep(f"layers.{i - 1}", x[0].permute(1, 2, 0))
            if i == 3:
                x = functional.max_pool2d(x, 3, stride=2, padding=1)
        values = functional.conv2d(x, state["vgg7.lin.weight"], state["vgg7.lin.bias"])
        weights = functional.conv2d(x, state["vgg7.sof.weight"], state["vgg7.sof.bias"]).softmax(2)
        columns = values[0].transpose(0, 1)  # [T, channels, bands]
        keep("frames", torch.cat([columns, torch.bmm(columns, columns.mT)], 2).flatten(1))
        x = (values * weights).sum(2)
        x = torch.cat([x, torch.bmm(x, x.mT)], 2).flatten(1)
        keep("pooled", x[0])
        if "adv.weight" in state:
            keep("logits", functional.linear(x, state["adv.weight"], state["adv.bias"])[0])
        return found


REFERENCE = Wav2small
