"""A headless browser that is driven through the DevTools protocol, over its pipe."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from select import select
from time import monotonic

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")
BROWSERS = ("chromium", "google-chrome")

# Become a command that reads from descriptor 3 and writes to 4, as the browser does with its pipe.
AS_3_AND_4 = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, descriptor in zip((3, 4), high):
    os.dup2(descriptor, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser():
    """The path of an installed browser; None if there is none (Debian: chromium; tools/services.sh installs it)."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Page:
    """A page in a browser of its own.

    Args:
        path: of the HTML file.
        width: of the window, pixels.
        height: likewise.
        dark: whether the reader prefers dark colours.
        fragment: the part of the address from # on.

    Attributes:
        requests: addresses that the page asked for, but for data: ones.
        failures: why requests failed.
        errors: uncaught errors and messages of the console.
    """

    def __init__(self, path, width=1280, height=900, dark=False, fragment=""):
        self.requests, self.failures, self.errors = [], [], []
        self._number, self._buffer, self._session = 0, b"", None
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        command = [find_browser(), *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        start = [sys.executable, "-S", "-c", AS_3_AND_4, str(to_read), str(to_write), *command]
        self._process = subprocess.Popen(
            start, pass_fds=[to_read, to_write], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for descriptor in (to_read, to_write):
            os.close(descriptor)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        mobile = width < 600
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=path.as_uri() + fragment)
        loaded = "document.readyState == 'complete' ? done() : addEventListener('load', done)"
        self.evaluate(f"new Promise(done => {loaded})")

    def evaluate(self, expression):
        """The value of an expression in the page, which may be a promise."""
        done = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def press(self, key, code):
        """Press and release a key, as in `press("Enter", 13)`."""
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def drag(self, start, end, touch=False):
        """Press at a point of the window, (x, y), move to another in steps and let go, by mouse or by finger."""
        between = [tuple(a + (b - a) * part / 3 for a, b in zip(start, end, strict=True)) for part in range(4)]
        if touch:
            for kind, point in [
                ("touchStart", between[0]),
                *(("touchMove", p) for p in between[1:]),
                ("touchEnd", None),
            ]:
                points = [dict(zip("xy", point, strict=True))] if point else []
                self._call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
            return
        for kind, (x, y) in [
            ("mousePressed", between[0]),
            *(("mouseMoved", p) for p in between),
            ("mouseReleased", end),
        ]:
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self, path, whole=True):
        """Save a picture of the page."""
        data = self._call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        with suppress(OSError, TimeoutError, EOFError):
            self._call("Browser.close", browser=True)
        for descriptor in (self._write, self._read):
            os.close(descriptor)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _call(self, method, browser=False, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session and not browser:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = monotonic() + 60
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, event, params):
        if event == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])
        elif event == "Network.loadingFailed":
            self.failures.append(f"{params['errorText']} blocked:{params.get('blockedReason', '')}")
        elif event in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.errors.append(json.dumps(params))

    def _next(self, deadline):
        while b"\0" not in self._buffer:
            if not select([self._read], [], [], max(0, deadline - monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise EOFError("the browser has ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)
