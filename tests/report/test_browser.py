"""The report in a real browser: charts answer, tables sort, and nothing leaves the page."""

from __future__ import annotations

import json
import shutil

import pytest

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.page import build_report
from adapad_ray.report.published import PublishedPoint
from adapad_ray.report.sections.curve import Curve
from adapad_ray.report.sections.curve_table import CurveTable
from tests.report.factory import RANK_ONE, SweepFactory

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium"),
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromedriver"),
]
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra `test`")
HOSTILE = "z<img src=x onerror=document.title='hacked'>"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    factory = SweepFactory(tmp_path_factory.mktemp("runs") / "sweep", items=100)
    cell = factory.sweep(seeds=2)[-1]
    factory.cell(HOSTILE, 41_472, 0, 0.7)
    factory.rounds(cell, {1: [0.7, 0.6], 2: [0.6, 0.5]})
    published = [PublishedPoint(label="adapad", parameters="0.34M", value=0.87, source="2605.10741, Table I")]
    return build_report(factory.folder, ReportInputs(title="t", draws=50, published=published))


@pytest.fixture
def page(browser, report):
    """The report, opened afresh, with all its charts drawn."""
    return opened(browser, report)


def opened(browser, report):
    browser.get(report.files["report.html"].as_uri())
    draw(browser, "[...document.querySelectorAll('figure.plot')]")
    return browser


def draw(browser, figures):
    browser.execute_async_script(
        f"const done = arguments[0]; Promise.all({figures}.map((f) => f.plot.draw())).then(done, done)"
    )


def control(browser, stem, script):
    """Changes a control of a chart as a user does, and waits for the chart."""
    browser.execute_async_script(
        f"const figure = document.getElementById('{stem}'), done = arguments[0]; {script};"
        "figure.plot.drawn.then(done, done)"
    )


def switch(browser, stem, value):
    control(browser, stem, f"figure.querySelector('input[value=\"{value}\"]').click()")


def choose(browser, stem, name, value):
    change = "menu.dispatchEvent(new Event('change', {bubbles: true}))"
    menu = f"const menu = figure.querySelector('select[name={name}]'); menu.value = '{value}'"
    control(browser, stem, f"{menu}; {change}")


def marks(browser, stem, colour=None):
    """The point marks of a chart, of all colours or of one."""
    selector = f"#{stem} .mark-symbol.role-mark path"
    found = browser.find_elements("css selector", selector)
    return [one for one in found if colour in (None, one.get_attribute("fill"), one.get_attribute("stroke"))]


def text(browser, stem):
    return browser.find_element("css selector", f"#{stem} .view").text


def column(browser, heading, name):
    """The shown cells of a column in the table below a heading."""
    return browser.execute_script(
        """
        const head = [...document.querySelectorAll('h2')].find((h) => h.textContent === arguments[0]);
        let node = head; while (!node.querySelector?.('table')) node = node.nextElementSibling;
        const table = node.querySelector('table');
        const i = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent.trim() === arguments[1]);
        return [...table.tBodies[0].rows].filter((r) => !r.hidden).map((r) => r.cells[i].textContent);
        """,
        heading,
        name,
    )


BLUE, RUST = "#0072B2", "#D55E00"
"""Colours of the first two labels."""


def test_hovering_a_point_shows_label_size_interval_seeds_and_cost(page, report):
    row = report.table[(report.table["label"] == "adapad") & (report.table["kind"] == "final")].iloc[0]
    (point, *_) = [one for one in marks(page, "curve", BLUE) if one.get_attribute("fill") == BLUE]
    webdriver.ActionChains(page).scroll_to_element(point).move_to_element(point).perform()
    tooltip = page.find_element("css selector", "#vg-tooltip-element.visible")
    cells = [cell.get_attribute("textContent") for cell in tooltip.find_elements("tag name", "td")]
    shown = dict(zip(cells[::2], cells[1::2], strict=True))
    assert shown["model"] == "adapad" and shown["deployed parameters"] == f"{row['parameters']:,.0f}"
    assert shown["test accuracy"] == f"{row['test_mean']:.3f}"
    for split in ("test", "validation"):
        assert shown[f"{split}, 95 % interval"] == f"{row[f'{split}_low']:.3f} – {row[f'{split}_high']:.3f}"
    assert shown["seeds"] == "2" and shown["train seconds"] == "20.5" and shown["peak memory"] == "400MB"


