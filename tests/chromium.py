"""A page in headless Chromium, driven over its debugging pipe, without any package: Page, CHROMIUM."""

import base64
import json
import os
import shutil
import subprocess
import time
from urllib.parse import urlsplit

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio")


class Page:
    """with Page(url) as page: page.wait("document.title"); `hosts` are those whom it asked for anything."""

    def __init__(self, url: str, profile, width: int = 1100, height: int = 800):
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        flags = [*OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "--remote-debugging-pipe"]
        # Chromium reads commands from descriptor 3 and writes to 4.
        line = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", line, CHROMIUM, *flags, "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in), os.close(theirs_out)
        self._rest, self._number, self._session, self.hosts = b"", 0, None, set()
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Network.enable")
        self._call("Page.navigate", url=url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._in), os.close(self._out)

    def _call(self, method: str, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") == "Network.requestWillBeSent":
                host = urlsplit(answer["params"]["request"]["url"]).netloc
                self.hosts |= {host} - {""}  # data: has none
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            more = os.read(self._in, 1 << 16)
            assert more, "Chromium has ended"
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def ask(self, script: str):
        """The value of a JavaScript expression."""
        result = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 120):
        """The expression's value once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.ask(script)):
            assert time.monotonic() < end, f"still not: {script}\n{self.ask('document.body.innerText')}"
            time.sleep(0.1)
        return value

    def click(self, selector: str, text: str) -> None:
        """Click the visible element of this text, once it is there."""
        shown = (
            f"[...document.querySelectorAll('{selector}')].find(e => e.innerText.trim() == '{text}' && e.offsetParent)"
        )
        self.wait(f"(() => {{ const found = {shown}; found?.click(); return Boolean(found); }})()")

    def fill(self, selector: str, text: str) -> None:
        """Type into the first visible field; pages listen to the event, not to the value."""
        event = "new Event('input', {bubbles: true})"
        field = f"[...document.querySelectorAll('{selector}')].find(field => field.offsetParent)"
        self.wait(f"Boolean({field})")
        self.ask(
            f"(() => {{ const field = {field}; field.value = {json.dumps(text)}; field.dispatchEvent({event}); }})()"
        )

    def choose(self, label: str, text: str) -> None:
        """Choose from a list by its label."""
        listed = f"[...document.querySelectorAll('[aria-label={json.dumps(label)}]')].find(e => e.offsetParent)"
        self.wait(f"(() => {{ const list = {listed}; list?.focus(); list?.click(); return Boolean(list); }})()")
        option = f"[...document.querySelectorAll('[role=option]')].find(e => e.innerText.includes({json.dumps(text)}))"
        press = "new MouseEvent('mousedown', {bubbles: true})"
        self.wait(f"(() => {{ const o = {option}; o?.dispatchEvent({press}); return Boolean(o); }})()")

    def upload(self, selector: str, path) -> None:
        """Give a file to the last input of this kind, once it is there."""
        self.wait(f"document.querySelector('{selector}') !== null")
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        nodes = self._call("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"]
        self._call("DOM.setFileInputFiles", nodeId=nodes[-1], files=[str(path)])

    def screenshot(self, path) -> None:
        with open(path, "wb") as file:
            file.write(base64.b64decode(self._call("Page.captureScreenshot")["data"]))
