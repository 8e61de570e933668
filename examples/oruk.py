"""A model in oruk-bench, a public benchmark of speech emotion recognition.

python examples/oruk.py [MODEL [SHARDS [OUT]]]    SHARDS: folder of the Parquet files, which its authors give on request

Without SHARDS, recordings of benchmarks/speech with made-up labels stand in: such figures mean nothing. Answers and
figures go to OUT, or bench_results. Needs oruk-bench, by pip.
"""

import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from oruk_bench import cli
from oruk_bench.adapters import open_models
from oruk_bench.core import LABELS, TARGET_SR, norm_label

import e2v_port

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"


class Adapter:
    """Answers with the most probable of the benchmark's seven classes, as its own adapters do."""

    def __init__(self, cfg, device):
        self.model = e2v_port.load(cfg["model_id"], runtime=device)
        self.model.need_labels()
        # By the benchmark's table of names; labels without a class there do not count.
        self.classes = {name: LABELS.index(norm_label(name)) for name in self.model.labels if norm_label(name)}
        cfg["supported"] = [label for i, label in enumerate(LABELS) if i in self.classes.values()]

    def predict(self, audios):
        """Returns the index of a class for each clip: [samples], float32, 16 kHz."""
        return [self._answer(result) for result in self.model.each(audios, TARGET_SR)]

    def _answer(self, result):
        if isinstance(result, e2v_port.AudioError):  # such as a clip that is too short: the benchmark wants an answer
            print(f"{result}: counts as neutral", file=sys.stderr)
            return LABELS.index("neutral")
        scores = self.model.judge(result).scores
        return self.classes[max(self.classes, key=scores.__getitem__)]


model, shards, out = (*sys.argv[1:], *["bundled", "", "bench_results"][len(sys.argv) - 1 :])
name = Path(model).name
open_models.ADAPTERS["e2v"] = Adapter
open_models.MODELS.insert(0, {"name": name, "adapter": "e2v", "model_id": model, "batch_size": 64})
with tempfile.TemporaryDirectory() as folder:
    if not shards:
        audio = [file.read_bytes() for file in sorted(SPEECH.glob("*.flac"))]
        same = {"language": ["en"] * len(audio), "source_id": ["e2v-port"] * len(audio)}
        pq.write_table(pa.table({"audio_flac": audio, "label": range(len(audio)), **same}), f"{folder}/0.parquet")
    cli.main(["eval", "--model", name, "--data-dir", shards or folder, "--device", "auto", "--out-dir", out])
