"""Replies rewritten by a language model, for more variety than templates have: optional, and checked.

Any endpoint that speaks OpenAI's protocol of chat completions will do. It gets the written reply and the label of its
tone, and nothing else: no sound, no transcript, no speaker.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2v_port.dialogue.prepare import Dialogues
from e2v_port.errors import ChatError, CorpusError, cut, quoted
from e2v_port.files import lines
from e2v_port.llm.safety import checked

__all__ = ["FILE", "Chat", "distinct", "fault", "rewrite"]

FILE = "rewrites.jsonl"  # in the folder of the dialogues: one line per reply that was asked for
_TRIES = 4
_MOST = 1 << 20  # bytes of a response
_LATER = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses after which a second try may succeed
_LONGEST_WAIT = 60.0  # seconds that a server may ask to wait

_PROMPT = (
    "You rewrite the replies of a voice assistant. Each reply answers somebody whose tone of voice is given. Keep its "
    "meaning and its tone, and change its wording. Say how the voice sounds; never state as a fact what somebody feels "
    "or is. No diagnosis, no advice on health, no cause, no names, no quotation marks. One or two short sentences of "
    "plain English. Answer with the rewritten reply alone."
)


@dataclass(frozen=True)
class Chat:
    """A language model at an endpoint of OpenAI's protocol.

    Attributes:
        url: Address that `/chat/completions` is added to, such as `http://127.0.0.1:8080/v1`.
        model: Name of the model there.
        key: Sent as a bearer token; None for an endpoint without one.
        timeout: Seconds to wait for each answer.
        wait: Seconds before the second try; each further one waits twice as long.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    wait: float = 1.0

    def __post_init__(self) -> None:
        """Raises ChatError for an address that no request can be sent to, or a key that no header can hold."""
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
        except ValueError:  # of the port
            good = False
        if not good or parts.query or parts.fragment or not self.url.isascii() or not self.url.isprintable():
            raise ChatError(
                f"{quoted(self.url)} is no address of a language model: use one as http://127.0.0.1:8080/v1"
            )
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise ChatError("the key holds characters that no key has: copy it again")

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Returns the answer to a conversation; the model is asked for its most likely one.

        Args:
            messages: Turns with `role` and `content`.

        Raises:
            ChatError: There is no answer, after several tries where that can help.
        """
        body = {"model": self.model, "messages": [*messages], "temperature": 0, "max_tokens": 256}
        tries = 0
        while True:
            tries += 1
            try:
                status, after, text = self._post(json.dumps(body).encode())
            except (OSError, HTTPException) as error:
                status, after, text = None, None, str(error) or type(error).__name__
            if status == 200:
                return self._content(text)
            why = f"{self.url}: {text}" if status is None else f"{self.url} refused with status {status}: {cut(text)}"
            if tries == _TRIES or not (status is None or status in _LATER):
                raise ChatError(f"{why}: check the address, the model and the key, then run the command again")
            time.sleep(self.wait * 2 ** (tries - 1) if after is None else after)

    def _post(self, body: bytes) -> tuple[int, float | None, str]:
        """Returns status, seconds to wait if the server names them, and text. Follows no redirect: it holds a key."""
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout)
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.request("POST", f"{parts.path.rstrip('/')}/chat/completions", body, headers)
            response = connection.getresponse()
            text = response.read(_MOST).decode("utf-8", errors="replace")
            after = response.headers.get("Retry-After", "")
            return response.status, min(float(after), _LONGEST_WAIT) if after.isdecimal() else None, text
        finally:
            connection.close()

    def _content(self, text: str) -> str:
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
            if not isinstance(content, str):
                raise TypeError("no text")
        except (ValueError, LookupError, TypeError) as error:
            raise ChatError(f"{self.url}: not an answer of a chat completion: {cut(text, 120)}") from error
        return content


def rewrite(dialogues: Dialogues, chat: Chat, folder: Path, step: Callable[[], None] = lambda: None) -> Dialogues:
    """Returns dialogues with replies that a language model has rewritten.

    Each distinct reply is asked for once. What was asked for is kept in `rewrites.jsonl`, so that an interrupted run is
    resumed. Where an answer breaks a rule (see `fault`), the original reply stays.

    Args:
        dialogues: The dialogues, with replies as they were written.
        chat: The language model.
        folder: Folder of the dialogues.
        step: Called after each distinct reply.

    Raises:
        ChatError: The model does not answer; what it has answered is kept.
        CorpusError: `rewrites.jsonl` is damaged.
        OSError: The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    known = _read(file)
    asked = distinct(dialogues)
    with file.open("a", encoding="utf-8", newline="\n") as log:
        for label, text in asked:
            if (chat.model, label, text) not in known:
                answer = chat.ask(_messages(label, text)).replace("’", "'")
                answer = " ".join(answer.split()).strip("\"'“” ")
                why = fault(text, answer)
                row = {"model": chat.model, "label": label, "reply": text, "rewritten": answer, "why": why}
                log.write(json.dumps(row, ensure_ascii=False) + "\n")
                log.flush()
                known[chat.model, label, text] = text if why else answer
            step()
    parts = {
        part: [replace(each, reply=known[chat.model, str(each.clip.label), each.reply]) for each in remarks]
        for part, remarks in dialogues.parts.items()
    }
    notes = dialogues.notes
    if kept := sum(known[chat.model, label, text] == text for label, text in asked):
        why = f"what {chat.model} answered broke a rule, see {FILE}"
        notes += (f"{kept} of {len(asked)} distinct replies not rewritten: {why}",)
    return replace(dialogues, parts=parts, notes=notes, rewriter=chat.model)


def distinct(dialogues: Dialogues) -> list[tuple[str, str]]:
    """Returns each label with each of its replies, once, in the order of the rows."""
    pairs = ((str(each.clip.label), each.reply) for remarks in dialogues.parts.values() for each in remarks)
    return list(dict.fromkeys(pairs))


def fault(text: str, answer: str) -> str | None:
    """Returns why a rewritten reply cannot be used; None if it can.

    Whether the tone has survived is not judged.

    Args:
        text: The reply as it was written.
        answer: The rewritten one, on one line.
    """
    words = len(answer.split())
    if not 3 <= words <= 2 * len(text.split()) + 4:
        return "length"
    if answer[-1] not in ".?!" or not answer.isprintable() or not answer.isascii():
        return "no plain sentence"
    return checked(answer).why


def _messages(label: str, text: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": _PROMPT},
        {"role": "user", "content": f"Tone of voice: {label}\nReply: {text}"},
    ]


def _read(file: Path) -> dict[tuple[str, str, str], str]:
    """Returns the replies to use by model, label and reply; the last line is cut off if its writer was killed."""
    if not file.is_file():
        return {}
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        with file.open("r+b") as torn:
            torn.truncate(len(whole))
    found: dict[tuple[str, str, str], str] = {}
    for number, line in enumerate(lines(whole.decode("utf-8", errors="replace")), 1):
        try:
            row: dict[str, Any] = json.loads(line)
            text = row["reply"] if row["why"] else row["rewritten"]
            found[row["model"], row["label"], row["reply"]] = text
        except (ValueError, LookupError, TypeError) as error:
            raise CorpusError(f"{file}:{number}: damaged ({error}): delete that line") from error
    return found
