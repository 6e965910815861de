"""The report as a browser shows it: nothing missing, nothing fetched, nothing to scroll sideways for."""

import os
import shutil

import numpy as np
import pytest

from simsiam_jax.report.page import write_report
from tests.support.made_up import made_up_workdir

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# .ci/run sets it: there a missing browser is a failure, elsewhere a test that cannot run.
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and "SIMSIAM_REQUIRE_BROWSER" not in os.environ, reason="no Chromium on this machine"
)

MEASURE = """() => {
    const box = element => element.getBoundingClientRect();
    return {
        overflow: document.documentElement.scrollWidth - window.innerWidth,
        missing: [...document.images].filter(image => !image.complete || !image.naturalWidth).length,
        empty: [...document.querySelectorAll('figure svg')].map(box)
            .filter(svg => svg.width < 50 || svg.height < 20).length,
        pictures: document.querySelectorAll('figure svg').length,
        ink: getComputedStyle(document.body).color,
        paper: getComputedStyle(document.body).backgroundColor,
    };
}"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Pages with every kind of picture: of classes in groups, and of attributes."""
    base = tmp_path_factory.mktemp("browser")
    return {kind: write_report(made_up_workdir(base / kind, label_kind=kind)) for kind in ("classes", "attributes")}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "chromium is not installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def brightness(colour):
    return np.mean([float(word) for word in colour[colour.index("(") + 1 : -1].split(",")[:3]])


@needs_browser
@pytest.mark.parametrize("kind", ["classes", "attributes"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_whole_on_telephones_and_desks_by_day_and_night(browser, reports, kind, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, requested = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(reports[kind].as_uri())
    found = page.evaluate(MEASURE)
    page.close()
    assert said == []
    assert [url for url in requested if not url.startswith("data:")] == [reports[kind].as_uri()]
    assert found["missing"] == 0
    assert found["empty"] == 0
    assert found["pictures"] >= 10
    assert found["overflow"] <= 0
    bright = brightness(found["paper"]), brightness(found["ink"])
    assert bright[0] - bright[1] > 120 if scheme == "light" else bright[1] - bright[0] > 120


@needs_browser
def test_what_the_check_looks_for_it_finds(browser, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(
        "<body style='width: 3000px'><img src='nothing.png'><figure><svg width=0></svg></figure>"
        "<script>console.error('broken')</script>"
    )
    page = browser.new_page(viewport={"width": 390, "height": 900})
    said, requested = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(path.as_uri())
    found = page.evaluate(MEASURE)
    page.close()
    assert "broken" in said
    assert len(requested) == 2
    assert (found["missing"], found["empty"]) == (1, 1)
    assert found["overflow"] > 0
