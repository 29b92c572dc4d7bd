"""The report in a real browser: no console error, filters, sorts, opens, keeps names as text, and fits a phone."""

import json
import time
from contextlib import contextmanager

import pytest
from browser import chromium, problems, resize
from fake_runs import fake_run

from jobs.page import render
from jobs.report import write_report
from storage.run import Run

pytestmark = pytest.mark.browser

HOSTILE = {
    2: "<img src=x onerror=alert(1)>.jpg",
    3: "</script><script>alert(2)</script>.jpg",
    4: '" onmouseover="alert(3)" x=".jpg',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    run = fake_run(folder, 60, keys=HOSTILE, shard_length=20)
    write_report(run, folder / "site")
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser, folder):
    resize(browser, 1280)
    visit(browser, folder)
    yield browser
    assert problems(browser) == []


def visit(browser, folder, address=""):
    browser.get("about:blank")
    browser.get((folder / "site" / "index.html").as_uri() + address)
    wait(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "true")


def wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def find(page, selector):
    return page.find_elements("css selector", selector)


def status(page):
    return page.execute_script("return document.getElementById('status')?.textContent ?? ''")


def names(page):
    """What the cards say, in the order of the page."""
    return page.execute_script("return [...document.querySelectorAll('#sheet .photo')].map((card) => card.title)")


def fill(page, text):
    box = find(page, "#filter")[0]
    box.clear()
    box.send_keys(text)


@pytest.mark.parametrize("view", ["overview", "distributions", "classes", "gallery"])
@pytest.mark.parametrize("width", [1280, 375])
def test_every_view_draws_without_errors_and_without_scrolling_sideways(page, folder, view, width):
    resize(page, width, dark=width == 375)
    visit(page, folder, f"#{view}")
    assert page.execute_script("return document.documentElement.scrollWidth") == width
    assert find(page, f"#{view} h1")[0].is_displayed()
    pictures = "return [...document.images].filter((i) => i.complete && i.naturalWidth === 0).map((i) => i.src)"
    assert page.execute_script(pictures) == []


def test_names_stay_text(page, folder):
    visit(page, folder, "#gallery")
    assert set(HOSTILE.values()) <= set(names(page))
    assert find(page, "#sheet [onerror], #sheet [onmouseover], #sheet b") == []
    for position in (2, 3, 4):
        find(page, f'[data-position="{position}"]')[0].click()
        assert find(page, "#viewer-title")[0].text == HOSTILE[position]
        find(page, '[data-name="close"]')[0].click()
    assert page.execute_script("return document.scripts.length") == 2


def test_filter_box_understands_comparisons_and_plain_words(page, folder):
    visit(page, folder, "#gallery")
    assert status(page) == "59 images"
    fill(page, "image < 10 and prediction != label")
    wait(lambda: status(page) == "1 of 59 images")
    assert names(page) == [HOSTILE[3]]
    fill(page, "abs(convergence_delta) >= 0.04 and not image in (0, 8)")
    expected = [i for i in range(60) if abs(i % 9 - 4) == 4 and i not in {0, 5, 8}]
    wait(lambda: status(page) == f"{len(expected)} of 59 images")
    fill(page, "photo-0001")
    wait(lambda: status(page) == "10 of 59 images")
    fill(page, "label is null")
    wait(lambda: status(page) == "5 of 59 images")


@pytest.mark.parametrize(
    "where",
    [
        "probability < 0.7 and (label = 1 or label = 3)",
        "not (label > 1)",  # null for an image without a label: neither it nor its opposite is kept
        "not (label > 1) or image < 20",
        "label not in (0, 2) and convergence_delta is not null",
        "label in (0, null)",
        "image between 10 and 30 and key like 'photo-0002_%'",
        "key not like '%<%' and abs_sum >= 2 and -image < -40",
        "prediction <> label or abs(convergence_delta) = 0.04",
        "key ilike 'PHOTO-%5.jpg' or key = '</script><script>alert(2)</script>.jpg'",
    ],
)
def test_filter_box_agrees_with_sql(page, folder, where):
    answer = Run.open(folder / "run").sql(
        f"select count(*) as n from summary where name = 'integrated_gradients' and ({where})"
    )
    expected = answer["n"][0].as_py()
    assert 0 < expected < 59
    visit(page, folder, "#gallery")
    fill(page, where)
    wait(lambda: status(page) == f"{expected} of 59 images")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("probability <", "ends too early"),
        ("nose > 1", "no column “nose”"),
        ("image = 1 image", "cannot read “image”"),
        ("image in 1", "expected “(”"),
    ],
)
def test_filter_that_cannot_be_read_says_why_and_keeps_the_view(page, folder, text, complaint):
    visit(page, folder, "#gallery")
    fill(page, text)
    wait(lambda: complaint in status(page))
    assert len(names(page)) > 0


def test_filter_is_parsed_and_never_evaluated(page, folder):
    visit(page, folder, "#gallery")
    fill(page, "image = alert(1)")
    wait(lambda: "Filter:" in status(page))


