"""The frames of `skein.1`: envelopes in text, and messages of bytes. Numbers are rules."""

import json
from typing import Any

NOTHING: Any = object()  # Absent data, which is not null (5.8).
KINDS = """topic reply cancel subscribe unsubscribe publish presence hello auth ping pong goaway
    dropped gap skip unsubscribed ack renew expects""".split()  # In the order of table 5.2.


def encode(envelope: dict[str, Any], data: Any = NOTHING) -> str | bytes:
    """Makes one frame of an envelope: binary (4.1) where the data is bytes."""
    is_text = not isinstance(data, bytes)
    whole = {**envelope, "data": data} if is_text and data is not NOTHING else envelope
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if is_text:
        return text
    head = text.encode()
    width = next(width for width in (1, 2, 4) if len(head) < 1 << 8 * width - 2)
    return b"@S" + (len(head) | width >> 1 << 8 * width - 2).to_bytes(width, "big") + head + data


def decode(frame: str | bytes) -> list[dict[str, Any]]:
    """Takes a frame apart; ignores what cannot be read (6.10), and records of streams (4.4)."""
    heads: list[str | bytes] = frame.split("\n") if isinstance(frame, str) else []
    envelopes, data = [], {}
    if isinstance(frame, bytes) and frame[:2] == b"@S" and frame[2:]:
        width = 1 << (frame[2] >> 6)
        end = 2 + width + (int.from_bytes(frame[2 : 2 + width], "big") & (1 << 8 * width - 2) - 1)
        heads, data = [frame[2 + width : end]] if width < 8 else [], {"data": frame[end:]}
    for head in heads:
        try:
            envelopes.append({**json.loads(head, parse_constant=int), **data})
        except (ValueError, TypeError, RecursionError):
            pass
    return envelopes


def kind_of(envelope: dict[str, Any]) -> tuple[str, Any]:
    """Returns the first known key, which says the kind (5.1), and its value."""
    kind = next((kind for kind in KINDS if kind in envelope), "")
    kind = "dropped" if kind == "topic" and "dropped" in envelope else kind
    return kind, envelope.get(kind)


def size(frame: str | bytes) -> int:
    return len(frame.encode() if isinstance(frame, str) else frame)


def failure(code: str, message: str = "") -> dict[str, str]:
    return {"code": code, "message": message or code}
