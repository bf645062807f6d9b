# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless Chromium, spoken to over two pipes (DevTools protocol): no driver, no port, no network.

`tools/setup dev` unpacks Debian's package below .cache/dev, and fetches axe-core beside it.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".cache" / "dev" / "root"
AXE = ROOT / ".cache" / "dev" / "axe.min.js"
_ANSWER_S = 60
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27, "ArrowDown": 40}


def program() -> tuple[str, dict[str, str]]:
    """The browser, and the environment that it needs."""
    found = UNPACKED / "usr" / "lib" / "chromium" / "chromium"
    if not found.exists():
        installed = shutil.which("chromium")
        assert installed, "chromium is missing: tools/setup dev fetches it (package chromium)"
        return installed, {}
    folders = sorted({str(path.parent) for path in UNPACKED.rglob("*.so*")})
    fonts = UNPACKED / "etc" / "fonts"
    more = {"FONTCONFIG_PATH": str(fonts)} if fonts.exists() and not Path("/etc/fonts").exists() else {}
    return str(found), {"LD_LIBRARY_PATH": ":".join(folders), **more}


def axe() -> str:
    """The accessibility checker, to be put into a page."""
    assert AXE.exists(), "axe-core is missing: tools/setup dev fetches it if npm is there and knows a registry"
    return AXE.read_text(encoding="utf-8")


class Browser:
    """One tab. Raises AssertionError where the browser says no, or nothing."""

    def __init__(self, folder: Path) -> None:
        argv, more = program()
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        # The protocol wants them as 3 and 4; moved there by the shell, after all that Python has opened.
        script = f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}'
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "--disable-dev-shm-usage", "about:blank"]
        for end in (to_child, from_child):
            fcntl.fcntl(end, fcntl.F_SETFD, 0)
        self._process = subprocess.Popen(
            ["bash", "-c", script, argv, *options],
            env={**os.environ, **more, "HOME": str(folder)},
            pass_fds=(to_child, from_child),
            stderr=(folder / "stderr").open("w"),
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer = b""
        self._number = 0
        self._session = ""
        #: What the page has complained of, on its console or by an exception.
        self.complaints: list[str] = []
        self.requests: list[str] = []
        (tab,) = [item for item in self.ask("Target.getTargets")["targetInfos"] if item["type"] == "page"]
        self._session = self.ask("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    # -- the protocol --------------------------------------------------------------------------------------------------

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, f"{method}: {found['error']}"
                return dict(found["result"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _ANSWER_S
        while b"\0" not in self._buffer:
            ready = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(self._in, 1 << 20) if ready else b""
            assert data, "chromium does not answer"
            self._buffer += data
        line, _end, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        self._note(found)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(str(parameters["entry"]["text"]))
        elif event.get("method") == "Network.requestWillBeSent":
            self.requests.append(str(parameters["request"]["url"]))
        elif event.get("method") == "Page.javascriptDialogOpening":
            self.complaints.append(f"a dialog: {parameters['message']}")

    # -- what a person does --------------------------------------------------------------------------------------------

    def look(self, width: int, height: int = 800, scheme: str = "light", media: str = "") -> None:
        """A screen of this size (CSS pixels), in this colour scheme; or paper, with media `print`."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)

    def scripts(self, allowed: bool) -> None:
        """Whether pages may run scripts, from the next one on."""
        self.ask("Emulation.setScriptExecutionDisabled", value=not allowed)

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is shown."""
        self.complaints.clear()
        self.requests.clear()
        self.ask("Page.navigate", url=path.as_uri())
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """What an expression comes to in the page; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until it is true."""
        deadline = time.monotonic() + _ANSWER_S
        while not self.value(expression):
            assert time.monotonic() < deadline, f"never became true: {expression}"

    def press(self, key: str, times: int = 1) -> None:
        """A key of the keyboard."""
        code = KEYS[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for _time in range(times):
            for kind in ("keyDown", "keyUp"):
                typed = {"text": text} if text and kind == "keyDown" else {}
                name = {" ": "Space"}.get(key, key)
                self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=name, windowsVirtualKeyCode=code, **typed)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.ask("Input.insertText", text=text)

    def tab_to(self, found: Callable[[str], bool], most: int = 60) -> None:
        """Press Tab until what has the focus is the right thing, as a description says: `a#id text`."""
        focus = "(e => e.localName + '#' + e.id + ' ' + e.textContent.slice(0, 80))(document.activeElement)"
        seen = []
        for _step in range(most):
            self.press("Tab")
            seen.append(str(self.value(focus)))
            if found(seen[-1]):
                return
        raise AssertionError(f"the keyboard does not lead there: {seen}")

    def picture(self, width: int, height: int) -> bytes:
        """The upper part of the page as PNG."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", clip=clip)["data"])