def test_sorting_by_a_metric_orders_the_cards(page, folder):
    visit(page, folder, "#gallery")
    page.execute_script(
        "const s = document.getElementById('sort'); s.value = 'probability'; s.dispatchEvent(new Event('change'))"
    )
    shown = page.execute_script(
        "return [...document.querySelectorAll('#sheet .photo .line1 .number')].map((n) => parseFloat(n.textContent))"
    )
    assert shown == sorted(shown)
    find(page, "#direction")[0].click()
    shown = page.execute_script(
        "return [...document.querySelectorAll('#sheet .photo .line1 .number')].map((n) => parseFloat(n.textContent))"
    )
    assert shown == sorted(shown, reverse=True)


def test_class_picker_and_wrong_switch_narrow_the_gallery(page, folder):
    visit(page, folder, "#gallery")
    next(button for button in find(page, "#gallery .choice button") if button.text == "wrong").click()
    wrong = [i for i in range(60) if i % 7 == 3 and i % 11 != 10]
    assert status(page) == f"{len(wrong)} of 59 images"
    page.execute_script(
        "const s = document.getElementById('class'); s.value = '3'; s.dispatchEvent(new Event('change'))"
    )
    assert status(page) == f"{sum(i % 4 == 3 for i in wrong)} of 59 images"


def test_columns_and_scale_change_what_a_card_shows(page, folder):
    visit(page, folder, "#gallery")
    card = "#sheet .photo:first-of-type .cell img"
    before = page.execute_script(
        "return [...document.querySelector('#sheet .photo').querySelectorAll('img')].map((i) => i.style.transform)"
    )
    next(button for button in find(page, "#gallery .choice button") if button.text == "shared").click()
    after = page.execute_script(
        "return [...document.querySelector('#sheet .photo').querySelectorAll('img')].map((i) => i.style.transform)"
    )
    assert before[0] == after[0]
    assert set(before[1:]).isdisjoint(after[1:])
    find(page, ".chips button")[1].click()
    alts = page.execute_script(
        "return [...document.querySelector('#sheet .photo').querySelectorAll('img')].map((i) => i.alt)"
    )
    assert [alt.split(" ")[0] for alt in alts] == ["photograph", "integrated_gradients", "grad_cam"], card


def test_an_image_opens_and_arrow_keys_go_on(page, folder):
    from selenium.webdriver.common.keys import Keys

    visit(page, folder, "#gallery")
    find(page, '[data-position="0"]')[0].click()
    assert find(page, "#viewer")[0].get_attribute("open") is not None
    assert len(find(page, "#viewer figure")) == 4
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert find(page, "#viewer-title")[0].text == "photo-00001.jpg"
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert find(page, "#viewer")[0].get_attribute("open") is None


def is_open(page):
    return page.execute_script("return document.getElementById('viewer').open")


def test_an_opened_image_has_an_address_and_the_way_back_closes_it(page, folder):
    visit(page, folder, "#gallery?sort=%22probability%22")
    find(page, '[data-position="2"]')[0].click()
    title = find(page, "#viewer-title")[0].text
    address = page.current_url
    assert "image=" in address
    page.back()
    wait(lambda: not is_open(page))
    assert "image=" not in page.current_url
    assert len(names(page)) > 3  # the gallery stands as it was
    page.forward()
    wait(lambda: is_open(page))
    page.get("about:blank")
    page.get(address)
    wait(lambda: is_open(page))
    assert find(page, "#viewer-title")[0].text == title
    find(page, '[data-name="next"]')[0].click()  # the neighbour in the gallery's order
    assert find(page, "#viewer-title")[0].text == names(page)[3]
    assert page.current_url != address
    find(page, '[data-name="close"]')[0].click()
    wait(lambda: "image=" not in page.current_url)


def test_leaving_an_opened_image_for_another_view_and_coming_back(page, folder):
    visit(page, folder, "#overview")
    find(page, "#overview .photo")[0].click()
    assert is_open(page)
    page.execute_script("location.hash = '#classes'")
    wait(lambda: not is_open(page) and find(page, "#class-table") != [])
    page.back()
    wait(lambda: is_open(page))
    page.back()
    wait(lambda: not is_open(page) and find(page, "#overview h1")[0].is_displayed())


def test_an_empty_selection_says_so_and_leads_back(page, folder):
    visit(page, folder, "#gallery")
    fill(page, "image < 0")
    wait(lambda: status(page) == "0 of 59 images")
    find(page, "#sheet .nothing button")[0].click()
    wait(lambda: status(page) == "59 images")
    assert find(page, "#filter")[0].get_attribute("value") == ""


def test_classes_are_found_by_name(page, folder):
    visit(page, folder, "#classes")
    assert len(find(page, "#class-table tbody tr")) == 4
    find(page, "#class-filter")[0].send_keys("OWL")
    assert [row.text.split("\n")[0] for row in find(page, "#class-table tbody tr .link")] == ["<b>owl</b>"]


