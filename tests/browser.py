"""A real headless Chromium for the tests of the report; skipped with the reason where there is none."""

import contextlib
import shutil
import tempfile

import pytest

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
]


@contextlib.contextmanager
def chromium(*flags):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the test extra's selenium")
    browser, driver = (
        shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"),
        shutil.which("chromedriver"),
    )
    if not browser or not driver:
        pytest.skip("needs Chromium and chromedriver (apt-get install chromium chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in (*FLAGS, f"--user-data-dir={profile}", *flags):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        page.set_page_load_timeout(60)
        page.set_script_timeout(30)
        try:
            yield page
        finally:
            page.quit()


def resize(page, width, height=900, *, dark=False):
    """Set the viewport itself, below the smallest window a desktop browser allows."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def problems(page):
    """Errors the console has seen since the last call."""
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]
