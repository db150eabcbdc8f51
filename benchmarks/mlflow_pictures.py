"""Takes the pictures of MLflow in docs/: `python benchmarks/mlflow_pictures.py runs/quickstart docs`.

Logs a finished sweep into a fresh store, serves it on this machine, and opens its pages in Chromium. Needs
`chromium`, `chromedriver` and the extra `test`.
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
from pathlib import Path

from selenium import webdriver

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.records import load_results
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.tracking.tracker import Tracker

SECONDS = 15
"""Until a page has drawn its charts."""


def main(sweep: Path, out: Path) -> None:
    """Writes `mlflow-comparison.png` and `mlflow-curve.png`."""
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.close()
        store = ["--backend-store-uri", f"sqlite:///{scratch}/mlflow.db", "--artifacts-destination", f"{scratch}/files"]
        command = [sys.executable, "-m", "mlflow", "server", *store, "--port", address.rpartition(":")[2]]
        server = subprocess.Popen([*command, "--workers", "1"])
        try:
            _wait_for(address)
            tracker = Tracker.open(address, sweep.name, sweep.name)
            for result in load_results(sweep):
                tracker.log_cell(result, sweep / "cells" / result.id)
            tracker.log_report(SweepResults(sweep, ReportInputs(sweep.name)).table, [], "0" * 8)
            tracker.close()
            assert tracker.curve_url is not None
            _picture(tracker.comparison_url, out / "mlflow-comparison.png", scratch)
            _picture(tracker.curve_url, out / "mlflow-curve.png", scratch)
        finally:
            server.terminate()
            server.wait()


def _wait_for(address: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/health")
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"the server at {address} does not answer")


def _picture(url: str, path: Path, scratch: str) -> None:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    for flag in (*flags, "--disable-component-update", "--disable-sync", f"--user-data-dir={scratch}/profile"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_window_size(2100, 900)
        driver.get(url)
        time.sleep(SECONDS)
        driver.save_screenshot(str(path))
    finally:
        driver.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    main(arguments.sweep, arguments.out)
