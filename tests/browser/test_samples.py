"""Every sample of the documentation that runs in a browser."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser.site import Site
from tests.browser.support import text, turn_until
from tests.samples.blocks import Block, of_kind

SAMPLE = "/sample"
API = "https://api.shop.example"


def forward_to(site: Site) -> Any:
    """Respond for the samples' API, which is of another origin."""

    def forward(route: Any) -> None:
        parts = urlsplit(route.request.url)
        response = route.fetch(url=f"{site.url}{parts.path}")
        headers = {**response.headers, "access-control-allow-origin": "*"}
        route.fulfill(response=response, headers=headers)

    return forward


@pytest.mark.parametrize("block", of_kind("browser"), ids=str)
def test_samples(page: Any, site: Site, other_site: Site, block: Block) -> None:
    """A sample shows the progress, and continues once ready."""
    site.pages[SAMPLE] = block.text
    page.route(f"{API}/**", forward_to(other_site))
    page.goto(site.url + SAMPLE)
    turn_until(page, lambda: other_site.message in text(page, "#notice"))
    other_site.message = ""
    other_site.becomes("ready")
    turn_until(page, lambda: text(page, "#notice") == "")
