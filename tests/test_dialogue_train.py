"""Training of a speech language model: its mathematics, what it learns, and that an interruption changes nothing."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import speechlm
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from e2v_port.cli import app
from e2v_port.dialogue import examples, features
from e2v_port.dialogue import report as pages
from e2v_port.dialogue.align import contrast, one_cycle
from e2v_port.dialogue.augment import masked, mixed
from e2v_port.dialogue.recipe import SYSTEM, Recipe
from e2v_port.dialogue.replies import LABELS
from e2v_port.dialogue.train import train
from e2v_port.dialogue.tune import Tuning, described, low_rank
from e2v_port.errors import CheckpointError, CorpusError, E2VError, RuntimeUnavailable, TrainingError
from e2v_port.llm import language as languages
from e2v_port.llm import stored
from e2v_port.llm.adapter import FUSIONS, Adapter, AdapterConfig, Fused, heard
from e2v_port.llm.encoders import load as load_encoders
from e2v_port.llm.language import Turn
from e2v_port.training import report as training_report
from e2v_port.training.task import SILENT, Progress

SIZES: dict[str, Any] = {"width": 16, "heads": 2, "hidden": 32, "rank": 8, "alpha": 16}
RATES: dict[str, Any] = {"rate": 1e-2, "adapter_rate": 1e-2}
QUICK = Recipe(**SIZES, **RATES, aligning=3, aligning_batch=16, tuning=1, clips=24, batch=4, accumulate=2)
LEARNING = Recipe(**SIZES, **RATES, aligning=6, aligning_batch=16, tuning=5, batch=8)
ARCHITECTURES = sorted(speechlm.TEMPLATES)

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues and a language model of each architecture."""
    found = tmp_path_factory.mktemp("speechlm")
    speechlm.toy_dialogues(found / "dialogues")
    for name in ARCHITECTURES:
        speechlm.toy_language(found / name, name)
    return found


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Trains on one thread of the CPU."""

    def trained(out: Path, recipe: Recipe, **options: Any) -> dict[str, Any]:
        where = {"dialogues": folder / "dialogues", "language": str(folder / "Llama"), **options}
        return train(out=out, recipe=recipe, device="cpu", number_of_threads=1, offline=True, **where)

    return trained


@pytest.fixture(scope="module")
def learned(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("learned") / "model"
    return out, run(out, LEARNING)


def replies_of(model: Path, language: Path, clips: Sequence[examples.Example]) -> list[str]:
    """The answers of a stored model, as text."""
    lm, found = languages.load(language), stored.read(model)
    adapter = stored.merged(found, lm)
    with torch.inference_mode():
        if adapter:
            fused = adapter(heard([clip.load() for clip in clips], adapter.config))
            remarks = [tokens[mask] for tokens, mask in zip(fused.tokens, fused.mask, strict=True)]
        else:
            remarks = [lm.embed(lm.ids(described(clip, found.hears))) for clip in clips]
        batch = lm.batch([lm.prompt(found.system)] * len(clips), remarks)
        ids = lm.model.generate(
            inputs_embeds=batch.embeddings, attention_mask=batch.mask, max_new_tokens=12, do_sample=False
        )
    return [lm.text(row) for row in ids.tolist()]


def test_replies_to_unseen_speakers_follow_the_tone_of_the_voice(
    learned: tuple[Path, dict[str, Any]], folder: Path
) -> None:
    """Every sentence is said in all four tones: whoever reads is right in a quarter of the cases."""
    clips = examples.read(folder / "dialogues", "test")
    given = replies_of(learned[0], folder / "Llama", clips)
    right = [reply == speechlm.REPLIES[clip.emotion] for reply, clip in zip(given, clips, strict=True)]
    assert np.mean(right) > 0.8
    assert learned[1]["dev"]["toy"]["uar"] > 0.7


def test_the_report_shows_both_stages(learned: tuple[Path, dict[str, Any]]) -> None:
    out, report = learned
    assert [path.name for path in sorted(out.parent.iterdir())] == ["model", "model-report"]
    files = training_report.folder_of(out)
    assert json.loads((files / "training.json").read_text("utf-8")) == json.loads(json.dumps(report))
    assert len(report["align"]) == 6
    assert len(report["tune"]) == 5 * 9
    assert report["align"][-1]["emotion"] < report["align"][0]["emotion"]
    assert report["dev_text"] == report["tune"][-1]["dev_text"] < report["tune"][8]["dev_text"]
    assert report["peak_bytes"] > 1e8
    page = (files / "report.html").read_text("utf-8")
    assert page.count("<svg") == 3
    assert f"{report['dev']['toy']['uar']:.3f}" in page
    assert "<b>&lt;" not in page
    assert "<h1>&lt;b&gt;" in pages.html("<b>", report)


def test_a_model_names_what_it_is_made_of(learned: tuple[Path, dict[str, Any]], folder: Path) -> None:
    found = stored.read(learned[0])
    assert found.encoders == speechlm.encoders(speaker=False)
    assert found.language["name"] == str(folder / "Llama")
    weights = (folder / "Llama" / "model.safetensors").read_bytes()
    assert found.language["sha256"] == hashlib.sha256(weights).hexdigest()
    assert found.training["clips"] == {"train": 72, "dev": 24}
    assert found.training["corpora"][0]["name"] == "toy"
    assert {"toy/07", "toy/08"} == {*found.training["corpora"][0]["speakers"]["dev"]}


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import test_dialogue_train as own
from e2v_port.dialogue import stages
from e2v_port.dialogue.train import train
from e2v_port.training.task import SILENT, Progress

stages.EVERY = 0.0
for start in ("stage 1, epoch 2/", "stage 2, step 4/"):
    def say(line):
        if line.startswith(start):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        train(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), own.QUICK, device="cpu", number_of_threads=1,
              offline=True, progress=Progress(say, SILENT.bar))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_killed_in_both_stages_it_ends_with_the_same_bytes(run: Run, folder: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "model"
    expected = run(whole, QUICK)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(QUICK.to_dict()))
    place = [str(folder / "dialogues"), str(folder / "Llama"), str(out)]
    options = [part for pair in zip(("--dialogues", "--language", "--out"), place, strict=True) for part in pair]
    command = [sys.executable, "-m", "e2v_port", "dialogue", "train", *options, "--recipe", str(recipe)]
    command += ["--device", "cpu", "--threads", "1", "--offline"]
    program = [sys.executable, "-c", KILLED, *place, str(Path(__file__).parent)]
    killed = subprocess.run(program, check=False, capture_output=True, text=True)
    assert killed.returncode == 0, killed.stderr
    assert not out.exists()
    with pytest.raises(TrainingError, match=r"other settings \(recipe\).*--restart"):
        run(out, replace(QUICK, seed=1))
    last = subprocess.run(command, check=False, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert "stage 2: resuming after step 4 of 6\n" in last.stderr
    assert re.fullmatch(
        rf"{out}: 0\.0 MB, development UAR of toy \d\.\d{{3}}, loss of the development replies \d+\.\d{{3}}; see .*\n",
        last.stdout,
    )
    name = "adapter.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()
    report = json.loads((tmp_path / "model-report" / "training.json").read_text("utf-8"))
    assert [report["align"], report["tune"]] == [expected["align"], expected["tune"]]
    assert not [*tmp_path.glob(".*")]
    with pytest.raises(TrainingError, match=r"already a model: .*--restart"):
        run(out, QUICK)


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "broadcast", "speaker": True},
        {"fusion": "prefix"},
        {"emotion": False, "speaker": True},
        {"emotion": False, "stages": (1,)},
        {"stages": (2,), "mixup": 0.4, "stack": 2},
        {"hears": "words", "stages": (2,)},
        {"hears": "label", "stages": (2,)},
    ],
    ids=str,
)
def test_every_variant_is_trained_stored_and_used(
    run: Run, folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = replace(QUICK, aligning=1, clips=8, **changes)
    report = run(tmp_path / "model", recipe)
    found = stored.read(tmp_path / "model")
    assert (found.adapter is None) == (recipe.hears != "speech")
    assert bool(found.low_rank) == (2 in recipe.stages)
    assert (len(report["align"]), len(report["tune"])) == (1 * (1 in recipe.stages), 2 * (2 in recipe.stages))
    page = (training_report.folder_of(tmp_path / "model") / "report.html").read_text("utf-8")
    assert page.count("<svg") == len(recipe.stages) + (1 in recipe.stages)
    assert "emotion 0.000" not in page
    if found.adapter:
        assert found.encoders["semantic"] is not None
        assert (found.encoders["emotion"] is None, found.encoders["speaker"] is None) == (
            not recipe.emotion,
            not recipe.speaker,
        )
    clips = examples.read(folder / "dialogues", "test")[:3]
    assert len(replies_of(tmp_path / "model", folder / "Llama", clips)) == 3


def test_contrast_counts_words_said_twice_once() -> None:
    torch.manual_seed(0)
    meaning, states = torch.randn(5, 7), F.normalize(torch.randn(4, 7), dim=1)
    texts = [2, 0, 2, 3, 0]  # text 1 is not in the batch
    fused = Fused(torch.empty(0), torch.empty(0), torch.empty(0), torch.empty(0), meaning)
    loss = 0.0
    for row, own in enumerate(texts):
        near = {text: float(F.cosine_similarity(meaning[row], states[text], dim=0)) / 0.07 for text in (0, 2, 3)}
        loss += np.log(sum(np.exp(value) for value in near.values())) - near[own]
    assert float(contrast(fused, texts, states, 0.07)) == pytest.approx(loss / 5, rel=1e-5)


def test_a_part_of_the_clips_has_all_tones_equally_often(folder: Path) -> None:
    lm = languages.load(folder / "Llama")
    low_rank(lm, 2, 2)
    clips = examples.read(folder / "dialogues", "train")
    sad = [clip for clip in clips if clip.emotion == "sad"]
    rare = [clip for clip in clips if clip.emotion != "sad"] + sad[:3]
    recipe = replace(QUICK, hears="words", stages=(2,), batch=1)

    def chosen(recipe: Recipe, epoch: int) -> list[int]:
        return [index for step in Tuning(lm, None, recipe, rare, dict).order(epoch) for index in step]

    for epoch in range(3):
        some = chosen(replace(recipe, clips=len(rare) // 2), epoch)
        assert len(set(some)) == len(some) == len(rare) // 2
        counts = Counter(rare[index].emotion for index in some)
        assert counts.pop("sad") == 3, "all of a tone that is rare"
        assert max(counts.values()) - min(counts.values()) <= 1
    assert sorted(chosen(replace(recipe, clips=0), 0)) == list(range(len(rare)))


def test_one_cycle_rises_then_falls_along_a_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    for step in range(91):
        assert one_cycle(0.1 + step / 100) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        schedule.step()
    rising = [one_cycle(step / 100) for step in range(11)]
    assert rising == sorted(rising)
    assert 0 < rising[0] < 0.1


def adapter_of(fusion: str = "frames", **changes: Any) -> Adapter:
    sizes = {"speaker": 4, "width": 16, "heads": 2, "hidden": 32, **changes}
    torch.manual_seed(0)
    adapter = Adapter(AdapterConfig(6, 10, LABELS, 5, fusion=fusion, **sizes)).eval()  # type: ignore[arg-type]
    adapter.name_tones(torch.randn(len(LABELS), 10))
    return adapter


def test_attention_to_copies_of_one_key_is_a_broadcast() -> None:
    """As torch's own attention gives it, whatever the queries and keys are projected by."""
    fusion: Any = adapter_of("broadcast").fusion
    width, source = fusion.value.weight.shape
    attention = nn.MultiheadAttention(width, 4, kdim=source, vdim=source, batch_first=True)
    with torch.no_grad():
        attention.v_proj_weight.copy_(fusion.value.weight)
        attention.in_proj_bias[2 * width :] = fusion.value.bias
        attention.out_proj.load_state_dict(fusion.out.state_dict())
        frames, vector = torch.randn(3, 11, width), torch.randn(3, source)
        keys = fusion.norm(vector)[:, None].expand(-1, 7, -1)
        added, _ = attention(frames, keys, keys)
        torch.testing.assert_close(fusion(frames, vector), frames + added, rtol=0, atol=1e-5)
        alone, _ = attention(frames, keys[:, :1], keys[:, :1])
        torch.testing.assert_close(added, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_changes_nothing(fusion: str) -> None:
    adapter, draw = adapter_of(fusion), np.random.default_rng(0)
    clips = [
        {
            "semantic": draw.normal(size=(length, 6)),
            "emotion": draw.normal(size=(length // 2, 5)),
            "speaker": draw.normal(size=4),
        }
        for length in (37, 5, 90, 64)
    ]
    with torch.inference_mode():
        together = adapter(heard(clips, adapter.config))
        for row, clip in enumerate(clips):
            alone = adapter(heard([clip], adapter.config))
            assert alone.mask.all()
            torch.testing.assert_close(together.tokens[row][together.mask[row]], alone.tokens[0], rtol=0, atol=1e-5)
            for name in ("pooled", "emotions", "meaning"):
                torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[0], rtol=0, atol=1e-5)
    tokens = np.ceil(np.array([37, 5, 90, 64]) / 16) + (fusion == "prefix") + 1  # the tone token
    assert together.mask.sum(1).tolist() == tokens.tolist()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_last_token_names_the_tone(fusion: str) -> None:
    """The embeddings of the names, weighted by the estimate; without it, the tokens before are the same."""
    draw = np.random.default_rng(0)
    clips = [{"semantic": draw.normal(size=(n, 6)), "emotion": draw.normal(size=(9, 5))} for n in (37, 5, 64)]
    named, nameless = (adapter_of(fusion, speaker=None, tone_token=wanted) for wanted in (True, False))
    nameless.load_state_dict({name: value for name, value in named.state_dict().items() if name != "tones"})
    names = torch.randn(len(LABELS), 10)
    named.name_tones(names)
    with torch.inference_mode():
        found, before = (adapter(heard(clips, adapter.config)) for adapter in (named, nameless))
    likely = torch.exp(found.emotions) / torch.exp(found.emotions).sum(1, keepdim=True)
    for row in range(3):
        *tokens, last = found.tokens[row][found.mask[row]]
        torch.testing.assert_close(torch.stack(tokens), before.tokens[row][before.mask[row]])
        wanted = sum((share * name for share, name in zip(likely[row], names, strict=True)), torch.zeros(10))
        torch.testing.assert_close(last, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled, before.pooled)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_are_embedded_as_in_a_sentence(folder: Path, architecture: str) -> None:
    lm = languages.load(folder / architecture)
    table, ids = lm.model.get_input_embeddings().weight, lm.ids("You are angry")[len(lm.ids("You are")) :]
    torch.testing.assert_close(lm.named(["sad", "angry"])[1], torch.stack([table[i] for i in ids]).mean(0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_matrices_give_the_logits_of_peft(folder: Path, architecture: str) -> None:
    tuned, plain = (languages.load(folder / architecture) for _ in range(2))
    low_rank(tuned, 4, 12)
    torch.manual_seed(1)
    for name, value in tuned.model.named_parameters():
        if "lora_B" in name:
            value.data.normal_(std=0.3)
    found = stored.matrices(tuned.model)
    assert len(found) == 2 * sum("lora_B" in name for name, _ in tuned.model.named_parameters()) > 0
    ids = torch.tensor([tuned.ids(speechlm.SENTENCES[0])])
    with torch.inference_mode():
        before = plain.model(input_ids=ids).logits
        model = stored.Stored("words", SYSTEM, {"name": "toy"}, {}, None, {}, found, {})
        assert stored.merged(model, plain) is None
        wanted, given = tuned.model.eval()(input_ids=ids).logits, plain.model(input_ids=ids).logits
    torch.testing.assert_close(given, wanted, rtol=0, atol=2e-4)
    assert float((wanted - before).abs().max()) > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_padded_batch_has_the_loss_of_its_rows_as_transformers_computes_it(folder: Path, architecture: str) -> None:
    lm = languages.load(folder / architecture)
    torch.manual_seed(0)
    remarks = [torch.randn(length, lm.width) for length in (9, 2, 5)]
    contexts: list[list[Turn]] = [[], [Turn("user", "Hello."), Turn("assistant", "Hello!")], []]
    prompts = [lm.prompt("Be kind.", context) for context in contexts]
    answers = [[*lm.ids(text), lm.tokenizer.eos_token_id] for text in ("Yes.", "What happened to the dogs?", "No")]
    loss, counts = 0.0, [len(answer) for answer in answers]
    with torch.no_grad():
        for (before, after), remark, answer in zip(prompts, remarks, answers, strict=True):
            row = torch.cat([lm.embed(before), remark, lm.embed([*after, *answer])])[None]
            labels = torch.tensor([[-100] * (row.shape[1] - len(answer)) + answer])
            loss += float(lm.model(inputs_embeds=row, labels=labels).loss) * len(answer)
        together = lm.loss(lm.batch(prompts, remarks, answers))
    assert float(together) == pytest.approx(loss / sum(counts), rel=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_are_those_of_the_chat_template(folder: Path, architecture: str) -> None:
    lm = languages.load(folder / architecture)
    context = [Turn("user", "Hello."), Turn("assistant", "Hello! What is new?")]
    turns = [{"role": turn.role, "content": turn.content} for turn in context]
    turns.append({"role": "user", "content": speechlm.SENTENCES[1]})
    if architecture == "Mistral":  # its template has no instruction of its own
        turns[0]["content"] = f"Be kind.\n\n{turns[0]['content']}"
    else:
        turns.insert(0, {"role": "system", "content": "Be kind."})
    expected = lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    before, after = lm.prompt("Be kind.", context)
    assert lm.tokenizer.decode(before) + speechlm.SENTENCES[1] + lm.tokenizer.decode(after) == expected
    assert before.count(lm.tokenizer.bos_token_id) == (architecture == "Mistral")


def test_masks_hide_no_more_than_their_share() -> None:
    draw = np.random.default_rng(0)
    clip = {"semantic": np.ones((40, 20), np.float16), "emotion": np.ones((10, 5)), "speaker": np.ones(3)}
    shares = []
    for _ in range(200):
        hidden = masked(clip, 0.25, draw)
        assert hidden["speaker"].all()
        rows = (hidden["semantic"] == 0).all(1).sum()
        columns = (hidden["semantic"] == 0).all(0).sum()
        assert (hidden["semantic"] == 0).sum() == rows * 20 + columns * 40 - rows * columns
        shares.append((rows / 40, columns / 20))
    assert np.max(shares) <= 0.25
    assert np.min(np.mean(shares, axis=0)) > 0.08
    assert clip["semantic"].all(), "the clip itself is kept"
    assert masked(clip, 0.0, draw)["semantic"] is clip["semantic"]


def test_mixed_clips_stay_mostly_themselves() -> None:
    adapter, draw = adapter_of(), np.random.default_rng(3)
    clips = [
        {"semantic": np.full((8, 6), i), "emotion": np.full((8, 5), i), "speaker": np.full(4, i)} for i in range(4)
    ]
    batch, targets = heard(clips, adapter.config), torch.eye(4)
    found, labels = mixed(batch, targets, 0.4, draw)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    assert bool((labels.diagonal() >= 0.5).all())
    expected = labels @ torch.arange(4.0)
    assert found.speaker is not None
    assert found.emotion is not None
    for values in (found.semantic[:, 0, 0], found.emotion[:, 0, 0], found.speaker[:, 0]):
        torch.testing.assert_close(values, expected)
    assert mixed(batch, targets, 0.0, draw) == (batch, targets)


def test_an_epoch_hears_every_clip_once_and_weights_move_when_gradients_are_summed(folder: Path) -> None:
    lm = languages.load(folder / "Llama")
    low_rank(lm, 4, 4)
    clips = examples.read(folder / "dialogues", "train")
    recipe = replace(QUICK, hears="words", stages=(2,), clips=0, batch=8, accumulate=3)
    tuning = Tuning(lm, None, recipe, clips, lambda _: {})
    first, second = tuning.order(0), tuning.order(1)
    assert sorted(index for step in first for index in step) == [*range(72)]
    assert first != second
    assert first == tuning.order(0)
    assert first != Tuning(lm, None, replace(recipe, seed=1), clips, lambda _: {}).order(0)
    before = [value.detach().clone() for value in tuning.parameters]
    moved = []
    for _ in range(3):
        tuning.step()
        now = zip(before, tuning.parameters, strict=True)
        moved.append((tuning.settled, any(not torch.equal(old, new) for old, new in now)))
    assert moved == [(False, False), (False, False), (True, True)]


def test_statistics_are_those_of_all_frames(folder: Path) -> None:
    clips = [clip.load() for clip in examples.read(folder / "dialogues", "train")]
    found = examples.statistics(clips)
    for name in ("semantic", "emotion"):
        frames = np.concatenate([clip[name] for clip in clips]).astype(np.float64)
        np.testing.assert_allclose(found.mean[name], frames.mean(0), atol=1e-5)
        np.testing.assert_allclose(found.deviation[name], frames.std(0), rtol=1e-4)


def copied(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Dialogues whose rows are changed; their features stay where they are."""
    target.mkdir()
    for part in ("train", "dev", "test"):
        rows = [json.loads(line) for line in (source / f"{part}.jsonl").read_text("utf-8").splitlines()]
        for row in rows:
            row["features"] = row["features"] and os.path.relpath(source / row["features"], target)
            change(row)
        (target / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (target / "encoders.json").write_text((source / "encoders.json").read_text("utf-8"), "utf-8")
    return target


def test_dialogues_that_cannot_be_used_are_refused_at_once(run: Run, folder: Path, tmp_path: Path) -> None:
    source = folder / "dialogues"
    silent = copied(source, tmp_path / "silent", lambda row: row.update(features=None))
    with pytest.raises(CorpusError, match=r"has no features: run e2v dialogue prepare again with --semantic"):
        run(tmp_path / "model", QUICK, dialogues=silent)
    (silent / "encoders.json").unlink()
    with pytest.raises(CorpusError, match="which encoders its features are of: run e2v dialogue prepare"):
        run(tmp_path / "model", QUICK, dialogues=silent)
    (silent / "encoders.json").write_text("[]")
    with pytest.raises(CorpusError, match=r"encoders\.json: cannot be read"):
        run(tmp_path / "model", QUICK, dialogues=silent)
    run(tmp_path / "read", replace(QUICK, hears="words", stages=(2,), clips=4), dialogues=silent)  # needs none
    mute = copied(source, tmp_path / "mute", lambda _: None)
    (mute / "encoders.json").write_text(json.dumps(speechlm.encoders(speaker=False)))
    with pytest.raises(CorpusError, match="no speaker features: prepare them with --speaker"):
        run(tmp_path / "model", replace(QUICK, speaker=True), dialogues=mute)
    other = copied(source, tmp_path / "other", lambda row: row.update(emotion_label="bored"))
    with pytest.raises(CorpusError, match=r"train\.jsonl:1: .*emotion_label is none of angry"):
        run(tmp_path / "model", QUICK, dialogues=other)
    flat = copied(source, tmp_path / "flat", lambda row: row.update(emotion_label="sad"))
    with pytest.raises(CorpusError, match="all training clips have the same tone"):
        run(tmp_path / "model", QUICK, dialogues=flat)
    with pytest.raises(CorpusError, match="make it with e2v dialogue prepare"):
        run(tmp_path / "model", QUICK, dialogues=tmp_path / "nowhere")
    assert not (tmp_path / "model").exists()
    assert not [*tmp_path.glob(".*")]


def test_places_and_devices_that_cannot_be_used_are_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("all of it")
    with pytest.raises(TrainingError, match="more than a converted model"):
        run(tmp_path / "thesis", QUICK, restart=True)
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "all of it"
    with pytest.raises(CheckpointError, match="no language model can be loaded"):
        run(tmp_path / "model", QUICK, language=str(tmp_path / "thesis"))
    assert not [*tmp_path.glob(".*")], "nothing that another command would have to resume"
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeUnavailable, match="device cuda is not available"):
            train(folder / "dialogues", str(folder / "Llama"), tmp_path / "model", QUICK, device="cuda")
    with pytest.raises(RuntimeUnavailable, match="no training on numpy: use auto, cpu or cuda"):
        train(folder / "dialogues", str(folder / "Llama"), tmp_path / "model", QUICK, device="numpy")


def test_memory_that_a_gpu_lacks_is_one_line(run: Run, tmp_path: Path) -> None:
    def say(_: str) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(TrainingError, match="memory of the GPU is not enough: halve batch and double accumulate"):
        run(tmp_path / "model", QUICK, progress=Progress(say, SILENT.bar))


@pytest.mark.parametrize("change", [{"revision": 40 * "b"}, {"sha256": 64 * "b"}], ids=["hub", "folder"])
def test_a_language_model_that_has_changed_is_noticed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    def stop(line: str) -> None:
        if line.startswith("stage 1, epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "model", QUICK, progress=Progress(stop, SILENT.bar))
    plain = languages.load
    monkeypatch.setattr(languages, "load", lambda *args, **options: replace(plain(*args, **options), **change))
    with pytest.raises(TrainingError, match="has changed since this training began"):
        run(tmp_path / "model", QUICK)


def test_licenses_are_read_from_the_model_card(run: Run, folder: Path, tmp_path: Path) -> None:
    language = tmp_path / "language"
    speechlm.toy_language(language)
    (language / "README.md").write_text("---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n# Toy\n")
    recipe = replace(QUICK, hears="words", stages=(2,), clips=4)
    assert run(tmp_path / "model", recipe, language=str(language))["language"]["licence"] == "apache-2.0"
    assert run(tmp_path / "other", recipe)["language"]["licence"].startswith("unknown")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 3}, "unknown settings epochs: use hears, fusion"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": True}, "batch must be of type int"),
        ({"rate": "fast"}, "rate must be of type float"),
        ({"rate": float("nan")}, "rate is out of range"),
        ({"masked": 1.0}, "masked is out of range"),
        ({"fusion": "none"}, "fusion must be one of frames, broadcast, prefix"),
        ({"stages": [2, 1]}, "stages must be 1, 2 or both"),
        ({"stages": [[1]]}, "stages must be 1, 2 or both"),
        ({"hears": "words"}, "only stage 2 trains it"),
        ({"hears": "words", "stages": [2], "fusion": "prefix"}, "leave out --fusion, --without and --speaker"),
        ({"hears": "label", "stages": [2], "speaker": True}, "leave out --fusion, --without and --speaker"),
        ({"hears": "label", "stages": [2], "tone_token": False}, "leave out --fusion, --without and --speaker"),
        ({"width": 102}, "width must be a multiple of heads"),
    ],
    ids=str,
)
def test_recipes_that_train_nothing_are_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    with pytest.raises(TrainingError, match=f"recipe.json: .*{message}"):
        Recipe.read(tmp_path / "recipe.json")


def test_a_recipe_can_be_read_back_and_may_be_partial(tmp_path: Path) -> None:
    recipe = replace(QUICK, fusion="prefix", stages=(1,))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    (tmp_path / "recipe.json").write_text('{"rank": 64, "rate": 1}')
    assert Recipe.read(tmp_path / "recipe.json") == Recipe(rank=64, rate=1)
    (tmp_path / "recipe.json").write_text("rank: 64")
    with pytest.raises(TrainingError, match="no recipe can be read"):
        Recipe.read(tmp_path / "recipe.json")
    page = (Path(__file__).parents[1] / "docs" / "dialogue.md").read_text("utf-8")
    shown = [Recipe.from_dict(json.loads(text)) for text in re.findall(r"```json\n(\{[^`]*\"rank\"[^`]*)```", page)]
    assert shown, "the recipe for a GPU in the documentation is one"
    table = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", page, flags=re.MULTILINE)
    assert {name: json.loads(value) for name, value in table} == Recipe().to_dict()


def test_features_name_the_encoders_that_made_them(tmp_path: Path) -> None:
    rows = ["file,label,speaker,split,text"]
    for i, part in enumerate(("train", "dev", "test")):
        for label in ("sad", "happy"):
            noise = np.random.default_rng(len(rows)).normal(size=8000) / 9
            soundfile.write(tmp_path / f"{i}{label}.wav", noise, 16_000)
            rows.append(f"{i}{label}.wav,{label},ann{i},{part},Well well")
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "dialogues"
    command = ["dialogue", "prepare", "--corpus", f"csv={tmp_path / 'own.csv'}", "--out", str(out), "--offline"]
    semantic = [*command, "--semantic", "bundled", "--runtime", "numpy"]
    assert CliRunner().invoke(app, semantic, catch_exceptions=False).exit_code == 0
    found = features.encoders(out)
    _, about = load_encoders({"semantic": "bundled", "emotion": "bundled"}, runtime="numpy", offline=True)
    assert found == about
    assert found["speaker"] is None
    assert found["emotion"] is not None
    weights = Path(__file__).parents[1] / "weights" / "bundled" / "model.safetensors"
    assert found["emotion"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0  # rows without features
    with pytest.raises(CorpusError, match="does not say which encoders"):
        features.encoders(out)
    with pytest.raises(E2VError, match="semantic"):
        load_encoders({"semantic": None, "emotion": "bundled"}, runtime="numpy", offline=True)
