"""A floor: Typst alone, with the template of billhook's look, over data that lie there as files.

`python -m bench.bare_typst FOLDER FIRST STEP NUMBER` draws every STEP-th of NUMBER documents, from FIRST on. It says
that it is warm, waits for a line, and ends when its files are written.
"""

from __future__ import annotations

import os
import shutil
import sys
from datetime import datetime
from pathlib import Path

DATED = datetime.fromisoformat("2026-03-01T22:57:12+00:00")


def main(folder: Path, first: int, step: int, number: int) -> None:
    os.environ["RAYON_NUM_THREADS"] = "1"  # as the product's, before Typst looks
    import typst

    from billhook.documents.typst_process import DOCUMENT, LOOK, MAIN, STANDARDS
    from billhook.documents.wkhtmltopdf import FONTS

    own = folder / f"process-{first}"
    own.mkdir()
    shutil.copy(folder / MAIN, own)
    compiler = typst.Compiler(own / MAIN, root=own, font_paths=[FONTS])

    def draw(place: int) -> bytes:
        for name in (DOCUMENT, LOOK):
            (own / name).write_bytes((folder / f"{place}.{name}").read_bytes())
        pdf = compiler.compile(format="pdf", pdf_standards=STANDARDS, timestamp=DATED)
        assert isinstance(pdf, bytes)
        return pdf

    draw(first)
    print("warm", flush=True)
    sys.stdin.readline()
    for place in range(first, number, step):
        (folder / f"{place}.pdf").write_bytes(draw(place))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
