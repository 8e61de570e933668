"""A speech language model in use: hears a remark, answers in words."""

import gc
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from e2v_port.audio import SAMPLING_RATE, Clip, Waveform, clip_name, load_sound
from e2v_port.audio.mix import check_rate
from e2v_port.errors import AudioError, CheckpointError, E2VError, RuntimeUnavailable, need, number, quoted
from e2v_port.files import printable
from e2v_port.host import own_settings
from e2v_port.llm.reply import Reply, Speaking, notes_on
from e2v_port.llm.safety import Sentences
from e2v_port.models import devices
from e2v_port.speech.detect import describe_level, detect

if TYPE_CHECKING:  # these import torch
    from torch import Tensor

    from e2v_port.llm.adapter import Adapter
    from e2v_port.llm.encoders import Encoders
    from e2v_port.llm.language import Chance, Language, Turn
    from e2v_port.llm.stored import Stored
    from e2v_port.models.model import Model

__all__ = ["DTYPES", "HOTTEST", "LONGEST", "SpeechLM", "answers", "placed"]

LONGEST = 30.0
"""Seconds that a remark may last: what a Whisper encoder hears at once."""

HOTTEST = 2.0
"""Highest temperature, as in OpenAI's interface."""

DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
_DEVICES = ("cpu", "cuda", "mps")
_MOST_TOKENS = 1000


