"""Electronic invoices: Factur-X (ZUGFeRD 2) in the profile EN 16931, and the PDF that carries one.

The XML is attached to what the engine drew, and the engine's own metadata is kept and added to. The factur-x library
would write metadata of its own, which says that the file is PDF/A-3 whatever it is, and says the time of day in three
places.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from datetime import UTC
from typing import Final

from billhook.documents.einvoice.cii import cii
from billhook.documents.einvoice.pdf_update import NotReadable, PdfUpdate, stream
from billhook.documents.einvoice.xmp import NO_ARCHIVE, with_facturx
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
    filename, level = NAMES[snapshot.profile]
    try:
        update = PdfUpdate(pdf)
        catalog = update.dictionary(update.root)
        metadata = update.reference(b"Metadata", catalog)
        xmp = update.stream(metadata)
        if b"/Names" in catalog or b"/AF" in catalog:
            raise NotReadable("it has names or files of its own")
    except NotReadable as error:
        raise ValueError(f"{NO_ARCHIVE}: {error}") from error
    update.replace(metadata, stream(b"/Type/Metadata/Subtype/XML", with_facturx(xmp, filename, level)))
    digest = hashlib.md5(xml, usedforsecurity=False).hexdigest()
    about = f"/Params<</Size {len(xml)}/CheckSum<{digest}>{_modified(snapshot)}>>"
    kind = f"/Type/EmbeddedFile/Subtype/text#2Fxml{about}/Filter/FlateDecode"
    file = update.add(stream(kind.encode(), zlib.compress(xml)))
    # The same invoice once more, not just data about it (Factur-X, of all profiles that are invoices by themselves).
    attached = update.add(
        f"<</Type/Filespec/F({filename})/UF({filename})/Desc(Factur-X invoice)/AFRelationship/Alternative"
        f"/EF<</F {file} 0 R/UF {file} 0 R>>>>".encode()
    )
    names = f"/AF[{attached} 0 R]/Names<</EmbeddedFiles<</Names[({filename}){attached} 0 R]>>>>"
    update.replace(update.root, b"<<" + names.encode() + catalog.removeprefix(b"<<"))
    return update.written()


def _modified(snapshot: Snapshot) -> str:
    at = snapshot.dated
    return "" if at is None else f"/ModDate(D:{at.astimezone(UTC):%Y%m%d%H%M%S}Z)"
