"""A server of the Model Context Protocol (pip install mcp) with one tool: the reply to a spoken remark.

python examples/mcp_reply.py MODEL

MODEL is a folder of `e2v dialogue train`. Clients start this program and talk to it over stdin and stdout. The tool
reads any audio file of the user who starts it. Tested with mcp 2.3.
"""

import base64
import io
import sys
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

import e2v_port

if len(sys.argv) != 2:
    sys.exit(__doc__)
model = e2v_port.SpeechLM.load(sys.argv[1])
server = MCPServer("e2v-port")


@server.tool()
def speech_reply(
    path: str | None = None, audio: str | None = None, context: list[dict[str, str]] | None = None
) -> dict[str, Any]:
    """Replies to a spoken remark of up to 30 s, by its words and its tone of voice.

    Both are estimates of a small program, and are often wrong: do not diagnose, and do not tell people what they feel.

    Args:
        path: Audio file; or leave it out and pass `audio`.
        audio: The content of an audio file, such as WAV, in base64.
        context: What was said before, oldest first: `role`, `user` or `assistant`, and `content`.

    Returns:
        `text`, the reply; `tone`, the probability of each tone of voice; `notes`; `seconds` that it took.
    """
    if (path is None) == (audio is None):
        raise ToolError("pass either path or audio")
    try:
        clip = path if audio is None else io.BytesIO(base64.b64decode(audio))
        return model(clip, context=context or []).to_dict()
    except (e2v_port.E2VError, ValueError) as error:
        raise ToolError(str(error)) from error


server.run()  # stdio