class SpeechLM:
    """A speech language model: hears how and what somebody says, and answers in words.

    Answers are the most likely words, without chance, unless a temperature is asked for: the same recording has the
    same answer. May be used from several threads at once, and in a `with` statement, which closes it at the end.

    Attributes:
        stored: Content of its folder.
        dtype: Type of the weights of the language model.
        load_seconds: Seconds that loading took.
    """

    def __init__(
        self, stored: "Stored", language: "Language", adapter: "Adapter | None", encoders: "Encoders | None", dtype: str
    ) -> None:
        self.stored, self.dtype = stored, dtype
        self.load_seconds = 0.0
        self._parts: tuple[Language, Adapter | None, Encoders | None] | None = (language, adapter, encoders)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        language: str | Path | None = None,
        runtime: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
    ) -> Self:
        """Loads a speech language model.

        Args:
            folder: Folder of `e2v dialogue train`.
            language: Language model in place of the one that it names: its folder, or its file in the form GGUF. Only
                its shapes are checked here, so it must be the same model.
            runtime: Runtime of the encoders, as for `e2v_port.load`.
            device: Where the language model computes: `cpu`, `cuda`, `mps`, or `auto` for CUDA where there is one.
            dtype: Type of its weights: `float32`, `bfloat16`, `float16`; `int8` packs its linear layers at 8 bits, on
                the CPU; `auto` selects 16 bits on a GPU and float32 on the CPU.
            offline: Never open a connection; `E2V_OFFLINE=1` does the same.

        Raises:
            CheckpointError: The folder holds no speech language model, or one that is damaged; or its language model or
                its encoders are missing or others than those it was trained with.
            RuntimeUnavailable: torch or transformers is not installed, or a device is not there.
            E2VError: An encoder cannot be loaded, see `e2v_port.load`.
        """
        started = time.perf_counter()
        try:
            import torch  # noqa: F401 (both before anything is loaded)
            import transformers  # noqa: F401

            from e2v_port.llm import language as languages
            from e2v_port.llm.stored import merged, read
        except ModuleNotFoundError as error:
            if error.name not in {"torch", "transformers"}:
                raise
            raise RuntimeUnavailable(
                f'this needs {error.name}, which is not installed: pip install "e2v-port[reply]"'
            ) from error
        device, dtype = placed(device, dtype)
        stored = read(Path(folder))
        encoders = _encoders(folder, stored, runtime, offline) if stored.adapter else None
        name, revision = language or stored.language["name"], None
        if language is None and stored.language.get("revision"):
            revision = stored.language["revision"]
        elif not Path(name).exists():
            raise CheckpointError(
                f"{folder}: its language model is {printable(str(name))}, which is not there: name its folder with "
                "language= (--language)"
            )
        loaded = languages.load(name, revision=revision, device=device, dtype=dtype, offline=offline)
        adapter = merged(stored, loaded)
        if dtype == "int8":
            loaded.pack()
        found = cls(stored, loaded, adapter, encoders, dtype)
        found.load_seconds = time.perf_counter() - started
        return found

    def __repr__(self) -> str:
        return f"SpeechLM({self.stored.language['name']}, {self.dtype}{', closed' * self.closed})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def hears(self) -> str:
        """What it answers: `speech`; or, to compare with, `words` or words and `label`, as text."""
        return self.stored.hears

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._parts is None

    def close(self) -> None:
        """Frees its weights. Later calls raise E2VError; closing twice does nothing."""
        if self._parts is None:
            return
        language, _, encoders = self._parts
        self._parts = None
        for model in vars(encoders).values() if encoders else ():
            if model is not None:
                model.close()
        device = language.device.type
        del language
        gc.collect()
        devices.free(device)

    def __call__(
        self,
        audio: Clip,
        sampling_rate: int | None = None,
        *,
        context: "Sequence[Turn | Mapping[str, str]]" = (),
        words: str | None = None,
        channel: int | str = "mix",
        max_new_tokens: int = 60,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Reply:
        """Answers a remark.

        Args:
            audio: One remark of one voice, of up to 30 s: a path, a binary file object or an array of samples, as for
                `e2v_port.audio.load_audio`.
            sampling_rate: Sampling rate of an array, in Hz; files have their own.
            context: What was said before, oldest first: `role`, `user` or `assistant`, and `content`.
            words: What a recognizer has read in the remark, if any did: only to notice that it speaks of an emergency.
            channel: `mix`, `left`, `right` or a number from 1, as for `load_audio`.
            max_new_tokens: Most tokens of the answer, up to 1000.
            temperature: 0 for the most likely words. Up to 2: words are drawn, at 1 by the probabilities of the
                language model, and the same remark may have another answer each time.
            seed: Makes what is drawn repeatable.

        Raises:
            AudioError: The audio cannot be used, or is longer than 30 s.
            ValueError: The context is not in this form.
            E2VError: This model reads text, or is closed.
        """
        speaking = self.stream(
            audio,
            sampling_rate,
            context=context,
            words=words,
            channel=channel,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
        for _ in speaking:
            pass
        return speaking.reply

    def stream(
        self,
        audio: Clip,
        sampling_rate: int | None = None,
        *,
        context: "Sequence[Turn | Mapping[str, str]]" = (),
        words: str | None = None,
        channel: int | str = "mix",
        max_new_tokens: int = 60,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Speaking:
        """Answers a remark, sentence by sentence: what `__call__` returns whole, as it is made.

        Args and errors are those of `__call__`. The audio is read and encoded before this returns.
        """
        started = time.perf_counter()
        language, adapter, encoders = self._opened()
        if adapter is None or encoders is None:
            raise E2VError(f"this model hears {self.hears}, not speech: it is there to compare with, see replies()")
        if sampling_rate is not None:
            check_rate(sampling_rate)  # also for files, which ignore it: it may be a context out of place
        limit, chance = _limit(max_new_tokens), _chance(temperature, seed, 1)
        turns = _turns(context)
        sound = load_sound(audio, sampling_rate, channel)
        notes = [note.text for note in sound.notes]
        if (length := len(sound.waveform) / SAMPLING_RATE) > LONGEST:
            raise AudioError(
                f"{printable(clip_name(audio))}: lasts {length:.1f} s, and a remark {LONGEST:g} s at most: cut it out"
            )
        segments = [] if sound.silent else detect(sound.waveform)
        if all(segment.quality == "too_short" for segment in segments):
            heard = "too little speech to answer" if segments else "no speech found"
            return Speaking(None, [*notes, f"{heard}: record the voice again, and louder"], started=started)
        notes += [note.text for note in describe_level(sound.waveform, segments)]
        tone, remark = _heard(language, adapter, encoders, sound.waveform)
        tokens = _generated(language, [remark], [language.prompt(self.stored.system, turns)], limit, chance)
        return Speaking(tone, notes, tokens, language=language, words=words, limit=limit, started=started)

    def replies(
        self,
        remarks: Sequence[Mapping[str, Any] | str],
        contexts: "Sequence[Sequence[Turn | Mapping[str, str]]] | None" = None,
        max_new_tokens: int = 60,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Reply]:
        """Answers several remarks as one batch; the answers have no tone, and the time is that of all.

        Args:
            remarks: Features of each, as of `Encoders.of`; texts for a model that reads text.
            contexts: What was said before each, as for `__call__`; by default nothing.
            max_new_tokens: Most tokens of an answer, up to 1000.
            temperature: As for `__call__`; each remark has its own draws.
            seed: As for `__call__`.

        Raises:
            CheckpointError: The features are not those of the encoders of this model.
            ValueError: A context is not in the form of `__call__`.
            E2VError: Remarks are of the other kind, or the model is closed.
        """
        language, adapter, _ = self._opened()
        wanted: type = str if adapter is None else Mapping
        if not all(isinstance(remark, wanted) for remark in remarks):
            raise E2VError(f"this model hears {self.hears}: pass {'texts' if adapter is None else 'features'}")
        if contexts is not None and len(contexts) != len(remarks):
            raise ValueError(f"{len(contexts)} contexts do not fit {len(remarks)} remarks")
        if not remarks:
            return []
        turns = [_turns(context) for context in contexts] if contexts else None
        system, limit = self.stored.system, _limit(max_new_tokens)
        chance = _chance(temperature, seed, len(remarks))
        started = time.perf_counter()
        rows: list[list[int]] = [[] for _ in remarks]
        for step in answers(language, adapter, remarks, system=system, contexts=turns, limit=limit, chance=chance):
            for row, token in zip(rows, step, strict=True):
                if token is not None:
                    row.append(token)
        found = []
        for row in rows:
            sentences = Sentences()
            text = sentences.push(language.text(row)) + sentences.finish()
            notes = notes_on(sentences, len(row) == limit, limit)
            found.append(Reply(text, None, notes, {"total": time.perf_counter() - started}))
        return found

    def info(self) -> dict[str, Any]:
        """Returns what the model is: its parts and sizes, as JSON-compatible values.

        `memory_bytes` is the size of the weights of adapter and language model; the encoders come on top.
        """
        language, adapter, encoders = self._opened()
        models: dict[str, Model | None] = vars(encoders) if encoders else {}
        adapted = 0 if adapter is None else sum(4 * weights.numel() for weights in adapter.parameters())
        return {
            "hears": self.hears,
            "language": {**self.stored.language, "loaded": language.name, "commit": language.revision},
            "device": str(language.device),
            "dtype": self.dtype,
            "encoders": {kind: model and model.config.source.repository for kind, model in models.items()},
            "labels": [] if adapter is None else list(adapter.config.labels),
            "memory_bytes": language.memory + adapted,
            "load_seconds": self.load_seconds,
        }

    def _opened(self) -> "tuple[Language, Adapter | None, Encoders | None]":
        if self._parts is None:
            raise E2VError("the speech language model is closed: load it again")
        return self._parts


def answers(
    language: "Language",
    adapter: "Adapter | None",
    remarks: Sequence[Mapping[str, Any] | str],
    *,
    system: str,
    contexts: "Sequence[Sequence[Turn]] | None" = None,
    limit: int = 60,
    chance: "Chance | None" = None,
) -> Iterator[list[int | None]]:
    """Yields the next token of the answer to each remark, see `Language.answers`.

    Args:
        language: The language model, with what was trained merged in.
        adapter: Turns features into embeddings; None if remarks are texts.
        remarks: Features by encoder, or texts.
        system: Instruction.
        contexts: What was said before each; by default nothing.
        limit: Most tokens of an answer.
        chance: How words are drawn; None for the most likely ones.
    """
    import torch

    from e2v_port.llm.adapter import heard

    with torch.inference_mode():
        if adapter is None:
            embedded = [language.embed(language.ids(str(remark))) for remark in remarks]
        else:
            clips = [remark for remark in remarks if not isinstance(remark, str)]
            fused = adapter(heard(clips, adapter.config).to(language.device))
            embedded = [tokens[mask] for tokens, mask in zip(fused.tokens, fused.mask, strict=True)]
    prompts = [language.prompt(system, context) for context in contexts or [()] * len(remarks)]
    yield from _generated(language, embedded, prompts, limit, chance)


def _heard(
    language: "Language", adapter: "Adapter", encoders: "Encoders", waveform: Waveform
) -> "tuple[dict[str, float], Tensor]":
    """Returns the tone of a remark and its embeddings, [tokens, width]."""
    from e2v_port.llm.adapter import heard

    features = encoders.of(waveform)
    with own_settings(language.device.type):
        fused = adapter(heard([features], adapter.config).to(language.device))
        shares = fused.emotions[0].double().softmax(0).tolist()
        return dict(zip(adapter.config.labels, shares, strict=True)), fused.tokens[0][fused.mask[0]]


def _generated(
    language: "Language",
    remarks: "Sequence[Tensor]",
    prompts: Sequence[tuple[Sequence[int], Sequence[int]]],
    limit: int,
    chance: "Chance | None",
) -> Iterator[list[int | None]]:
    """Returns the tokens of the answers. A context that is too long is refused at once, before it takes memory."""
    import torch

    lengths = [len(before) + len(remark) + len(after) for (before, after), remark in zip(prompts, remarks, strict=True)]
    tokens = max(lengths) + limit
    if tokens > language.longest:
        raise E2VError(f"{tokens} tokens are more than {language.name} reads ({language.longest}): shorten the context")
    with torch.inference_mode():
        batch = language.batch(prompts, remarks)
    return language.answers(batch, limit, chance)


def _limit(tokens: int) -> int:
    need("max_new_tokens", tokens, int)
    return int(number("max_new_tokens", tokens, 1, _MOST_TOKENS))


def _chance(temperature: float, seed: int | None, rows: int) -> "Chance | None":
    """Returns how the words of the answers to some remarks are drawn; None for the most likely ones."""
    from e2v_port.llm.language import Chance

    need("temperature", temperature, int, float)
    need("seed", seed, int, None)
    if seed is not None:
        number("seed", seed, 0)
    draws = [np.random.default_rng(None if seed is None else (seed, row)) for row in range(rows)]
    return Chance.of(number("temperature", temperature, 0, HOTTEST), draws)


def _turns(context: "Sequence[Turn | Mapping[str, str]]") -> "list[Turn]":
    """Checks what was said before.

    Raises:
        ValueError: It is not in the form of `SpeechLM.__call__`.
    """
    from e2v_port.llm.language import Turn

    if isinstance(context, str | bytes | Mapping) or not isinstance(context, Sequence):
        raise ValueError(f"context must be a list of turns, not {quoted(context)}")
    found = []
    for turn in context:
        if isinstance(turn, Mapping) and turn.keys() == {"role", "content"}:
            turn = Turn(turn["role"], turn["content"])  # noqa: PLW2901
        if not isinstance(turn, Turn) or turn.role not in ("user", "assistant") or not _said(turn.content):
            raise ValueError(
                f'a turn of the context must be {{"role": "user" or "assistant", "content": text}}, not {quoted(turn)}'
            )
        found.append(replace(turn, content=turn.content.strip()))
    return found


def _said(content: object) -> bool:
    """Returns whether this is a text with something in it, of characters that a tokenizer reads."""
    return isinstance(content, str) and bool(content.strip()) and not re.search("[\ud800-\udfff]", content)


def placed(device: str, dtype: str) -> tuple[str, str]:
    """Returns the device and the type of the weights of the language model, as for `SpeechLM.load`.

    Raises:
        RuntimeUnavailable: They are unknown, not there, or do not fit each other.
    """
    if device not in {"auto", *_DEVICES}:
        raise RuntimeUnavailable(f"unknown device {quoted(device)}: use auto, {', '.join(_DEVICES)}")
    if dtype not in DTYPES:
        raise RuntimeUnavailable(f"unknown dtype {quoted(dtype)}: use {', '.join(DTYPES)}")
    if device == "auto":
        device = "cpu" if devices.unavailable("cuda") or dtype == "int8" else "cuda"
    device = devices.choose(device)
    if dtype == "int8" and device != "cpu":
        raise RuntimeUnavailable(f"int8 is for the CPU, not for {device}: use float16")
    if dtype == "auto":  # a CPU gives tokens one at a time no faster in 16 bits, even one with instructions for them
        dtype = "float32" if device == "cpu" else devices.fastest_dtype(device)
    return device, dtype


def _encoders(folder: str | Path, stored: "Stored", runtime: str, offline: bool) -> "Encoders":
    """Loads the encoders that a model was trained with, and checks that they are the same."""
    from e2v_port.llm.encoders import load

    about = {kind: dict(found) for kind, found in stored.encoders.items() if found}
    encoders, loaded = load({kind: found["name"] for kind, found in about.items()}, runtime=runtime, offline=offline)
    for kind, found in about.items():
        here = (loaded[kind] or {}).get("sha256")
        if here != found.get("sha256", here):
            raise CheckpointError(
                f"{folder}: was trained with other weights of {found['name']} (sha256 {found['sha256'][:12]}..., here "
                f"{str(here)[:12]}...): put those back, or train again with these"
            )
    return encoders
