"""The metadata of a PDF/A (XMP) that carries a Factur-X invoice."""

from __future__ import annotations

from typing import Final

_PREFIXES: Final = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "pdfaid": "http://www.aiim.org/pdfa/ns/id/",
    "pdfaExtension": "http://www.aiim.org/pdfa/ns/extension/",
    "pdfaSchema": "http://www.aiim.org/pdfa/ns/schema#",
    "pdfaProperty": "http://www.aiim.org/pdfa/ns/property#",
    "fx": "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#",
}
_PACKET: Final = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>%b<?xpacket end="r"?>'

_PROPERTIES: Final = {
    "DocumentType": ("INVOICE", "INVOICE, also of a credit note"),
    "DocumentFileName": ("{filename}", "The name of the embedded XML document"),
    "Version": ("1.0", "The version of the standard the XML document is written by"),
    "ConformanceLevel": ("{level}", "The profile of the XML document"),
}
"""What Factur-X wants said (its annex on XMP), and what each means: PDF/A takes no property it is not told of."""

NO_ARCHIVE: Final = "an e-invoice needs a PDF/A-3 to be in, and this file does not say that it is one"


def with_facturx(xmp: bytes, filename: str, level: str) -> bytes:
    """The metadata, with that of Factur-X added: what the XML is called, and its profile. Raises
    ValueError unless it is that of a PDF/A-3."""
    # Only an e-invoice needs lxml, and it keeps the prefixes, which the standard library's parser forgets.
    from lxml import etree

    root = etree.fromstring(xmp, etree.XMLParser(resolve_entities=False, no_network=True))
    if root.findtext(".//pdfaid:part", namespaces=_PREFIXES) != "3":
        raise ValueError(NO_ARCHIVE)
    rdf = root.find("rdf:RDF", _PREFIXES)

    def add(parent: etree._Element, name: str, text: str | None = None, **attributes: str) -> etree._Element:
        element = etree.SubElement(parent, _qualified(name), nsmap={p: _PREFIXES[p] for p in (name.partition(":")[0],)})
        element.text = text
        for attribute, value in attributes.items():
            element.set(_qualified(f"rdf:{attribute}"), value)
        return element

    # There may be one list of schemas only, and the engine has begun one for what it says itself.
    schemas = root.find(".//pdfaExtension:schemas/rdf:Bag", _PREFIXES)
    if schemas is None:
        schemas = add(add(add(rdf, "rdf:Description", about=""), "pdfaExtension:schemas"), "rdf:Bag")
    schema = add(schemas, "rdf:li", parseType="Resource")
    add(schema, "pdfaSchema:schema", "Factur-X PDFA Extension Schema")
    add(schema, "pdfaSchema:namespaceURI", _PREFIXES["fx"])
    add(schema, "pdfaSchema:prefix", "fx")
    properties = add(add(schema, "pdfaSchema:property"), "rdf:Seq")
    facts = add(rdf, "rdf:Description", about="")
    for name, (value, meaning) in _PROPERTIES.items():
        described = add(properties, "rdf:li", parseType="Resource")
        add(described, "pdfaProperty:name", name)
        add(described, "pdfaProperty:valueType", "Text")
        add(described, "pdfaProperty:category", "external")
        add(described, "pdfaProperty:description", meaning)
        add(facts, f"fx:{name}", value.format(filename=filename, level=level))
    written: bytes = etree.tostring(root, encoding="UTF-8")
    return _PACKET % written


def _qualified(name: str) -> str:
    prefix, _, local = name.partition(":")
    return f"{{{_PREFIXES[prefix]}}}{local}"
