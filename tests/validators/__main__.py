"""`make validate`: what billhook draws and writes, before the validators that the other side may use.

veraPDF for PDF/A-3b and PDF/UA-1, the CEN's rules of EN 16931, those of ZUGFeRD 2.4 and XRechnung, and Mustang. They
are written in Java and come by Maven; the suite has what can be checked without (`tests/documents/test_facturx.py`).
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from billhook.documents.einvoice.facturx import embed, facturx_xml
from billhook.documents.typst import RenderRequest, TypstRenderer
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import FIXED_DATE
from billhook.rules.document import Snapshot
from tests.validators.e_samples import e_invoices, others


def main(place: Path) -> int:
    maven = shutil.which("mvn")
    if maven is None or shutil.which("java") is None:
        print("Validators need Java 17 or later and Maven: on Debian, apt-get install openjdk-17-jdk-headless maven.")
        return 1
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with contextlib.closing(TypstRenderer()) as renderer:
        for name, content in files(renderer):
            (place / name).write_bytes(content)
    project = Path(__file__).with_name("pom.xml")
    failed = 0
    for validators in ("archive", "rules", "mustang"):
        # A JVM of its own, for what they load looks for more by its class loader.
        program = {"exec.executable": "java", "exec.args": f"-cp %classpath Validate {place.absolute()}"}
        names = {"of": validators, "build.place": f"{place.absolute()}-java", **program}
        defined = [f"-D{name}={value}" for name, value in names.items()]
        command = [maven, "-q", "-B", "-f", str(project), *defined, "compile", "exec:exec"]
        failed |= subprocess.run(command, check=False).returncode
    return failed


def files(renderer: TypstRenderer) -> Iterator[tuple[str, bytes]]:
    for name, snapshot in e_invoices():
        xml = facturx_xml(snapshot)
        yield f"data-{name}.xml", xml
        yield f"data-{name}.pdf", embed(_drawn(renderer, snapshot, archival=True), xml, snapshot)
    for name, snapshot in others():
        yield f"{name}.pdf", _drawn(renderer, snapshot)


def _drawn(renderer: TypstRenderer, snapshot: Snapshot, *, archival: bool = False) -> bytes:
    request = RenderRequest(shown(snapshot), snapshot.dated or FIXED_DATE, archival=archival)
    [pdf] = renderer.render([request])
    if not isinstance(pdf, bytes):
        raise SystemExit(f"{snapshot.number} cannot be drawn: {pdf.reason}")
    return pdf


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "var/validate")))
