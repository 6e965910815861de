"""The report as a browser shows it: nothing missing, nothing fetched, nothing to scroll sideways for."""

import os
import shutil
from typing import Any

import numpy as np
import pytest

from simsiam_jax.records.experiment import LabelCounts
from simsiam_jax.report.page import write_report
from tests.support.made_up import made_up_workdir

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# .ci/run sets it: there a missing browser is a failure, elsewhere a test that cannot run.
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and "SIMSIAM_REQUIRE_BROWSER" not in os.environ, reason="no Chromium on this machine"
)

# Names that a person may have given a folder or a column, from harmless to hostile.
NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\u202eחתולים וכלבים",
    "🐈‍⬛ 👩🏽‍🚀 " + "a very long name " * 12,
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
    odd: dict[str, dict[str, Any]] = {
        # One class of three images of 2,043, missing labels, and one arm.
        "odd_classes": {
            "backbones": ("resnet18",), "starts": ("in_domain",), "names": NAMES[:3],
            "counts": LabelCounts((3, 40, 2000)), "labels": [-1] * 5 + [0] * 3 + [1] * 6 + [2] * 10,
        },
        # Four attributes, one of them known of no image.
        "odd_attributes": {
            "label_kind": "attributes", "backbones": ("resnet18",), "attributes": 4, "names": NAMES,
            "counts": LabelCounts((5, 10, 0, 3), (20, 24, 0, 24)),
        },
    }  # fmt: skip
    runs: dict[str, dict[str, Any]] = {kind: {"label_kind": kind} for kind in ("classes", "attributes")} | odd
    return {kind: write_report(made_up_workdir(base / kind, **changes)) for kind, changes in runs.items()}


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
@pytest.mark.parametrize("kind", ["classes", "attributes", "odd_classes", "odd_attributes"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
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
@pytest.mark.parametrize("kind", ["odd_classes", "odd_attributes"])
def test_odd_names_stay_names(browser, reports, kind):
    page = browser.new_page(viewport={"width": 360, "height": 900})
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.goto(reports[kind].as_uri())
    text = page.inner_text("body")
    made = page.evaluate("document.querySelectorAll('script, img[src=x], [onerror]').length")
    page.close()
    assert (asked, made) == ([], 0)
    assert "<script>alert(1)</script>" in text
    assert "חתולים" in text
    assert "\u202e" not in text  # it would turn all that follows
    if kind == "odd_classes":
        assert "always “" in text
        assert "97.90" in text  # 2,000 of 2,043
    # They are cut, and a page is small whatever it shows.
    assert "a very long name " * 4 not in text
    assert reports[kind].stat().st_size < 3e6


@needs_browser
def test_neighbours_and_mistakes_are_leafed_through_without_javascript(browser, reports):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 900})
    page = context.new_page()
    page.goto(reports["odd_classes"].as_uri())
    seen = []
    # 24 test images, nine of them on a leaf.
    for turn in ("next", "next", "previous"):
        queries = page.locator(".query:visible > .thumbnail img")
        seen.append([each.get_attribute("src") for each in queries.all()])
        page.locator(f".leaves:has(.query) label:visible:has-text('{turn}')").click()
    shown = page.locator(".query:visible").count()
    page.locator(".leaves:has(.query) input:checked").press("ArrowRight")
    last = page.locator(".query:visible > .thumbnail img").first.get_attribute("src")
    wrong = page.locator(".mistakes:visible > div").count()
    context.close()
    assert [len(each) for each in seen] == [9, 9, 6]
    assert len({uri for each in seen for uri in each}) == 24
    assert (shown, last) == (9, seen[2][0])
    assert wrong == 12


@needs_browser
def test_the_answer_comes_first_and_then_the_differences(browser, reports):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(reports["classes"].as_uri())
    order = page.evaluate("""() => [...document.querySelectorAll('.answer, figure svg, table, .verdict')].map(
        each => each.closest('.lead') ? 'lead' : each.className.baseVal ?? each.className)""")
    alternative = page.get_attribute(".lead [role=img]", "aria-label")
    secondary = page.locator(".verdict.descriptive:visible").count()
    page.close()
    assert order[:4] == ["answer", "lead", "form", "main"]
    assert alternative.startswith("Paired differences")
    assert secondary == 0  # they are there for whoever asks


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
