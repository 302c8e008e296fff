"""What a phone reads off the paper."""

from __future__ import annotations

import io

import pytest
import typst
import zxingcpp
from PIL import Image

from billhook.documents.qr import qr_svg

ADDRESS = "https://pay.example.com/i/acct_1ABCDEFGHIJKLMNO/live_YWNjdF8xQUJDREVGR0hJSktMTU5P?s=ap"


@pytest.mark.parametrize("text", [ADDRESS, "https://a.example/ü?q=日本", "https://a.example/" + "x" * 480])
def test_a_reader_finds_the_address_in_the_picture(text: str) -> None:
    page = b"#set page(width: 60mm, height: 60mm)\n#image(bytes(sys.inputs.svg), width: 40mm)"
    drawn = typst.compile(page, format="png", ppi=200.0, sys_inputs={"svg": qr_svg(text)})
    assert isinstance(drawn, bytes)
    (code,) = zxingcpp.read_barcodes(Image.open(io.BytesIO(drawn)))
    assert code.text == text


def test_what_no_camera_could_read_is_no_code() -> None:
    assert qr_svg("https://a.example/" + "x" * 500) == ""
