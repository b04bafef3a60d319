"""One recording through LiteLLM, as an application that knows OpenAI's API alone would send it.

    python litellm_session.py BASE_URL FILE

Prints what it got as JSON. Started by test_clients.py with LiteLLM on the path.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import litellm
import openai

BASE, FILE = sys.argv[1:]
ASKED = {"model": "openai/whisper-1", "api_base": BASE, "api_key": "none"}


def transcribed(**options: object) -> dict[str, object]:
    """The answer as LiteLLM gives it."""
    with open(FILE, "rb") as file:
        answer = litellm.transcription(file=file, **ASKED, **options)
    return answer.model_dump()


def chatted() -> str:
    """The same recording in a chat, whose answer comes in parts."""
    audio = {"data": base64.b64encode(Path(FILE).read_bytes()).decode(), "format": "flac"}
    content = [{"type": "input_audio", "input_audio": audio}]
    parts = litellm.completion(
        messages=[{"role": "user", "content": content}], stream=True, **ASKED
    )
    return "".join(part.choices[0].delta.content or "" for part in parts)


def refused() -> dict[str, object]:
    """What an error becomes."""
    try:
        transcribed(language="Klingon")
    except openai.BadRequestError as error:  # which LiteLLM passes on
        return {"status": error.status_code, "message": error.message}
    return {}


print(
    json.dumps(
        {
            "json": transcribed(),
            "verbose": transcribed(
                response_format="verbose_json", timestamp_granularities=["segment"], temperature=0.2
            ),
            "chat": chatted(),
            "error": refused(),
        }
    )
)
