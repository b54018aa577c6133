"""The report's page in a real browser without network: drawn, complete, and fit for desktop, phone and paper.

usage: pytest report_page_test.py      GSA_REPORT_SAMPLE: the program that writes the sample report
"""

import os
import pathlib
import shutil
import subprocess

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")

BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
if BROWSER is None:
    pytest.skip("no Chromium on this machine; scripts/setup.sh --with-tests installs it", allow_module_level=True)

WIDTHS = {"desktop": 1280, "phone": 390}
NUM_POLICIES, NUM_TASKS = 10, 3  # of the sample
# By section: three tasks against keys read, one against length, four bars.
NUM_CHARTS = {"budget": NUM_TASKS, "length": 1, "cost": 4}
NUM_ROWS = {"overview": NUM_POLICIES, "equal": 5 * NUM_TASKS, "results": NUM_POLICIES * NUM_TASKS, "pairs": NUM_POLICIES - 1,
            "cost": NUM_POLICIES * NUM_TASKS}  # fmt: skip

# For every canvas the colours of its series that no pixel has.
COLOURS_MISSING = """() => [...document.querySelectorAll("script.chart")].map((script) => {
  const canvas = document.getElementById(script.dataset.canvas);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const drawn = new Set();
  for (let i = 0; i < pixels.length; i += 4)
    if (pixels[i + 3] === 255) drawn.add("#" + [0, 1, 2].map((k) => pixels[i + k].toString(16).padStart(2, "0")).join(""));
  const style = getComputedStyle(document.documentElement);
  return JSON.parse(script.textContent).series
    .map((series) => style.getPropertyValue(`--look${series.look % 7}`).trim())
    .filter((colour) => !drawn.has(colour));
})"""
# Everything that sticks out of the window and stands in no box that scrolls.
OVERFLOWING = """() => [...document.querySelectorAll("body *")]
  .filter((element) => !element.closest(".scroll table") && element.getBoundingClientRect().right > innerWidth + 0.5)
  .map((element) => element.outerHTML.slice(0, 100))"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    subprocess.run([os.environ["GSA_REPORT_SAMPLE"], path], check=True)
    return path


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # Containers have neither the rights for its sandbox nor much shared memory.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Visit:
    """The report, opened in a window of its own; what the page complains about and asks for is kept."""

    def __init__(self, browser, path, width, scheme):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(pathlib.Path(path).as_uri())


@pytest.fixture
def visit(browser, report):
    visits = []

    def open_report(width=WIDTHS["desktop"], scheme="light", path=report):
        visits.append(Visit(browser, path, width, scheme))
        return visits[-1]

    yield open_report
    for visit in visits:
        visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_the_page_is_whole(visit, report, width, scheme):
    seen = visit(width, scheme)
    page = seen.page
    assert seen.complaints == []
    assert seen.requests == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []

    for section, number in NUM_CHARTS.items():
        assert page.locator(f"#{section} canvas").count() == number
    assert page.evaluate(COLOURS_MISSING) == [[]] * sum(NUM_CHARTS.values())
    for section, number in NUM_ROWS.items():
        assert page.locator(f"#{section} > .scroll tbody tr").count() == number
    assert page.locator("#needles table").count() == 2
    assert page.locator("#needles table").first.locator("td").count() == 5 * 4
    assert page.locator("#diagnostics td").count() == 29 * 9

    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(",")))
    assert (lightness > 600) == (scheme == "light")


def test_names_are_text_and_never_markup(visit):
    page = visit().page
    assert "<b>&</b>" in page.title() and "<b>&</b>" in page.locator("h1").text_content()
    task = "<script>alert('task')</script> & \"friends\" | `qa`"
    assert page.locator("#budget figcaption").nth(1).text_content() == task
    assert page.locator("#results tbody tr").nth(NUM_POLICIES).locator("td").first.text_content() == task
    assert page.locator("img").count() == 0
    assert page.locator("script:not(.chart)").count() == 2


def test_charts_and_tables_are_named_for_those_who_do_not_see_them(visit):
    page = visit().page
    assert page.evaluate('[...document.querySelectorAll("canvas")].every((c) => c.role === "img" && c.ariaLabel.length > 20)')
    assert page.evaluate('[...document.querySelectorAll("table")].every((t) => t.caption.textContent.length > 0)')
    assert page.evaluate('[...document.querySelectorAll("th")].every((th) => th.scope)')
    assert page.locator("h1").count() == 1
    for section in ("budget", "length"):  # the numbers of every chart
        assert page.locator(f"#{section} details table").count() == NUM_CHARTS[section]


def test_a_click_on_a_heading_sorts(visit):
    page = visit().page
    column = page.locator("#overview tbody tr td:nth-child(3)")  # keys read
    heading = page.locator("#overview thead th").nth(2)
    heading.locator("button").click()
    shares = [float(text.split()[0]) for text in column.all_text_contents()]
    assert shares == sorted(shares) and heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").click()
    assert [float(text.split()[0]) for text in column.all_text_contents()] == sorted(shares, reverse=True)


def test_headings_stay_while_a_table_scrolls(visit):
    page = visit(WIDTHS["phone"]).page
    box = page.locator("#results .scroll")
    box.evaluate("(box) => box.scrollTo(300, 200)")
    top, left = box.evaluate("(box) => [box.getBoundingClientRect().top, box.getBoundingClientRect().left]")
    corner = page.locator("#results thead th").first.bounding_box()
    assert corner["y"] == pytest.approx(top + 1, abs=1) and corner["x"] == pytest.approx(left + 1, abs=1)


def test_paper_is_light_and_shows_all_numbers(visit, tmp_path):
    page = visit(scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # Dark ink in the charts too, as soon as the page has drawn them again: the mean lightness of what is drawn.
    page.wait_for_function("""() => {
      const canvas = document.querySelector("#cost canvas");
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let sum = 0, count = 0;
      for (let i = 0; i < pixels.length; i += 4)
        if (pixels[i + 3] === 255) { sum += pixels[i] + pixels[i + 1] + pixels[i + 2]; ++count; }
      return count > 0 && sum / count / 3 < 120;
    }""")
    page.evaluate('window.dispatchEvent(new Event("beforeprint"))')
    assert page.locator("details:not([open])").count() == 0
    page.evaluate('window.dispatchEvent(new Event("afterprint"))')
    assert page.locator("details[open]").count() == 0
    assert len(page.pdf()) > 10_000


def test_tables_tell_everything_without_scripts(browser, report):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("noscript").count() == 1
    assert page.locator("#results > .scroll tbody tr").count() == NUM_ROWS["results"]
    context.close()
