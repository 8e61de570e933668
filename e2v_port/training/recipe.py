"""Everything a training from scratch depends on, except the corpora, the seed and the number of threads."""

from dataclasses import dataclass, field

from e2v_port.architectures.wav2small import Wav2smallConfig
from e2v_port.training.augmentation import Augmentation, Range

__all__ = ["Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of the network, the clips and the optimizer.

    Attributes:
        normalize: Whether each clip is normalized; see `Wav2smallConfig`.
        window: Window of the spectrogram, in samples.
        step: Step of the spectrogram, in samples.
        bands: Number of mel bands.
        lowest: Lower edge of the lowest band, in Hz.
        highest: Upper edge of the highest band, in Hz.
        floor: Lowest power in a band.
        band_norm: Whether each band is relative to its mean.
        stages: Channels of the convolutions, stage by stage.
        residual: Whether each convolution adds to its input.
        pooling: `gram` or `deviation`.
        width: Width of the pooling.
        copies: Number of augmented copies of each clip, made once. Each time a clip is used, the clip itself or one of
            its copies is drawn.
        unlabelled_copies: The same for pieces of unlabeled recordings; more than `copies` are not made.
        augmentation: How the copies are made.
        unlabelled: Share of each batch that is drawn from unlabeled recordings, if there are any.
        teaching: Share of a labeled clip's target that is the teacher's answer, if there is a teacher; the rest is the
            label. The target of an unlabeled clip is the teacher's answer alone.
        softness: Divisor of the teacher's calibrated logits, see `Teacher.answers`.
        trimmed: Probability that silence is cut off both ends of a clip.
        seconds: Range of the length of the excerpts, in seconds; one length is drawn per batch, so that no batch needs
            padding, which would take a third of the time.
        masks: Number of times SpecAugment (arXiv 1904.08779) hides columns, and bands, of each clip.
        mask_columns: Largest number of neighboring columns hidden.
        mask_bands: Largest number of neighboring bands hidden.
        mixup: Both parameters of the beta distribution of the shares in which two clips are mixed (arXiv 1710.09412);
            0 disables mixing.
        smoothing: Share of the target that is spread over all labels.
        dropout: Share of the embedding that is hidden from the head.
        balance: Exponent of balancing. A clip is drawn with weight n ** -balance, where n is the number of clips of its
            label in its corpus: 0 keeps the frequencies of the corpus, 1 draws all labels equally often. Corpora are
            drawn equally often.
        epochs: Number of epochs; an epoch draws as many clips as there are.
        batch: Number of clips per step.
        rate: Peak learning rate of AdamW, reached after `warm_up`, then falling to zero (one cycle, arXiv 1708.07120).
        warm_up: Share of all steps before the peak.
        decay: Weight decay of AdamW, for everything except biases and norms.
        gradient: Largest norm of a gradient.
        average: Share of each step's weights in the moving average that is evaluated and kept; larger in the first
            steps. 1 keeps the weights themselves.
        patience: Number of epochs without a better development score after which training stops.
    """

    normalize: bool = True
    window: int = 640
    step: int = 320
    bands: int = 64
    lowest: float = 50.0
    highest: float = 8000.0
    floor: float = 1e-10
    band_norm: bool = False
    stages: tuple[tuple[int, ...], ...] = ((16,), (32, 32), (64, 64), (128, 128))
    residual: bool = True
    pooling: str = "deviation"
    width: int = 128
    copies: int = 8
    unlabelled_copies: int = 2
    augmentation: Augmentation = field(default_factory=Augmentation)
    unlabelled: float = 0.4
    teaching: float = 0.7
    softness: float = 1.5
    trimmed: float = 0.85
    seconds: Range = (1.8, 3.2)
    masks: int = 1
    mask_columns: int = 11
    mask_bands: int = 8
    mixup: float = 0.0
    smoothing: float = 0.1
    dropout: float = 0.3
    balance: float = 0.75
    epochs: int = 80
    batch: int = 32
    rate: float = 2e-3
    warm_up: float = 0.2
    decay: float = 0.05
    gradient: float = 5.0
    average: float = 0.005
    patience: int = 25

    def architecture(self, outputs: int) -> Wav2smallConfig:
        """Returns the sizes of a network with a given number of outputs."""
        bands = self.bands
        for _ in self.stages[1:]:
            bands = (bands + 1) // 2
        embedding = self.width * (bands + self.width) if self.pooling == "gram" else 2 * self.width
        return Wav2smallConfig(
            normalize=self.normalize,
            embed_dim=embedding,
            head_dim=0,
            num_labels=outputs,
            window=self.window,
            step=self.step,
            bands=self.bands,
            floor=self.floor,
            band_norm=self.band_norm,
            stages=self.stages,
            residual=self.residual,
            pooling=self.pooling,
            width=self.width,
        )
