"""The toy as an ONNX graph, like toy_torch.py.

B clips, S samples, T frames, D wide.
"""

from e2v_port.architectures.toy import ToyConfig

from .layers_onnx import Network, Value


class Toy(Network):
    """Waveforms in, frames and their mean out."""

    config: ToyConfig

    def forward(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        g, stride = self.graph, self.config.stride
        weight, bias = g.weight("frame.weight").axes(1), g.weight("frame.bias")
        x = g.node("Conv", waveform.axes(1), weight, bias, kind="float", strides=[stride])
        x = x.permute(0, 2, 1).apply("Tanh")  # [B, T, D]
        lengths = (samples - self.config.kernel) // stride + 1
        real = g.valid(lengths, x.size(1)).axes(2)
        return x, lengths, g.where(real, x, 0.0).sum(1).without(1) / lengths.to("float").axes(1)
