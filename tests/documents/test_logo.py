"""A logo is looked at before it is kept, however it was made."""

from __future__ import annotations

import contextlib
import hashlib
import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from billhook.documents.logo import LARGEST_LOGO, LARGEST_SIDE, checked_logo
from billhook.documents.typst import Picture, RenderRequest, TypstRenderer
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import FIXED_DATE
from billhook.errors import Refused
from billhook_testing import samples


def picture(media: str = "PNG", size: tuple[int, int] = (20, 10), mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, size).save(content, media)
    return content.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A file of a few bytes that says it is a picture of this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("media", "media_type", "ending"), [("PNG", "image/png", "png"), ("JPEG", "image/jpeg", "jpg")]
)
def test_a_picture_is_named_by_what_is_in_it(media: str, media_type: str, ending: str) -> None:
    content = picture(media)
    logo, kept = checked_logo(content)
    assert kept == content
    digest = hashlib.sha256(content).hexdigest()
    assert (logo.media_type, logo.width, logo.height, logo.sha256) == (media_type, 20, 10, digest)
    assert logo.key == f"logos/{digest[:2]}/{digest[2:]}.{ending}"


def test_a_logo_in_the_colours_of_a_press_can_stand_on_an_e_invoice() -> None:
    logo, kept = checked_logo(picture("JPEG", (40, 20), "CMYK"))
    with Image.open(io.BytesIO(kept)) as converted:
        assert (converted.mode, converted.size, converted.info.get("icc_profile")) == ("RGB", (40, 20), None)
    assert logo.sha256 == hashlib.sha256(kept).hexdigest()
    made = samples.invoice(samples.terms(1))
    shape = Picture(logo.media_type, kept, logo.width, logo.height)
    with contextlib.closing(TypstRenderer(seconds=60)) as renderer:
        [pdf] = renderer.render([RenderRequest(shown(made), made.dated or FIXED_DATE, shape, archival=True)])
    assert isinstance(pdf, bytes), pdf


def test_the_largest_is_taken_and_one_pixel_more_is_not() -> None:
    assert checked_logo(picture(size=(LARGEST_SIDE, 1)))[0].width == LARGEST_SIDE
    for size in ((LARGEST_SIDE + 1, 1), (1, LARGEST_SIDE + 1)):
        with pytest.raises(Refused, match="4000 pixels"):
            checked_logo(picture(size=size))


@pytest.mark.parametrize("side", [9_500, 20_000, 2**31 - 1])
def test_a_bomb_is_refused_by_what_its_head_says(side: int) -> None:
    with pytest.raises(Refused):
        checked_logo(png_of(side, side))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        picture("GIF"),
        picture("BMP"),
        picture("PNG")[:40],
        picture("JPEG", (200, 200))[:400],
        png_of(300, 300),
    ],
)
def test_what_is_no_whole_png_or_jpeg_is_refused(content: bytes) -> None:
    with pytest.raises(Refused, match="PNG or JPEG"):
        checked_logo(content)


def test_a_file_too_large_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(Refused, match="512 KiB"):
        checked_logo(picture() + bytes(LARGEST_LOGO))


@given(noise=st.binary(max_size=200), place=st.integers(0, 70))
def test_no_bytes_do_more_than_be_refused(noise: bytes, place: int) -> None:
    whole = picture()
    for content in (noise, whole[:place] + noise + whole[place:]):
        with contextlib.suppress(Refused):
            assert checked_logo(content)[0].width > 0
