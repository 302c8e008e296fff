"""Objects added to a PDF, as the format means it to be done: at its end, with the old bytes as they are.

Reading the whole file and writing it anew takes longer than drawing it.
"""

from __future__ import annotations

import re
from typing import Final

_END: Final = re.compile(rb"trailer\s*<<(.*)>>\s*startxref\s+(\d+)\s+%%EOF\s*\Z", re.DOTALL)
_TABLE: Final = re.compile(rb"xref\s+0 (\d+) ?\r?\n")
_STREAM: Final = re.compile(rb"(<<.*?/Length (\d+).*?>>)\s*stream\r?\n", re.DOTALL)
_ENTRY: Final = 20
"""Bytes, of each object in the table."""


class NotReadable(ValueError):
    """A PDF that keeps its table of objects in another of the ways that there are."""


class PdfUpdate:
    """An update in the making. Raises `NotReadable`."""

    def __init__(self, pdf: bytes) -> None:
        self._pdf = pdf
        start = pdf.rfind(b"trailer")
        end = _END.match(pdf, start) if start >= 0 else None
        if end is None:
            raise NotReadable("no trailer at its end")
        self._trailer = end[1]
        self._table = int(end[2])
        head = _TABLE.match(pdf, self._table)
        if head is None:
            raise NotReadable("no plain table of its objects")
        self._entries = head.end()
        self._size = int(head[1])
        self._changed: dict[int, bytes] = {}
        self.root = self.reference(b"Root", self._trailer)

    def reference(self, name: bytes, of: bytes) -> int:
        """The number of the object that a dictionary refers to under a name."""
        found = re.search(rb"/%b (\d+) 0 R" % name, of)
        if found is None:
            raise NotReadable(f"no /{name.decode()}")
        return int(found[1])

    def dictionary(self, number: int) -> bytes:
        """An object that is a dictionary, as it is written."""
        start = self._start(number)
        return self._pdf[start : self._pdf.index(b"endobj", start)].strip()

    def stream(self, number: int) -> bytes:
        """What is in a stream that has no filter."""
        start = self._start(number)
        head = _STREAM.match(self._pdf, start)
        if head is None or b"/Filter" in head[1]:
            raise NotReadable(f"object {number} is no plain stream")
        return self._pdf[head.end() : head.end() + int(head[2])]

    def _start(self, number: int) -> int:
        entry = self._entries + number * _ENTRY
        offset = int(self._pdf[entry : entry + 10])
        head = b"%d 0 obj" % number
        if not 0 < number < self._size or not self._pdf.startswith(head, offset):
            raise NotReadable(f"object {number} is not where its table says")
        start = offset + len(head)
        while self._pdf[start : start + 1].isspace():
            start += 1
        return start

    def add(self, content: bytes) -> int:
        """A new object; returns its number."""
        number = self._size + sum(known >= self._size for known in self._changed)
        self._changed[number] = content
        return number

    def replace(self, number: int, content: bytes) -> None:
        self._changed[number] = content

    def written(self) -> bytes:
        """The file with all that was added and replaced."""
        file = bytearray(self._pdf)
        if not file.endswith(b"\n"):
            file += b"\n"
        table = bytearray(b"xref\n")
        for number, content in sorted(self._changed.items()):
            table += b"%d 1\n%010d 00000 n \n" % (number, len(file))
            file += b"%d 0 obj\n%b\nendobj\n" % (number, content)
        size = max(self._size, *(number + 1 for number in self._changed))
        trailer = re.sub(rb"/Size \d+", b"/Size %d" % size, self._trailer)
        at = len(file)
        return bytes(file + table + b"trailer\n<<%b/Prev %d>>\nstartxref\n%d\n%%%%EOF\n" % (trailer, self._table, at))


def stream(dictionary: bytes, content: bytes) -> bytes:
    """An object that is a stream; the dictionary is without its brackets and its length."""
    return b"<<%b/Length %d>>\nstream\n%b\nendstream" % (dictionary, len(content), content)
