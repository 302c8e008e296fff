"""A merchant's logo, checked before it is stored: a broken one would fail in every document of theirs."""

from __future__ import annotations

import hashlib
import io
from threading import Lock
from typing import Final, Literal

from PIL import Image

from billhook.errors import Refused
from billhook.rules.document import Logo

LARGEST_LOGO: Final = 512 * 1024
"""Bytes. It is in every document, and in every mail that carries one."""

LARGEST_SIDE: Final = 4000
"""Pixels: 34 cm at 300 dpi. Decoded, such a picture takes 64 MB at most, however few bytes it came in."""

_MEDIA_TYPES: Final[dict[str | None, Literal["image/png", "image/jpeg"]]] = {"PNG": "image/png", "JPEG": "image/jpeg"}
_ENDINGS: Final = {"image/png": "png", "image/jpeg": "jpg"}

_one_at_a_time = Lock()
"""Uploads that come together must not take their 64 MB together."""


def checked_logo(content: bytes) -> tuple[Logo, bytes]:
    """The logo as settings hold it, with the key of the object store for its bytes, and those. A picture in the colours
    of a press is converted: a file for archives has one space of colours, and e-invoices could never be drawn with it.
    Raises `Refused`."""
    if len(content) > LARGEST_LOGO:
        raise Refused("logo_too_large", f"A logo may have at most {LARGEST_LOGO // 1024} KiB.")
    try:
        # The size is in the head of the file; nothing is decoded before it is known.
        with _one_at_a_time, Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            width, height = picture.size
            media_type = _MEDIA_TYPES[picture.format]
            if max(width, height) > LARGEST_SIDE:
                raise _too_many_pixels()
            picture.load()  # a file cut off in the middle would fail later, in every document
            if picture.mode == "CMYK":
                content = _in_rgb(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels() from None
    except Refused:
        raise
    except Exception:  # decoders raise many kinds of exceptions for broken files
        raise Refused("logo_invalid", "A logo must be a PNG or JPEG file; this is none, or it is damaged.") from None
    digest = hashlib.sha256(content).hexdigest()
    key = f"logos/{digest[:2]}/{digest[2:]}.{_ENDINGS[media_type]}"
    return Logo(media_type=media_type, key=key, sha256=digest, width=width, height=height), content


def _in_rgb(picture: Image.Image) -> bytes:
    converted = io.BytesIO()
    picture.convert("RGB").save(converted, "JPEG", quality=90)  # without the press's profile, which is of CMYK
    return converted.getvalue()


def _too_many_pixels() -> Refused:
    return Refused("logo_too_large", f"A logo may have at most {LARGEST_SIDE} pixels on each side.")
