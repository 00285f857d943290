"""Pictures of every page of `nasopt dashboard`, in a headless Chromium.

    python scripts/screenshot_dashboard.py --storage sqlite:///nasopt.db --study quickstart --to pictures

Needs Chromium and its driver (Debian: chromium, chromium-driver) and selenium.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

START_S = 60
PAGE_S = 60
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--window-size=1600,1400",
)


def find_browser() -> tuple[str, str] | None:
    """Chromium and its driver; None if one of them is not installed."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


@contextmanager
def open_browser() -> Iterator[webdriver.Chrome]:
    """A fresh headless browser that keeps its console's messages."""
    found = find_browser()
    if found is None:
        sys.exit("Chromium and its driver are needed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options, webdriver.ChromeService(found[1]))
        try:
            yield browser
        finally:
            browser.quit()


@contextmanager
def serve(storage: str, artifacts: Path | None = None) -> Iterator[str]:
    """`nasopt dashboard` on a free port; its address once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "nasopt", "dashboard", "--port", str(port), "--storage", storage]
    process = subprocess.Popen(command + (["--artifacts", str(artifacts)] if artifacts else []))
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not _answers(f"{address}/api/meta"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the dashboard did not start (exit code {process.poll()})")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def wait_for_text(browser: webdriver.Chrome, *texts: str, seconds: float = PAGE_S) -> None:
    """Waits until the page shows all of the texts, plots included."""

    def shows(_: webdriver.Chrome) -> bool:
        shown = browser.execute_script("return document.body.textContent")
        return all(text in shown for text in texts)

    WebDriverWait(browser, seconds).until(shows, f"the page does not show {texts}")


def console_errors(browser: webdriver.Chrome) -> list[str]:
    """The errors of the page's console since the last call."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def pages(study_id: int, trial: int, metrics: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Path of each page, and what it shows when it is complete."""
    root = f"/dashboard/studies/{study_id}"
    return {
        "history": (root, ["Pareto Front", "History", *metrics[:2], "Hypervolume over trials"]),
        "analytics": (f"{root}/analytics", ["Slice", "Param "]),
        "trial": (f"{root}/trials?numbers={trial}", ["Part by part", "Artifacts"]),
        "note": (f"{root}/note", ["on the front", "what stays"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default="sqlite:///nasopt.db")
    parser.add_argument("--study", required=True)
    parser.add_argument("--trial", type=int, default=0, help="whose page is shown")
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    study = optuna.load_study(study_name=arguments.study, storage=arguments.storage)
    with serve(arguments.storage) as address, open_browser() as browser:
        for name, (path, texts) in pages(study._study_id, arguments.trial, study.metric_names or []).items():
            browser.get(address + path)
            wait_for_text(browser, *texts)
            time.sleep(2)  # plots are drawn after their data have come
            browser.save_screenshot(str(arguments.to / f"{name}.png"))
            print(arguments.to / f"{name}.png", *console_errors(browser))


if __name__ == "__main__":
    main()