def test_methods_prefixes_and_published_points_are_shown_and_hidden(page):
    assert marks(page, "curve", BLUE) and marks(page, "curve", RUST) and "adapad" in text(page, "curve")
    hollow = [one for one in marks(page, "curve", BLUE) if one.get_attribute("fill") == "white"]
    switch(page, "curve", "prefixes")
    assert hollow and not [one for one in marks(page, "curve", BLUE) if one.get_attribute("fill") == "white"]
    switch(page, "curve", "published")
    assert "adapad" not in text(page, "curve")
    switch(page, "curve", "adapad")
    assert not marks(page, "curve", BLUE) and marks(page, "curve", RUST)
    switch(page, "curve", "adapad")
    assert marks(page, "curve", BLUE)
    control(page, "curve", "figure.querySelector('button[data-all]').click()")
    assert not marks(page, "curve", BLUE) and not marks(page, "curve", RUST)


def test_the_axis_is_log_or_linear_and_the_metric_is_chosen(page):
    scale = "return document.getElementById('curve').plot.view.scale('x').type"
    assert page.execute_script(scale) == "log" and "test accuracy" in text(page, "curve")
    choose(page, "curve", "axis", "linear")
    assert page.execute_script(scale) == "linear"
    choose(page, "curve", "metric", "validation")
    assert "validation accuracy" in text(page, "curve") and "test accuracy" not in text(page, "curve")
    choose(page, "cost", "cost", "train_flops")
    assert "train FLOPs" in text(page, "cost")
    choose(page, "growth", "unit", "share")
    assert "share of the budget" in text(page, "growth")


def test_the_ranks_of_one_method_or_of_one_budget_are_shown(page):
    assert "adapad · 10,368" in text(page, "ranks") and "lora" not in text(page, "ranks")
    choose(page, "ranks", "shown", "budget 41472")
    assert "lora/qv · 41,472" in text(page, "ranks") and "10,368" not in text(page, "ranks")


def test_a_table_sorts_by_a_click_on_its_heading_and_back(page, report):
    place = "//h2[text()='The curve']/following-sibling::div[@class='scroll'][1]"
    button = page.find_element("xpath", f"{place}//th[4]/button")
    values = report.table["test_mean"].round(3).sort_values().tolist()
    for expected in (values, values[::-1]):
        page.execute_script("arguments[0].click()", button)
        assert [float(value) for value in column(page, "The curve", "test accuracy")] == expected
    assert page.find_element("xpath", f"{place}//th[4]").get_attribute("aria-sort") == "descending"
    page.execute_script("arguments[0].click()", page.find_element("xpath", f"{place}//th[2]/button"))
    budgets = column(page, "The curve", "budget")
    assert budgets[0] == "10,368" and budgets[-1] == "–", "numbers are compared as numbers; missing ones are last"


def test_a_table_shows_the_rows_with_the_words_of_the_filter(page):
    field = page.find_element("xpath", "//h2[text()='The curve']/following-sibling::label[@class='filter'][1]/input")
    field.send_keys("lora/qv 41,472")
    assert set(column(page, "The curve", "method")) == {"lora/qv"}
    assert column(page, "The curve", "budget") == ["41,472"]
    field.clear()
    field.send_keys(" ")
    assert len(column(page, "The curve", "method")) > 10


def test_nothing_leaves_the_page_and_the_console_is_empty(browser, report):
    for log in ("performance", "browser"):
        browser.get_log(log)
    opened(browser, report)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    assert addresses == [report.files["report.html"].as_uri()]


def test_hostile_labels_are_text_and_the_policy_refuses_requests(page):
    assert page.title.startswith("t –") and HOSTILE in column(page, "The curve", "method")
    refused = page.execute_async_script(
        """
        const done = arguments[0], image = new Image();
        document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));
        image.src = 'http://localhost:9/x.png';
        """
    )
    assert refused == "img-src"
    page.get_log("browser")


def test_two_thousand_points_are_drawn_in_a_second(browser, tmp_path):
    factory = SweepFactory(tmp_path, items=20)
    for label in range(8):
        for step in range(10):
            prefixes = {k: 0.6 + 0.01 * k for k in range(1, 25)}
            factory.cell(f"adapad/{label}", RANK_ONE * 36 * (25 + step), 0, 0.8, prefixes=prefixes)
    large = build_report(tmp_path, ReportInputs(title="large", draws=10), [Curve, CurveTable])
    assert len(large.table) == 2000
    opened(browser, large)
    times = []
    for _ in range(3):
        draw(browser, "[document.getElementById('curve')]")
        times.append(int(browser.execute_script("return document.getElementById('curve').dataset.milliseconds")))
    assert len(marks(browser, "curve")) >= 2000
    assert min(times) < 1000, times


def test_a_narrow_window_has_no_horizontal_scrollbar(browser, report):
    browser.set_window_size(500, 900)
    try:
        opened(browser, report)
        width, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    finally:
        browser.set_window_size(1200, 900)
    assert width <= window