def test_the_chosen_theme_is_remembered(page, folder):
    visit(page, folder)
    theme = "return document.documentElement.dataset.theme"
    assert page.execute_script(theme) == "light"
    find(page, "#theme")[0].click()
    visit(page, folder)
    assert page.execute_script(theme) == "dark"
    page.execute_script("localStorage.clear()")


def test_gallery_is_walked_with_the_keyboard(page, folder):
    from selenium.webdriver.common.keys import Keys

    visit(page, folder, "#gallery")
    page.execute_script("document.querySelector('[data-position=\"0\"]').focus()")
    for _ in range(12):
        page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert page.switch_to.active_element.get_attribute("data-position") == "24"
    box = page.execute_script(
        "const r = document.activeElement.getBoundingClientRect(); return [r.top, r.bottom, innerHeight]"
    )
    assert 0 <= box[0] < box[1] <= box[2]


def test_a_bar_of_a_histogram_leads_to_its_images(page, folder):
    visit(page, folder, "#distributions")
    bar = find(page, "#distributions .bin")[0]
    told = int(bar.get_attribute("aria-label").split(" ")[0])
    page.execute_script("arguments[0].dispatchEvent(new MouseEvent('click'))", bar)
    wait(lambda: status(page).startswith(f"{told} of "))


def test_view_is_in_the_address(page, folder):
    visit(page, folder, "#gallery")
    fill(page, "image < 3")
    wait(lambda: status(page) == "3 of 59 images")
    address = page.current_url
    page.get("about:blank")
    page.get(address)
    wait(lambda: status(page) == "3 of 59 images")
    assert find(page, "#filter")[0].get_attribute("value") == "image < 3"


def test_text_has_enough_contrast_in_both_themes(page, folder):
    """WCAG AA asks 4.5 : 1 of normal text."""
    script = """
      const luminance = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
      const ground = (n) => { for (; n; n = n.parentElement) { const c = getComputedStyle(n).backgroundColor; if (!/, 0\\)|transparent/.test(c) && !c.startsWith('color(')) return c; } return 'rgb(255,255,255)'; };
      const low = [];
      for (const n of document.querySelectorAll('main *:not(svg *), nav a')) {
        if (![...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim()) || !n.offsetParent) continue;
        const [a, b] = [luminance(getComputedStyle(n).color), luminance(ground(n))].sort((x, y) => y - x);
        if ((a + .05) / (b + .05) < 4.5) low.push(n.textContent.slice(0, 30));
      }
      return low;"""
    for dark in (False, True):
        resize(page, 1280, dark=dark)
        for view in ("overview", "gallery", "classes"):
            visit(page, folder, f"#{view}")
            assert page.execute_script(script) == []


@contextmanager
def large_page(tmp_path, count):
    """A page of many images and no thumbnail files: what the page itself does with them."""
    told = {
        "mode": "static",
        "title": "many",
        "subtitle": "",
        "tiles": [],
        "spec": [],
        "command": None,
        "throughput": [],
        "failures": [],
        "methods": [{"group": "ig", "expression": "ig", "name": "ig"}],
        "classes": {i: f"class {i}" for i in range(1000)},
        "perClass": [{"id": i, "n": 50, "right": 0.5, "places": {}, "hasMeans": False} for i in range(1000)],
        "areas": {},
        "overall": {},
        "images": {
            "image": list(range(count)),
            "key": [f"val/{i:08d}.jpg" for i in range(count)],
            "label": [i % 1000 for i in range(count)],
            "prediction": [i * 7 % 1000 for i in range(count)],
            "probability": [i * 31 % 997 / 997 for i in range(count)],
            "disagreement": [None] * count,
        },
        "metrics": ["abs_sum"],
        "values": {"ig": {"abs_sum": [i * 17 % 1009 / 3 for i in range(count)]}},
    }
    path = tmp_path / "many.html"
    path.write_text(render(json.loads(json.dumps(told))))
    yield path.as_uri()


def test_fifty_thousand_images_are_a_window_of_a_few_cards(browser, tmp_path):
    resize(browser, 1280)
    with large_page(tmp_path, 50_000) as address:
        browser.get(address + "#gallery")
        wait(lambda: status(browser) == "50,000 images")
        assert len(names(browser)) < 100
        browser.execute_script("scrollTo(0, document.body.scrollHeight)")
        wait(lambda: "val/00049999.jpg" in names(browser))
        assert len(names(browser)) < 100
        browser.execute_script("scrollTo(0, 0)")
        fill(browser, "abs_sum > 300 and probability < 0.1")
        expected = sum(i * 17 % 1009 / 3 > 300 and i * 31 % 997 / 997 < 0.1 for i in range(50_000))
        wait(lambda: status(browser) == f"{expected:,} of 50,000 images")
        browser.get(address + "#classes")
        wait(lambda: len(find(browser, "#class-table tbody tr")) == 100)
        browser.execute_script("document.getElementById('all-classes').click()")
        assert len(find(browser, "#class-table tbody tr")) == 1000
    browser.get_log("browser")  # the missing thumbnails of this test
