"""The engine of the service: a process that holds the models, and whose messages belong to the log of the service."""

import asyncio
import logging
import os
import signal
import time
from typing import Any

import pytest

from e2v_port.service import engine
from e2v_port.service.engine import Engine

OPTIONS = {"model": None, "dimensional": None, "runtime": "cpu", "dtype": None, "labels": None, "offline": True}
LIMITS = {"speech_threshold": 0.5, "max_gain": 40.0, "speakers": None, "adapt": False, "emotion": True, "words": None}
LIMITS |= {"max_seconds": 60.0, "max_audio_seconds": 60.0, "engine_seconds": 60.0}
LIMITS |= {"roster": None, "only_enrolled": False, "speaker_model": "bundled-voices", "reply": None}


async def until(condition: Any) -> None:
    """Waits for something that another process does."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


def test_records_of_the_engine_and_its_death_are_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record keeps its logger and its level; the line about the license of a restricted model is one."""
    monkeypatch.delenv("E2V_LICENCE", raising=False)
    caplog.set_level(logging.INFO, "e2v_port")

    async def live_and_die() -> None:
        engine = Engine(OPTIONS | LIMITS | {"model": "bundled-tiny-nc"}, lambda clips, seconds: None)
        try:
            await engine.start()
            assert [model["name"] for model in engine.models] == ["bundled-tiny-nc"]
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            await until(lambda: engine.restarts == 1 and engine.ready)
        finally:
            await engine.close()

    asyncio.run(live_and_die())
    found = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert sum(name == "e2v_port.models.load" and "not for commercial use" in text for name, _, text in found) == 2
    died = ("e2v_port.service.engine", logging.ERROR, f"the engine died (exit code {-signal.SIGKILL}): restarting it")
    assert found.count(died) == 1


def test_a_restart_that_never_ends_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop_while_loading() -> None:
        instance = Engine(OPTIONS | LIMITS, lambda clips, seconds: None)
        try:
            await instance.start()
            monkeypatch.setattr(engine, "_LOADING", 3.0)
            first = instance.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda: instance.pid != first)
            assert instance.pid is not None
            os.kill(instance.pid, signal.SIGSTOP)
            await asyncio.sleep(1)  # until it is waited for
            monkeypatch.setattr(engine, "_LOADING", 60.0)
            await until(lambda: instance.restarts == 2 and instance.ready)
        finally:
            await instance.close()

    asyncio.run(stop_while_loading())
