"""report.html in a browser: no error, nothing loaded, tables sort, nothing overflows, light and dark can be read."""

import sys
import time

import awkward_report
import chromium
import pytest

pytest.importorskip("websockets", reason="pip install 'edge-optimize[test]'")
pytest.importorskip("pydantic", reason="pip install 'edge-optimize[optimize]'")
pytestmark = pytest.mark.skipif(
    chromium.found() is None,
    reason="needs a browser: apt-get install chromium",
)

READABLE = 4.5  # WCAG 2 AA, for text of this size

# For each element that has text of its own: its contrast with what lies behind it, layers mixed.
CONTRASTS = """(() => {
  const canvas = new OffscreenCanvas(1, 1), pen = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].map((v, i) => i < 3 ? v : v / 255);
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const light = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const e of document.body.querySelectorAll("*")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.getClientRects().length || e.matches("script, .unseen")) continue;
    const style = getComputedStyle(e), back = behind(e);
    const [a, b] = [light(over(rgba(e instanceof SVGElement ? style.fill : style.color), back)), light(back)];
    const name = e.tagName + "." + (e.className.baseVal ?? e.className) + ": " + e.textContent.trim().slice(0, 30);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), name]);
  }
  return found;
})()"""
# What sticks out of the page, or text that sticks out of its own box and is cut off.
OVERFLOW = """[...document.body.querySelectorAll("*")].filter((e) => {
  if (e.closest(".unseen, svg") || !e.getClientRects().length) return false;
  const box = e.getBoundingClientRect();
  return box.right > document.documentElement.clientWidth + 0.5 || box.left < -0.5
    || (getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1);
}).map((e) => e.tagName + "." + e.className + ": " + e.textContent.trim().slice(0, 40))"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
COLUMN = "[...document.querySelectorAll('#candidates tbody tr')].map((r) => r.cells[{}].innerText.trim())"


def _demo():
    """A report as a run makes it, with figures that differ from row to row."""
    sys.path.insert(0, str(chromium.HERE / "optimize"))
    try:
        from test_optimize_report import accuracy, ratio, report, row
    finally:
        sys.path.pop(0)
    made = [{"use": "export", "seconds": 1.0, "size_bytes": 2**21, "parameters": 694924, "macs": 10**9}]
    rows = [
        row(
            name, latency=awkward_report.latency(ms).model_copy(update=ratio(10 / ms).model_dump()), made=made,
            accuracy=accuracy(value),
        )
        for name, ms, value in (
            ("openvino-fp32", 10.5, 0.91), ("openvino-default", 5.5, 0.9), ("openvino-int8", 2.25, 0.899),
            ("onnxruntime-fp32", 9.5, 0.91), ("onnxruntime-default", 9.4, 0.91), ("onnxruntime-int8", 3.5, 0.9),
        )
    ]  # fmt: skip
    lost = row("tensorrt-int8", status="cannot build here", reason="no GPU", latency=None, accuracy=None)
    original = row("original", target=None, engine="torch", latency=awkward_report.latency(10.0))
    return report([*rows, lost], original=original)


MAKERS = {"demo": _demo, "awkward": awkward_report.make, "finals": awkward_report.with_finals}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    from optimize.report import html

    return {name: html.write(make(), tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def browser():
    one = chromium.Browser()
    yield one
    one.close()


@pytest.fixture
def page(browser):
    """The browser, which must have had nothing to complain of, and have loaded nothing but the file."""
    browser.problems.clear()
    browser.asked.clear()
    yield browser
    browser.run("0")  # what is under way is told before the answer
    assert browser.problems == []
    assert {address.partition(":")[0] for address in browser.asked} <= {"file", "data"}
    assert len({address for address in browser.asked if address.startswith("file:")}) == 1


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", MAKERS)
def test_nothing_overflows_and_all_can_be_read(pages, page, name, width, dark):
    page.show(pages[name], width, dark)
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    if name == "demo" or width == 400:  # where names are endless, a wide table may scroll in its own box
        assert page.run(OVERFLOW) == []
    contrasts = page.run(CONTRASTS)
    assert len(contrasts) > 100
    assert [(ratio, what) for ratio, what in contrasts if ratio < READABLE] == []


def test_the_contrast_that_is_looked_for_would_be_found(pages, page):
    page.show(pages["demo"], 1400)
    page.run("document.querySelector('h1').style.color = '#bbb', 0")
    (found,) = [what for ratio, what in page.run(CONTRASTS) if ratio < READABLE]
    assert found.startswith("H1.")
    page.run("document.querySelector('h1').style.minWidth = '2000px', 0")
    assert page.run(OVERFLOW)[0].startswith("H1.")


@pytest.mark.parametrize("width", [400, 1400])
def test_a_click_on_a_title_sorts_and_a_third_restores(pages, page, width):
    page.show(pages["demo"], width)
    first = page.run(COLUMN.format(0))
    titles = page.run("[...document.querySelectorAll('#candidates th button')].map((b) => b.innerText)")
    p50 = next(i for i, title in enumerate(titles) if title.startswith("p50"))
    click = f"document.querySelectorAll('#candidates th button')[{p50}].click(), 0"
    said = f"document.querySelectorAll('#candidates thead th')[{p50}].getAttribute('aria-sort')"
    page.run(click)
    up = page.run(COLUMN.format(p50))
    numbers = [float(text) for text in up[:-1]]
    assert numbers == sorted(numbers) and up[-1].startswith("–") and page.run(said) == "ascending"  # 9.5 before 10.5
    page.run(click)
    down = page.run(COLUMN.format(p50))
    assert down[:-1] == up[:-1][::-1] and down[-1] == up[-1] and page.run(said) == "descending"
    page.run("document.querySelectorAll('#candidates th button')[0].click(), 0")
    names = page.run(COLUMN.format(0))
    assert names == sorted(first) != first and page.run(said) == "none"
    page.run("for (const i of [1, 2]) document.querySelectorAll('#candidates th button')[0].click()")
    assert page.run(COLUMN.format(0)) == first


def test_the_keyboard_reaches_the_titles(pages, page):
    page.show(pages["demo"], 1400)
    page.run("document.querySelector('#candidates th button').focus(), 0")
    for kind in ("keyDown", "keyUp"):
        page.do("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.run("document.querySelector('#candidates thead th').getAttribute('aria-sort')") == "ascending"


def until(page, expression, wanted):
    for _ in range(50):
        if (found := page.run(expression)) == wanted:
            return
        time.sleep(0.1)
    pytest.fail(f"{expression} is {found!r}, not {wanted!r}")


def test_light_and_dark_follow_the_system_until_the_reader_chooses(pages, page):
    page.show(pages["demo"], 1400, dark=False)
    light = page.run(BACKGROUND)
    page.wish(dark=True)
    dark = page.run(BACKGROUND)
    assert light != dark
    until(page, "document.getElementById('theme').textContent", "Light")  # it hears of the change a moment later
    ink = "getComputedStyle(document.querySelector('svg text')).fill"
    inks = [page.run(ink)]
    page.run("document.getElementById('theme').click(), 0")
    assert page.run(BACKGROUND) == light and page.run("document.getElementById('theme').textContent") == "Dark"
    inks.append(page.run(ink))
    assert len(set(inks)) == 2  # the plots go along
    page.wish(dark=False)
    page.run("document.getElementById('theme').click(), 0")
    assert page.run(BACKGROUND) == dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_printed_black_on_white(pages, page, dark):
    page.show(pages["demo"], 688, dark)  # A4 less its margins
    page.wish(dark, media="print")
    assert page.run(BACKGROUND) == "rgb(255, 255, 255)"
    assert page.run("getComputedStyle(document.getElementById('theme')).display") == "none"
    assert [what for ratio, what in page.run(CONTRASTS) if ratio < READABLE] == []
    assert page.run(OVERFLOW) == []
    assert page.run("getComputedStyle(document.querySelector('#candidates tbody tr')).display") == "table-row"


def test_the_recipe_is_copied_or_else_selected(pages, page):
    page.show(pages["demo"], 1400)
    page.run(
        "document.querySelector('button.copy').click(), new Promise((done) => setTimeout(done, 200)).then(() => 0)"
    )
    said = page.run("document.querySelector('button.copy').textContent")
    assert said in ("Copied", "Selected: press Ctrl+C")
    if said != "Copied":
        assert page.run("getSelection().toString().trim() === document.getElementById('recipe').textContent.trim()")


def test_a_script_that_is_not_ours_does_not_run(pages, browser, tmp_path):
    spoilt = tmp_path / "report.html"
    text = pages["demo"].read_text(encoding="utf-8")
    spoilt.write_text(text.replace("</main>", "<script>window.notOurs = 1</script></main>"), encoding="utf-8")
    browser.problems.clear()
    browser.show(spoilt, 1400)
    assert browser.run("window.notOurs === undefined")
    assert "Content Security Policy" in " ".join(browser.problems)
    assert browser.run("document.getElementById('theme').textContent") == "Dark"  # ours ran
