"""`serve` answers from the run as it is, only to this machine, and its SQL box has the sandbox of `query`."""

import http.client
import io
import json
import threading

import numpy as np
import pytest
from browser import chromium, problems
from fake_runs import IG, fake_run
from PIL import Image

from jobs.report import write_report
from jobs.serve import HOST, address_of, make_server


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("serve"), 24)


@pytest.fixture(scope="module")
def server(run):
    server = make_server(run)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server, path, method="GET", host=None):
    connection = http.client.HTTPConnection(HOST, server.server_address[1], timeout=30)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer, answer.read()


def picture(server, path):
    answer, content = ask(server, path)
    assert answer.status == 200, content
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert address_of(server).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_another_hosts_name_is_refused(server, host):
    assert ask(server, "/", host=host or "x")[0].status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_but_reading(server, method):
    assert ask(server, "/", method)[0].status == 501


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/../run.json",
        "/strip/99.jpg",
        "/strip/-1.jpg",
        "/map/lrp/0.png",
        "/map/..%2f..%2fx/0.png",
        "/original/24.png",
    ],
)
def test_what_is_not_there_is_not_found(server, path):
    answer, content = ask(server, path)
    assert answer.status == 404
    assert "error" in json.loads(content)


def test_pictures_are_drawn_from_the_run(server, run):
    assert picture(server, "/strip/3.jpg").shape == (176, 7 * 176, 3)
    assert picture(server, "/original/3.png").shape == (48, 48, 3)
    own, shared, heat = (
        picture(server, f"/map/{IG.group}/3.png{query}") for query in ("", "?scale=shared", "?style=heat")
    )
    assert own.shape == shared.shape == heat.shape == (48, 48, 3)
    assert not np.array_equal(own, shared)
    values = run.attributions(IG.group)[3].sum(axis=0)
    y, x = np.unravel_index(values.argmax(), values.shape)
    assert heat[y, x, 0] > heat[y, x, 2]  # what speaks for the class is red


def test_a_failed_image_is_drawn_without_attribution(server):
    shown = picture(server, f"/map/{IG.group}/5.png")
    assert np.ptp(shown, axis=2).max() == 0


def test_selection_is_sql_over_the_chosen_method(server):
    answer, content = ask(server, f"/select?where=convergence_delta%20%3D%200.04%20--%20worst&method={IG.group}")
    assert (answer.status, json.loads(content)) == (200, {"images": [8, 17]})
    answer, content = ask(server, "/select?where=convergence_delta%20is%20not%20null&method=saliency")
    assert json.loads(content) == {"images": []}


@pytest.mark.parametrize(
    "where",
    [
        "nose > 1",
        "1 = 1) ; drop table summary; --",
        "(select count(*) from read_csv('/etc/passwd')) > 0",
        "1 = 1; copy summary to '/tmp/x.csv'",
        "select",
    ],
)
def test_what_the_sandbox_refuses_is_an_error_of_one_line(server, where):
    from urllib.parse import quote

    answer, content = ask(server, f"/select?where={quote(where)}&method={IG.group}")
    assert answer.status == 400
    assert "\n" not in json.loads(content)["error"].strip()


def test_a_query_without_its_parts_says_which(server):
    answer, content = ask(server, "/select?where=1=1")
    assert (answer.status, json.loads(content)) == (400, {"error": "the query lacks method"})


def test_page_follows_the_run_and_the_kept_survey(tmp_path):
    run = fake_run(tmp_path, 24, units=range(1))
    server = make_server(run)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        before = ask(server, "/")[1]
        assert b'"border_share":[' not in before
        fake_run(tmp_path, 24, units=range(1, 2))
        assert ask(server, "/")[1] != before
    finally:
        server.shutdown()
        server.server_close()
    write_report(run, tmp_path / "site")
    assert {"places", "class_statistics", "mean_maps"} <= set(run.tables())


def test_mean_maps_of_a_report_are_served_as_the_report_has_them(tmp_path):
    run = fake_run(tmp_path, 24, failed=(5,), empty=(2,))
    write_report(run, tmp_path / "site")
    server = make_server(run)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert b'"hasMeans":true' in ask(server, "/")[1]
        for kind in range(4):
            answer, content = ask(server, f"/thumbs/class/{kind}.jpg")
            assert answer.status == 200
            drawn = np.asarray(Image.open(io.BytesIO(content)), int)
            static = np.asarray(Image.open(tmp_path / "site" / "thumbs" / "class" / f"{kind}.jpg"), int)
            assert np.abs(drawn - static).mean() < 1  # kept with 10 bits: the last shade may differ
        assert ask(server, "/thumbs/class/99.jpg")[0].status == 404
        assert ask(server, "/thumbs/class/nose.jpg")[0].status == 404
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.browser
def test_served_page_filters_with_sql_and_opens_maps(server):
    with chromium() as page:
        page.get(address_of(server) + "#gallery")
        status = "return document.getElementById('status')?.textContent"
        box = page.find_element("css selector", "#filter")
        box.send_keys("image between 6 and 9 and abs_sum > (select median(abs_sum) from summary)")
        from test_report_in_browser import wait

        wait(lambda: "of 23 images" in (page.execute_script(status) or ""))
        page.find_element("css selector", "#sheet .photo").click()
        drawn = "return [...document.querySelectorAll('#viewer img')].filter((i) => i.complete && i.naturalWidth === 48).length"
        wait(lambda: page.execute_script(drawn) == 4)
        assert problems(page) == []
        page.find_element("css selector", '[data-name="close"]').click()
        box.clear()
        box.send_keys("nose > 1")
        wait(lambda: "nose" in page.execute_script(status))
