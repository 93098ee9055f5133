"""Draw the pictures of the page in docs/images: `python -m tests.browser.pictures`."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import django
from playwright.sync_api import sync_playwright

from tests.browser.conftest import ARGUMENTS
from tests.browser.site import STATUS, WORKING, Site, serve

IMAGES = Path(__file__).parents[2] / "docs/images"


def draw() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    working = replace(WORKING, remaining_seconds=190)
    failed = replace(WORKING, state="error", run=18)
    with serve(Site()) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        for scheme, width, height, view in (
            ("light", 1280, 640, working),
            ("dark", 360, 660, failed),
        ):
            site.view = view
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(site.url + STATUS)
            page.screenshot(path=IMAGES / f"page-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    draw()
