"""A headless Chromium, driven over its DevTools protocol: nothing to install but Debian's package and websockets."""

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip
LIMIT_S = 60
HERE = Path(__file__).resolve().parent


def found() -> str | None:
    """Where the browser is."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One browser with one page. `problems` are the console's errors, `asked` the addresses of all requests."""

    def __init__(self) -> None:
        from websockets.sync.client import connect

        self.problems: list[str] = []
        self.asked: list[str] = []
        self._next, self._session = 0, None
        with contextlib.ExitStack() as stack:
            profile = stack.enter_context(tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True))
            process = subprocess.Popen(
                [found() or "chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(_end, process)
            port = Path(profile) / "DevToolsActivePort"
            end = time.monotonic() + LIMIT_S
            while not (port.exists() and port.read_text().count("\n")):
                assert process.poll() is None and time.monotonic() < end, "the browser did not start"
                time.sleep(0.05)
            number, path = port.read_text().split("\n")[:2]
            address = f"ws://127.0.0.1:{number}{path}"
            self._socket = stack.enter_context(connect(address, max_size=None, open_timeout=LIMIT_S, proxy=None))
            (page,) = [one for one in self.do("Target.getTargets")["targetInfos"] if one["type"] == "page"]
            self._session = self.do("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.do(f"{domain}.enable")
            self._opened = stack.pop_all()

    def close(self) -> None:
        self._opened.close()

    def do(self, method: str, **parameters):
        """Call one method of the protocol; what the page says meanwhile is kept."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=LIMIT_S))
            if answer.get("id") == self._next:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def show(self, path: Path, width: int, dark: bool = False, height: int = 900) -> None:
        """Open a file at a width, in a system that wishes for light or dark."""
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.wish(dark)
        self.do("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + LIMIT_S
        while not self.run("document.readyState === 'complete' && location.protocol === 'file:'"):
            assert time.monotonic() < end, "the page did not load"
            time.sleep(0.02)

    def wish(self, dark: bool = False, media: str = "") -> None:
        """What the system wishes for, and whether it prints."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.do("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, script: str):
        """What an expression gives in the page."""
        done = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def picture(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.do("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        taken = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _note(self, method: str | None, parameters: dict) -> None:
        if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.problems.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.problems.append(str(parameters["args"]))
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(parameters["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append(parameters["request"]["url"])


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
