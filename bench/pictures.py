"""`make pictures`: the console with the demo's data in it, as it is shown in the README, into docs/pictures/.

The product is started in a directory of its own and the demo played through it; the pictures are of the real pages.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from billhook.runtime.health import wait_until_ready
from billhook.runtime.service import service_names
from billhook.runtime.settings import read_settings

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
COLOURS = 255
"""A page has few: with so many a picture is a third of the size, and nobody sees it."""


def free_ports(names: list[str]) -> dict[str, str]:
    """A port for each service, all held until all are known, so that no two are the same."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {f"BILLHOOK_{name.upper()}_PORT": str(one.getsockname()[1]) for name, one in zip(names, held, strict=True)}
    for one in held:
        one.close()
    return ports


def keep(page: Page, name: str) -> None:
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    path = PICTURES / f"{name}.png"
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {path.stat().st_size // 1024} KiB")


def shoot(browser: Browser, desk: str, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "billhook.cli.main", "operators", "sign-in", "--json"]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    context = browser.new_context(viewport={"width": 1280, "height": 860}, locale="en-GB", timezone_id="Europe/Berlin")
    page = context.new_page()
    page.goto(json.loads(printed)["url"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{desk}/")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(desk)
        keep(page, f"overview-{scheme}")
    page.emulate_media(color_scheme="light")
    page.goto(f"{desk}/events?type=invoice.paid&state=processed")
    page.locator("table.rows tbody a").first.click()
    page.wait_for_url(f"{desk}/events/evt_*")
    # A screen as high as the page: what is within the frame is not drawn where a picture reaches beyond the screen.
    height = int(page.evaluate("document.documentElement.scrollHeight"))
    page.set_viewport_size({"width": 1280, "height": height})
    page.wait_for_timeout(6000)  # the browser's own viewer draws the PDF, and tells nobody when
    keep(page, "event")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(desk)
    keep(page, "overview-phone")


def main() -> int:
    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is not installed: apt-get install chromium", file=sys.stderr)
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as var:
        ports = free_ports(service_names())
        local = {"BILLHOOK_ALLOW_HTTP": "true", "BILLHOOK_ALLOWED_NETWORKS": "127.0.0.0/8"}
        environment = {**os.environ, **ports, **local, "BILLHOOK_VAR": var}
        os.environ.update(environment)
        product = subprocess.Popen([sys.executable, "-m", "billhook.cli.main", "up"])
        try:
            if not wait_until_ready(read_settings(), service_names(), threading.Event()):
                print("billhook did not become ready within a minute", file=sys.stderr)
                return 1
            code = subprocess.run(
                [sys.executable, "-m", "billhook_testing.demo"], env=environment, check=False
            ).returncode
            if code:
                return code
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                shoot(browser, f"http://127.0.0.1:{ports['BILLHOOK_DESK_PORT']}", environment)
                browser.close()
        finally:
            product.terminate()
            product.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
