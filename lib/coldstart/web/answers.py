"""Answers that are packed where the browser takes that, and not sent again where it has them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

SMALL_BYTES = 1024
"""What is smaller travels in one packet anyway."""
LEVEL = 5
ASK_AGAIN = "private, no-cache"


def answer_json(request: Request, content: BaseModel | dict[str, Any]) -> Response:
    """Answer with JSON."""
    text = content.model_dump_json() if isinstance(content, BaseModel) else json.dumps(content, separators=(",", ":"))
    return answer_bytes(request, text.encode(), "application/json")


def answer_bytes(
    request: Request,
    content: bytes,
    media_type: str,
    *,
    packed: bytes | None = None,
    tag: str | None = None,
    cache: str = ASK_AGAIN,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with bytes; `packed` are the same by gzip, where that was done before, and `tag` names their version."""
    tag = f'W/"{tag or hashlib.blake2b(content, digest_size=12).hexdigest()}"'
    headers = {"Cache-Control": cache, "ETag": tag, "Vary": "Accept-Encoding", **(headers or {})}
    if tag in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    if len(content) > SMALL_BYTES and takes_gzip(request):
        content = packed if packed is not None else gzip.compress(content, LEVEL)
        headers["Content-Encoding"] = "gzip"
    return Response(content, media_type=media_type, headers=headers)


def takes_gzip(request: Request) -> bool:
    """Whether whoever asks unpacks gzip."""
    return "gzip" in request.headers.get("Accept-Encoding", "").lower()
