"""Settings of `e2v serve`, from options and the environment."""

import ipaddress
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from e2v_port.errors import ServiceError
from e2v_port.speech.segment import DEFAULTS

__all__ = ["Settings", "is_loopback"]


_PREFIX = "E2V_SERVE_"
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(\[[0-9a-fA-F:.]+\]|[^/?#@:\s*\[\]]+)(:[0-9]{1,5})?")  # no `*`


class Settings(BaseSettings):
    """Settings of the service. Each is also read from the environment, e.g. E2V_SERVE_PORT.

    Attributes:
        host: Address to listen on. Anything but a loopback address requires `token` or `insecure`.
        port: Port to listen on; 0 picks a free one.
        model: Model that gives labels, as for `e2v_port.load`. Also read from E2V_MODEL.
        dimensional: Model that measures arousal, dominance and valence.
        runtime: Runtime of both models, as for `e2v_port.load`.
        dtype: Precision of the weights, as for `e2v_port.load`.
        labels: Labels that the answers of `model` are limited to, separated by commas, as for `Model.limited`; by
            default all of them.
        words: Recognizer that reads words where a request asks for them: a Whisper model or its folder, as for
            `e2v_port.analyze`. By default none does.
        reply: Folder of a speech language model, of `e2v dialogue train`, that answers remarks. Also read from
            E2V_REPLY. By default the service does not reply.
        offline: Never connect to a hub.
        token: Token that every request must carry.
        insecure: Allow another host than loopback without a token.
        allow_origin: Origins of web applications that may ask besides the service's own page, each exactly as a browser
            sends it, e.g. http://localhost:3000; in the environment, separated by commas. `*` is none of them: each
            page that the user of this machine opens could ask then.
        speakers: Enrolled speakers, separated by commas. No other voice reaches a model. Without `roster`, requests say
            who speaks.
        roster: File of enrolled voices, of `e2v enroll`. Whose voice it is then decides, not what requests say.
        only_enrolled: Judge the voices of `roster` alone; `speakers` limits them further.
        speaker_model: Speaker encoder that the voices of `roster` were enrolled with.
        adapt: Adapt to each named speaker, from what was heard of that speaker since the service started. Needs a model
            with means of its labels: see docs/adaptation.md.
        emotion: Whether emotion analysis is on at the start; by default as last set in the history, otherwise on.
        history: SQLite file that stores judged segments; nothing is stored by default.
        history_days: Days after which stored segments are reduced to daily sums.
        history_aggregate_days: Days after which daily sums are deleted; by default never.
        max_body: Largest request body in MB, at most 64: decoding keeps that much in memory, so that no audio ever
            reaches a disk.
        max_seconds: Longest clip, in seconds.
        speech_threshold: Probability at which speech starts, as in `SegmentSettings`.
        max_gain: Most that quiet sound is raised to find speech in it, in dB, as in `SegmentSettings`.
        max_audio_seconds: Most audio judged for one request, in seconds: the sum of its segments, which overlap where
            several people speak. At least `max_seconds`; by default twice that, as if two people spoke all the time.
        max_requests: Requests that run or wait at a time. With 500 of them, the last is still answered in seconds.
        max_held: Request bodies in memory at a time, in MB.
        max_streams: WebSockets open at a time.
        max_connections: Connections open at a time, WebSockets included.
        engine_seconds: Time within which the process that holds the models must make progress; without any, it is
            restarted. All of its work but models, 32 clips of 10 minutes at a time, took 7 s on two cores.
        head_seconds: Time for the headers of a request, in seconds.
        idle_seconds: Longest pause within a request body, in seconds.
        body_seconds: Time for a whole request body, in seconds.
        drain_seconds: Time for running requests to finish after SIGTERM, in seconds.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, populate_by_name=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(9101, ge=0, le=65535)
    model: str | None = Field(None, validation_alias=AliasChoices("E2V_SERVE_MODEL", "E2V_MODEL"))
    dimensional: str | None = None
    runtime: str = "auto"
    dtype: str | None = None
    labels: str | None = None
    words: str | None = None
    reply: Path | None = Field(None, validation_alias=AliasChoices("E2V_SERVE_REPLY", "E2V_REPLY"))
    offline: bool = False
    token: SecretStr | None = Field(None, min_length=1)
    insecure: bool = False
    allow_origin: Annotated[tuple[str, ...], NoDecode] = ()
    speakers: str | None = None
    roster: Path | None = None
    only_enrolled: bool = False
    speaker_model: str = "bundled-voices"
    adapt: bool = False
    emotion: bool | None = None
    history: Path | None = None
    history_days: float = Field(90, gt=0)
    history_aggregate_days: float | None = Field(None, gt=0)
    max_body: float = Field(64, gt=0, le=64)
    max_seconds: float = Field(3600, gt=0)
    speech_threshold: float = Field(DEFAULTS.speech_threshold, gt=0, lt=1)
    max_gain: float = Field(DEFAULTS.max_gain, ge=0, le=60)
    max_audio_seconds: float = Field(7200, gt=0)
    max_requests: int = Field(128, ge=1)
    max_held: float = Field(512, gt=0)
    max_streams: int = Field(16, ge=0)
    max_connections: int = Field(1000, ge=1)
    engine_seconds: float = Field(60, gt=0)
    head_seconds: float = Field(10, gt=0)
    idle_seconds: float = Field(10, gt=0)
    body_seconds: float = Field(120, gt=0)
    drain_seconds: float = Field(20, gt=0)

    @field_validator("allow_origin", mode="before")
    @classmethod
    def _origins(cls, given: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
        origins = [origin.strip() for origin in given.split(",")] if isinstance(given, str) else given
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError("an origin is a scheme, a host and a port, if any, as in http://localhost:3000")
        return tuple(origin.lower() for origin in origins)

    @field_validator("token")
    @classmethod
    def _sendable(cls, token: SecretStr | None) -> SecretStr | None:
        text = token.get_secret_value() if token else ""
        if not (text.isascii() and text.isprintable()):
            raise ValueError("an HTTP header holds printable ASCII only: choose another token")
        if text != text.strip():
            raise ValueError("an HTTP header loses blanks at its ends: remove them from the token")
        return token

    def check(self) -> None:
        """Raises ServiceError for unknown settings in the environment, contradicting ones, and an open service."""
        known = [f"{_PREFIX}{name}".upper() for name in Settings.model_fields]
        for name in os.environ:
            if name.upper().startswith(_PREFIX) and name.upper() not in known:
                near = get_close_matches(name.upper(), known, 1) or ["one of docs/service.md"]
                raise ServiceError(f"{name} in the environment is no setting of e2v serve: use {near[0]}, or unset it")
        if self.max_audio_seconds < self.max_seconds:
            raise ServiceError(
                f"--max-seconds {self.max_seconds:g} is more than --max-audio-seconds {self.max_audio_seconds:g}: "
                "raise that as well"
            )
        if self.only_enrolled and self.roster is None:
            raise ServiceError("--only-enrolled needs the file of the enrolled voices: add --roster (see e2v enroll)")
        if not (is_loopback(self.host) or self.token or self.insecure):
            raise ServiceError(
                f"--host {self.host} is reachable from other machines: set a --token, or allow everyone with --insecure"
            )

    @property
    def max_body_bytes(self) -> int:
        """Largest request body, in bytes."""
        return int(self.max_body * 1e6)

    @property
    def enrolled(self) -> list[str] | None:
        """Names of the enrolled speakers; None if every voice is analyzed."""
        return None if self.speakers is None else [name.strip() for name in self.speakers.split(",")]

    @property
    def plain_token(self) -> str | None:
        """The token as text."""
        return self.token.get_secret_value() if self.token else None


def is_loopback(host: str) -> bool:
    """Returns whether a host name or address means this machine, so that no other machine can reach it."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
