"""Electronic invoices: Factur-X (ZUGFeRD 2) in the profile EN 16931, and the PDF that carries one.

The XML is attached to what the engine drew, and the engine's own metadata is kept and added to. The factur-x library
would write metadata of its own, which says that the file is PDF/A-3 whatever it is, and says the time of day in three
places.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Mapping
from typing import Final, cast

from billhook.documents.einvoice.cii import cii
from billhook.documents.einvoice.xmp import with_facturx
from billhook.rules.document import Profile, Snapshot
from billhook.rules.e_invoice import missing
from billhook.rules.en16931 import amounts

NAMES: Final[Mapping[Profile, tuple[str, str]]] = {
    "en16931": ("factur-x.xml", "EN 16931"),
    "xrechnung": ("xrechnung.xml", "XRECHNUNG"),
}
"""What the file is called, and its profile, as Factur-X and ZUGFeRD name them."""


def facturx_xml(snapshot: Snapshot) -> bytes:
    """An invoice or a credit note as Cross Industry Invoice XML. Equal snapshots give equal bytes.

    Raises ValueError with all that is `missing`.
    """
    if lacking := missing(snapshot):
        raise ValueError(f"no e-invoice can be made of {snapshot.number or 'this invoice'}: {'; '.join(lacking)}")
    return cii(snapshot, amounts(snapshot))


def embed(pdf: bytes, xml: bytes, snapshot: Snapshot) -> bytes:
    """A PDF/A-3 with the XML attached. Equal arguments give equal bytes.

    Raises ValueError for a PDF that does not say it is PDF/A-3; attaching something to it does not make it one.
    """
    # Only an e-invoice needs pypdf, which takes as long to import as the rest of billhook.
    from pypdf import PdfReader, PdfWriter
    from pypdf.generic import (
        ArrayObject,
        ByteStringObject,
        DictionaryObject,
        NameObject,
        NumberObject,
        TextStringObject,
    )

    filename, level = NAMES[snapshot.profile]
    reader = PdfReader(io.BytesIO(pdf))
    metadata = reader.root_object.get("/Metadata")
    xmp = with_facturx(metadata.get_object().get_data() if metadata else b"<x/>", filename, level)

    writer = PdfWriter(clone_from=reader)
    writer.pdf_header = reader.pdf_header
    writer.xmp_metadata = xmp
    attached = writer.add_attachment(filename, zlib.compress(xml))
    file = cast(DictionaryObject, cast(DictionaryObject, attached.pdf_object["/EF"])["/F"])
    file[NameObject("/Filter")] = NameObject("/FlateDecode")
    attached.alternative_name = TextStringObject(filename)
    attached.description = TextStringObject("Factur-X invoice")
    attached.subtype = NameObject("/text/xml")
    # The same invoice once more, not just data about it (Factur-X, of all profiles that are invoices by themselves).
    attached.associated_file_relationship = NameObject("/Alternative")
    attached.modification_date = snapshot.dated
    attached.size = NumberObject(len(xml))
    attached.checksum = ByteStringObject(hashlib.md5(xml, usedforsecurity=False).digest())
    writer.root_object[NameObject("/AF")] = ArrayObject([attached.pdf_object.indirect_reference])

    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()
