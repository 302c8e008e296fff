"""As much of HTTP/1.1 as the generator and the receiver need: where one message with a Content-Length ends."""

from __future__ import annotations

_LENGTH = b"\r\ncontent-length:"


def end_of_message(data: bytes) -> int:
    """The length of the first whole message in `data`; -1 while it is not all there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return -1
    head = data[:end].lower()
    at = head.find(_LENGTH)
    if at < 0:
        return end + 4
    line_end = head.find(b"\r\n", at + 2)
    length = int(head[at + len(_LENGTH) : line_end if line_end > 0 else end])
    whole = end + 4 + length
    return whole if len(data) >= whole else -1
