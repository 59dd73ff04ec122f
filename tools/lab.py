"""JupyterLab in a real browser, for tests/browser and for the pictures of the README.

It needs Playwright (in requirements.txt) and a Chromium of the system: `make test-browser` installs
Debian's where it may. Nothing outside 127.0.0.1 is asked for, and no setting of yours is read.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as BrowserTimeout

SECONDS = 180  # for one notebook
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
SETTINGS = {
    "apputils-extension/notification": {
        "fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True,
    },
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight exist, too
}  # fmt: skip


def find_chromium() -> str | None:
    """Path of the browser: $CHROMIUM, or the first of NAMES on the path."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class Lab:
    """A JupyterLab server and a browser that shows it."""

    def __init__(self, folder: Path, url: str, token: str, browser: Browser) -> None:
        self.folder, self.url, self.token, self.browser = folder, url, token, browser

    def open(self, notebook: str, width: int = 1200, height: int = 1000) -> Page:
        """Open a notebook, run all its cells, and wait until every one has its number.

        Raises: OSError with the errors shown, if that does not happen.
        """
        page = self.browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(SECONDS * 1000)
        workspace = Path(notebook).stem  # one each, or the tabs of the last page come back
        page.goto(f"{self.url}/lab/workspaces/{workspace}/tree/{notebook}?token={self.token}")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        self.wait_until_idle(page)
        for command in ("clear-all-cell-outputs", "run-all-cells"):
            page.evaluate(f"window.jupyterapp.commands.execute('notebook:{command}')")
        try:
            page.wait_for_function(
                "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')]"
                ".every(prompt => /[0-9]/.test(prompt.innerText))"
            )
        except BrowserTimeout:
            errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
            raise OSError(
                f"{notebook} did not run to its end: {errors.all_inner_texts()}"
            ) from None
        self.wait_until_idle(page)
        page.set_default_timeout(20_000)
        return page

    def wait_until_idle(self, page: Page) -> None:
        page.wait_for_function("document.body.innerText.includes('| Idle')")


@contextmanager
def jupyter_lab(folder: Path, scratch: Path) -> Iterator[Lab]:
    """Serve the notebooks of a folder; configuration and logs stay in scratch.

    Raises: OSError if there is no Chromium, or the server does not answer.
    """
    if (chromium := find_chromium()) is None:
        raise OSError("no Chromium was found: install one (sudo apt-get install chromium), "
                      "or set CHROMIUM to its path")  # fmt: skip
    for name, values in SETTINGS.items():
        path = scratch / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, token = f"http://127.0.0.1:{port}", secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.allow_root=True",
        f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        "JUPYTER_DATA_DIR": str(scratch / "data"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "IPYTHONDIR": str(scratch / "ipython"),
    }
    log_path = scratch / "jupyter.log"
    with log_path.open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"{url}/api?token={token}", server, log_path)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
                yield Lab(folder, url, token, browser)
                browser.close()
        finally:
            server.terminate()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.5)
    raise OSError(f"JupyterLab did not start: {log.read_text(encoding='utf-8')[-2000:]}")
