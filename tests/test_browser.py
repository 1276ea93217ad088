"""The pages in a real browser: Chromium, headless, by selenium (extra `browser`); left out where one is missing.

In each: no error, nothing loaded, nothing wider than the screen, text that can be read, matrices that tell their
cells to pointer and keys, commands that are copied, and paper.
"""

import base64
import itertools
import json
import re
import shutil

import pytest
import test_figures as runs
import tiny
from test_page import cell, of_diagnosis, of_run, of_sweep, svgs

from seqjax.report import sweep_figure
from seqjax.report.page import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
DRIVER = shutil.which("chromedriver")
START = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
A4 = (210 / 25.4, 297 / 25.4)  # inches
CASES = (
    "run_2", "run_16", "run_64", "run_256", "real_run", "replicates", "forecast",
    "diagnosis_2", "diagnosis_16", "diagnosis_64", "controls", "sweep",
)  # fmt: skip
LONG = {"control": "x" * 60 + " own_feature", "loss": 0.0123, "reachable": 0.0, "chance": 0.69, "passed": False,
        "ci95": [0.01, 0.02], "text": "Never learnt: " + "very " * 40}  # fmt: skip

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not CHROMIUM or not DRIVER, reason="chromium and chromedriver are not on this machine"),
]


def made(name):
    """The HTML of one case; long names and paths are in it."""
    command = "python -m experiments.main --seq_len=2 --workdir=" + "a_folder_with_a_long_name/" * 8
    kind, _, rest = name.partition("_")
    if name in ("real_run", "replicates"):
        return page(tiny.run(num_replicates=3 if name == "replicates" else 1).values, command)
    if kind == "forecast":
        measured = ("history", "final", "per_step", "budget", "ci95")
        values = tiny.run().values
        return page({key: value for key, value in values.items() if key not in measured}, command)
    if kind == "run":
        steps = int(rest)
        per_step = {"val_loss": [0.5 + t / 1000 for t in range(steps)]}
        return page(
            of_run(label_dependence=runs.last(steps), receptive_field=runs.own(steps), per_step=per_step), command
        )
    if kind == "sweep":
        error = "ValueError: " + "/a/long/path" * 20
        cells = [cell(n, model) for n in (1, 2, 4) for model in ("dense", "bidirectional_gru")]
        values = of_sweep([*cells, cell(1, error=error)])
        return page(values, command, svgs(sweep_figure, values))
    names = {"diagnosis_2": "original", "diagnosis_16": "unsettled", "diagnosis_64": "label_noise"}
    values = of_diagnosis(names.get(name, "original"))
    if kind == "controls":
        values |= {"controls": [LONG, LONG | {"passed": True}], "receptive_field": runs.own(2)}
    values["config"]["data"] = "/a/folder" * 30
    return page(values, command)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name in CASES:
        (folder / f"{name}.html").write_text(made(name), "utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in CASES}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="the extra 'browser' (selenium) is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in [*START.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser, url, width=800, scheme="light", media="screen"):
    """Open a page on a screen of this width."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})
    browser.get(url)
    # What is closed at first is looked at too.
    browser.execute_script("document.querySelectorAll('details').forEach((part) => (part.open = true))")


WIDER = """
const wide = [...document.querySelectorAll("body *")].filter((part) => {
  if (part.parentElement.closest("svg, .scroll")) return false;
  const at = part.getBoundingClientRect();
  return at.right > innerWidth + 0.5 || at.left < -0.5;
});
const all = document.scrollingElement.scrollWidth > innerWidth ? ["the page"] : [];
return [...all, ...wide.map((part) => part.outerHTML.slice(0, 120))];
"""
CUT = """
return [...document.querySelectorAll(".scroll, .long, pre, svg.matrix")]
  .filter((part) => {
    return part.scrollWidth > part.clientWidth + 1 || part.getBoundingClientRect().right > innerWidth + 0.5;
  })
  .map((part) => part.outerHTML.slice(0, 120));
"""
CONTRAST = """
const parts = (colour) => {
  const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
  return [[r, g, b], a];
};
const light = (rgb) => {
  const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = (part) => {
  for (let at = part; at; at = at.parentElement) {
    const [rgb, alpha] = parts(getComputedStyle(at).backgroundColor);
    if (alpha) return rgb;
  }
  return [255, 255, 255];
};
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let count = 0;
while (walker.nextNode()) {
  const part = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || part.closest("script, title, defs")) continue;
  const style = getComputedStyle(part);
  const [ink] = parts(part instanceof SVGElement ? style.fill : style.color);
  const both = [light(ink), light(paper(part))].sort((a, b) => b - a);
  const ratio = (both[0] + 0.05) / (both[1] + 0.05);
  count += 1;
  if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${walker.currentNode.data.slice(0, 60)}`);
}
return [count, found];
"""


@pytest.mark.parametrize("name", CASES)
def test_a_page_has_no_errors_and_loads_nothing(browser, pages, name):
    browser.get_log("browser")
    show(browser, pages[name])
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)") == []


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_wider_than_the_screen(browser, pages, name):
    for width in (360, 800, 1400):
        show(browser, pages[name], width)
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script(WIDER) == [], width


@pytest.mark.parametrize(("name", "scheme"), [*itertools.product(CASES, ("light", "dark"))])
def test_text_can_be_read(browser, pages, name, scheme):
    show(browser, pages[name], scheme=scheme)
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    count, found = browser.execute_script(CONTRAST)
    assert count > 20
    assert found == []


@pytest.mark.parametrize("name", CASES)
def test_a_page_on_paper_is_a4_and_whole(browser, pages, name):
    show(browser, pages[name], width=round((210 - 2 * 15) / 25.4 * 96), scheme="dark", media="print")
    assert browser.execute_script(CUT) == []
    assert browser.execute_script(WIDER) == []
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    pdf = base64.b64decode(printed["data"])
    sizes = {tuple(map(float, size.split())) for size in re.findall(rb"/MediaBox \[([^\]]+)\]", pdf)}
    assert len(sizes) == 1
    assert sizes.pop() == pytest.approx((0, 0, A4[0] * 72, A4[1] * 72), abs=1)


def told(browser):
    return browser.execute_script("return document.querySelector('output').textContent")


@pytest.mark.parametrize("steps", [2, 16, 64])
def test_a_matrix_tells_its_cells_to_the_pointer(browser, pages, steps):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    show(browser, pages[f"run_{steps}"])
    cells = browser.find_element(By.CSS_SELECTOR, ".matrix svg")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cells)
    side = 300 / steps
    for t, s, words in (
        (0, steps - 1, f"label 0 needs step {steps - 1}; output 0 does not see it"),
        (0, 0, "label 0 does not need step 0; output 0 sees it"),
        (steps - 1, steps - 1, f"label {steps - 1} needs step {steps - 1}; output {steps - 1} sees it"),
    ):
        # From the middle of the cells, which is where the browser's driver counts from.
        across, down = ((n + 0.5) * side - 150 for n in (s, t))
        ActionChains(browser, 0).move_to_element_with_offset(cells, round(across), round(down)).perform()
        assert told(browser) == words


def test_a_matrix_is_walked_through_by_keys(browser, pages):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, pages["run_16"])
    first, second = browser.find_elements(By.CSS_SELECTOR, ".matrix")
    for _ in range(60):
        if browser.switch_to.active_element == first:
            break
        browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element == first, "reached by the tab key"
    assert told(browser) == "label 0 does not need step 0; output 0 sees it"
    first.send_keys(Keys.ARROW_DOWN * 3 + Keys.END)
    assert told(browser) == "label 3 needs step 15; output 3 does not see it"
    first.send_keys(Keys.ARROW_LEFT + Keys.ARROW_UP)
    assert told(browser) == "label 2 does not need step 14; output 2 does not see it"
    second.send_keys(Keys.HOME + Keys.ARROW_UP * 5 + Keys.ARROW_LEFT)
    assert told(browser) == "label 0 does not need step 0; output 0 sees it"


def test_what_a_diagnosis_says_of_a_cell(browser, pages):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, pages["diagnosis_2"])
    browser.find_element(By.CSS_SELECTOR, ".matrix").send_keys(Keys.END)
    assert told(browser) == "label 0 needs step 1 (swapping it raises the loss by 0.345 nats)"


def test_a_matrix_that_is_too_large_stands_still(browser, pages):
    show(browser, pages["run_256"])
    assert browser.execute_script("return document.querySelectorAll('output, .matrix[tabindex]').length") == 0


def test_commands_are_copied_by_keyboard(browser, pages):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, pages["real_run"])
    for at, row in enumerate(browser.find_elements(By.CSS_SELECTOR, ".command-row")[:2]):
        button = row.find_element(By.TAG_NAME, "button")
        assert button.get_attribute("aria-label").startswith("copy: python -m")
        browser.execute_script(
            "globalThis.copied = null; document.oncopy = () => (copied = String(getSelection()))"
        )
        if at:  # as where a page may not use the clipboard
            browser.execute_script("navigator.clipboard.writeText = () => Promise.reject()")
        else:
            browser.execute_script("navigator.clipboard.writeText = async (text) => { copied = text }")
        button.send_keys(Keys.ENTER)
        wanted = row.find_element(By.TAG_NAME, "pre").text
        copied = browser.execute_async_script("setTimeout(() => arguments[0](copied), 100)")
        assert json.dumps(copied).replace(" ", "") == json.dumps(wanted).replace(" ", "")
        assert button.text == "copied"


def test_a_page_reads_without_its_script(browser, pages):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(pages["real_run"])
        assert "Verdict" in browser.title + browser.page_source
        assert "<button" not in browser.page_source
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
