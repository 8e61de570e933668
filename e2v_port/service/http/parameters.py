"""Parameters that several routes share."""

from typing import Annotated, TypeAlias

from fastapi import Depends, Query, Request

from e2v_port.service.state import Service

__all__ = ["CHANNEL", "Channel", "ClipSpeaker", "Language", "Shared"]

CHANNEL = "mix|left|right|[1-9][0-9]?"


async def _shared(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Shared: TypeAlias = Annotated[Service, Depends(_shared)]
Channel: TypeAlias = Annotated[
    str, Query(pattern=f"^({CHANNEL})$", description="Channel to use: `mix`, `left`, `right` or a number from 1.")
]
ClipSpeaker: TypeAlias = Annotated[str | None, Query(max_length=200, description="Speaker of the whole clip.")]
Language: TypeAlias = Annotated[
    str | None, Query(max_length=20, description="Language of the words, such as `en`; by default it is detected.")
]
