"""The report in headless Chromium without a network: it is complete, and it sends no requests.

The pages can be read at the width of a laptop and of a phone. REIDLIB_REPORT may name the folder of a report
that exists; otherwise a small one is built. The tests drive the browser through its DevTools protocol.
Screenshots go to REIDLIB_SCREENSHOTS if that names a folder.
"""

import base64
import json
import os
import re
import shutil
import socketserver
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest

from reidlib.report.outside import SCRIPTS
from reidlib.study.steps import Step

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LAPTOP, PHONE = (1280, 900), (390, 844)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-default-apps",
    ),
    *("--disable-extensions", "--no-pings", "--disable-client-side-phishing-detection"),
    "--disable-features=NetworkTimeServiceQuerying,OptimizationHints,MediaRouter,Translate",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
]

# Chromium asks its maker's services by itself, whatever page is shown. Which ones, and how, changes from
# version to version. It does so outside the page's browser context, whose proxy is the one that counts. One
# of them may go through that context all the same, so the proxy does not count them. A page that asked them
# would be seen in its own network events.
OWN_SERVICES = ("google.com", "googleapis.com", "gstatic.com", "googleusercontent.com", "gvt1.com")

pytestmark = pytest.mark.browser

# Everything on the page that is wider than the window and does not scroll within a container of its own.
OVERFLOW = """
(() => {
  const scrolls = (element) => {
    for (let box = element; box && box !== document.body; box = box.parentElement)
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(box).overflowX)) return true;
    return false;
  };
  const wide = [...document.body.querySelectorAll("*")].filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.right > innerWidth + 1 && !scrolls(element);
  });
  const starts = wide.map((element) => element.outerHTML.slice(0, 80));
  return [document.documentElement.scrollWidth - innerWidth, starts];
})()
"""
# How many elements run, load or lead away by themselves, and the first comment.
HARMFUL = """
[
  document.querySelectorAll("base, embed, iframe, math, object, svg, meta[http-equiv=refresh i]").length,
  document.createTreeWalker(document, NodeFilter.SHOW_COMMENT).nextNode()?.data ?? null,
]
"""
# The text of every script that runs; data for scripts do not.
RUNNING = "[...document.scripts].filter((one) => one.type !== 'application/json').map((one) => one.text)"
INCOMPLETE = """
[...document.images].filter((image) => !image.complete || !image.naturalWidth).map((image) => image.alt)
"""
# Texts with less contrast to what is behind them than WCAG asks (4.5, or 3 from 24 px on).
FAINT = """
(() => {
  const channels = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = (rgb) => rgb.slice(0, 3).map((c) => linear(c / 255))
    .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), faint = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest("[aria-hidden]")) continue;
    const style = getComputedStyle(element);
    const both = [luminance(channels(style.color)), luminance(ground(element))].sort((a, b) => b - a);
    const ratio = (both[0] + 0.05) / (both[1] + 0.05);
    const wanted = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < wanted) faint.push([ratio, element.textContent.trim().slice(0, 40)]);
  }
  return faint;
})()
"""


class Browser:
    """Headless Chromium without a network.

    Requests of its pages go to a proxy that counts and refuses them. All other requests go nowhere.
    """

    def __init__(self, folder: Path):
        import websocket  # comes with JupyterLab

        self.refused: list[str] = []
        refused = self.refused

        class Refuse(socketserver.StreamRequestHandler):
            def handle(self):
                asked = self.rfile.readline().decode(errors="replace").strip()
                if asked and not is_own_service(asked):  # "": a connection opened in advance and never used
                    refused.append(asked)

        self.proxy = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refuse)
        threading.Thread(target=self.proxy.serve_forever, daemon=True).start()
        nowhere = "--proxy-server=http://127.0.0.1:9"  # nothing listens on this port
        arguments = [CHROMIUM, *FLAGS, nowhere, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = folder / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not port_file.exists() or len(port_file.read_text().splitlines()) < 2:
            assert time.monotonic() < deadline and self.process.poll() is None, "Chromium did not start"
            time.sleep(0.05)
        port, path = port_file.read_text().split()
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=60)
        self.sent, self.session, self.events = 0, None, []
        counting = f"http://127.0.0.1:{self.proxy.server_address[1]}"
        context = self.call(
            "Target.createBrowserContext", proxyServer=counting, proxyBypassList="<-loopback>"
        )
        target = self.call("Target.createTarget", url="about:blank", **context)["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.sent:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, size: tuple[int, int] = LAPTOP, scheme: str = "light") -> list[dict]:
        """Loads the page in a window of this size. Returns the events until it was loaded."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events = []
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))
        self.call("Runtime.evaluate", expression="document.fonts.ready", awaitPromise=True)
        return self.events

    def evaluate(self, expression: str):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        )

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)
        self.proxy.shutdown()
        self.proxy.server_close()


def is_own_service(asked: str) -> bool:
    """Whether a request line to a proxy names one of Chromium's own services.

    Such a line is `CONNECT host:443 HTTP/1.1` or `POST http://host/path HTTP/1.1`.
    """
    address = asked.split(" ")[1] if asked.count(" ") else ""
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    return any(host == service or host.endswith(f".{service}") for service in OWN_SERVICES)


def requests(events: list[dict]) -> list[str]:
    """Addresses that the page asked for, other than files and embedded data."""
    addresses = [
        event["params"]["request"]["url"]
        for event in events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    return [address for address in addresses if not address.startswith(("file:", "data:"))]


def complaints(events: list[dict]) -> list[str]:
    """What the browser wrote to its console, such as violations of the content security policy."""
    return [event["params"]["entry"]["text"] for event in events if event.get("method") == "Log.entryAdded"]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    if os.environ.get("REIDLIB_REPORT"):
        folder = Path(os.environ["REIDLIB_REPORT"])
        assert (folder / "index.html").is_file(), f"REIDLIB_REPORT: {folder} has no index.html"
        return folder
    from test_report import FACTS, make_study

    from reidlib.report import build_report

    study, steps = make_study(tmp_path_factory.mktemp("checkout"))
    return build_report(study, title="Two attention papers", facts=FACTS, steps=steps).parent


# Whatever of this a browser takes for its own is seen: it runs a script, asks for a file, or leaves.
TRAPS = """
<script>window.ran = 1</script><svg onload="window.ran = 1"></svg><details open ontoggle="window.ran = 1">
<img src="https://example.org/a.png" onerror="window.ran = 1">
<link rel=stylesheet href="https://example.org/b">
<style>@import "https://example.org/c"; @font-face { font-family: x; src: url(https://example.org/d) }</style>
<iframe src="https://example.org/e"></iframe><video autoplay src="https://example.org/f"></video>
<p style="background: url(https://example.org/g)">x</p><object data="https://example.org/h"></object>
<input type=image src="https://example.org/i" autofocus onfocus="window.ran = 1">
<meta http-equiv=refresh content="0;url=https://example.org/j"><base href="https://example.org/k">
"""


@pytest.fixture(scope="module")
def hostile_pages(tmp_path_factory) -> list[Path]:
    """A report whose names, cells and outputs all hold traps; each page with the policy and without it."""
    import test_report as made
    from nbformat.v4 import new_output

    from reidlib.report import build_report

    study, _ = made.make_study(tmp_path_factory.mktemp("hostile"))
    traps = [text.replace("{}", TRAPS) for text in made.HIDDEN]
    steps = []
    for number, trap in enumerate([*traps, *made.NAMES]):
        frame = pd.DataFrame({trap: [trap]}, index=[trap])
        tables = [frame.to_html(escape=False), frame.style.to_html()]
        kinds = [("text/html", html) for html in [trap, *tables]]
        kinds += [(kind, trap) for kind in ("text/markdown", "text/plain", "text/latex")]
        outputs = [made.shown({kind: text}) for kind, text in kinds]
        picture = {"image/png": {"alt": trap, "width": 9}}
        outputs += [made.shown({"image/png": made.png(2, 1)}, **picture)]
        outputs += [made.shown({"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'>{trap}</svg>"})]
        outputs += [new_output("stream", name=name, text=trap) for name in ("stdout", "stderr")]
        outputs += [new_output("error", ename=trap, evalue=trap, traceback=[trap])]
        name = f"5{number}_trap" if number % 5 else f"10_train/trap-{number}"
        cells = [made.markdown(f"# {trap}"), made.markdown(trap)]
        cells += [made.code(trap, *outputs, caption=trap, alt=trap, tags=["injected-parameters"])]
        suffix = ".failed.ipynb" if number % 7 == 0 else ".ipynb"
        made.write_executed(study.notebooks / f"{name}{suffix}", *cells)
        steps.append(Step(name, name.split("/")[0], {}, title=trap if number % 2 else ""))
    facts = {"claim": TRAPS, "caveats": traps[:3], TRAPS: TRAPS}
    index = build_report(study, title=TRAPS, facts=facts, steps=steps)
    bare = index.parent.with_name("without policy")
    bare.mkdir()
    for path in index.parent.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert text.count("Content-Security-Policy") == 1
        (bare / path.name).write_text(text.replace("Content-Security-Policy", "x"), encoding="utf-8")
    return [*sorted(index.parent.glob("*.html")), *sorted(bare.glob("*.html"))]


def consequences(browser, path: Path) -> list:
    """What a page asked for, ran, or complained about, and where it went, until a moment after loading."""
    before = len(browser.refused)
    events = browser.open(path)
    moment = "new Promise((resolve) => setTimeout(resolve, 50))"
    browser.call("Runtime.evaluate", expression=moment, awaitPromise=True)
    moves = ("Page.frameRequestedNavigation", "Page.frameScheduledNavigation", "Page.javascriptDialogOpening")
    found = [event["method"] for event in browser.events if event.get("method") in moves]
    found += requests(events) + complaints(events) + browser.refused[before:]
    found += [place for place in [browser.evaluate("location.href")] if place != path.as_uri()]
    return found + ["ran"] * bool(browser.evaluate("window.ran"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert CHROMIUM, "There is no Chromium on this machine: apt-get install chromium"
    running = Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def pages(report) -> list[Path]:
    return sorted(report.glob("*.html"))


def test_pages_are_complete_without_a_network(browser, pages):
    for path in pages:
        events = browser.open(path)
        assert requests(events) == [] and complaints(events) == [], path.name
        assert browser.evaluate(INCOMPLETE) == [], path.name
        assert set(browser.evaluate(RUNNING)) <= set(SCRIPTS), "the report's own scripts only"
        assert browser.evaluate(HARMFUL) == [0, None], path.name
        assert browser.evaluate("document.querySelector('h1').textContent.trim().length") > 0
    assert sum(path.name != "index.html" for path in pages) >= 1
    assert browser.refused == [], "the browser asked the network for something"


def test_no_name_cell_or_output_reaches_the_browser(browser, hostile_pages):
    assert len(hostile_pages) > 100
    for path in hostile_pages:
        assert consequences(browser, path) == [], path
        assert set(browser.evaluate(RUNNING)) <= set(SCRIPTS), path
        assert browser.evaluate(HARMFUL) == [0, None], path
        assert browser.evaluate("document.querySelector('footer').closest('article')") is None, path


@pytest.mark.parametrize("trap", [line for line in re.split(r"(?<=>)\s*(?=<(?!/))", TRAPS) if line.strip()])
def test_each_trap_is_seen_by_the_checks(browser, tmp_path, trap):
    page = tmp_path / "trap.html"
    page.write_text(f"<!doctype html><link rel=icon href='data:,'>{trap}<img src=a.png>")
    before = len(browser.refused)
    found = consequences(browser, page)
    del browser.refused[before:]
    assert found or browser.evaluate(HARMFUL)[0] or "@import" in trap


def test_a_page_that_asks_the_network_is_caught(browser, tmp_path):
    page = tmp_path / "asks.html"
    page.write_text(
        '<!doctype html><img src="http://images.example/a.png"><img src="http://127.0.0.1:8123/b.png">'
    )
    events = browser.open(page)
    assert requests(events) == ["http://images.example/a.png", "http://127.0.0.1:8123/b.png"]
    asked = [line for line in browser.refused if "images.example" in line or "127.0.0.1:8123/" in line]
    browser.refused[:] = [line for line in browser.refused if line not in asked]
    assert len(asked) == 2, "the proxy did not see what the page asked for"


def test_chromiums_own_services_are_recognised_by_their_host():
    assert is_own_service("CONNECT accounts.google.com:443 HTTP/1.1")
    assert is_own_service("POST http://update.googleapis.com/service/update2/json?cup2key=a:b HTTP/1.1")
    assert not is_own_service("GET http://images.example/?from=www.google.com: HTTP/1.1")
    assert not is_own_service("CONNECT notgoogle.com:443 HTTP/1.1")


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_nothing_is_wider_than_the_window(browser, pages, size):
    screenshots = os.environ.get("REIDLIB_SCREENSHOTS")
    for path in pages:
        browser.open(path, size)
        assert browser.evaluate("innerWidth") == size[0]
        browser.evaluate(
            "document.querySelectorAll('article details').forEach((details) => details.open = true)"
        )
        assert browser.evaluate(OVERFLOW) == [0, []], path.name
        if screenshots:
            browser.open(path, size)
            browser.screenshot(Path(screenshots) / f"{path.stem}-{size[0]}.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast(browser, pages, scheme):
    for path in pages:
        browser.open(path, LAPTOP, scheme)
        browser.evaluate("document.querySelectorAll('details').forEach((details) => details.open = true)")
        assert browser.evaluate(FAINT) == [], path.name


def test_navigation_works_without_a_script(browser, report):
    """On a phone, the pages are in a menu that opens without a script. On a laptop, they are visible."""
    browser.open(report / "index.html", PHONE)
    visible = "[...document.querySelectorAll('{} a')].filter((link) => link.checkVisibility()).length"
    assert browser.evaluate(visible.format(".menu nav")) == 0
    browser.evaluate("document.querySelector('.menu > summary').click()")
    assert browser.evaluate(visible.format(".menu nav")) >= 2
    assert browser.evaluate(visible.format(".sidebar")) == 0
    browser.open(report / "index.html", LAPTOP)
    assert browser.evaluate(visible.format(".sidebar")) >= 2
    schemes = set(browser.evaluate("[...document.links].map((link) => link.protocol)"))
    assert schemes <= {"file:", "http:", "https:", "mailto:"}
    browser.evaluate("document.querySelector('.card a, main table a').click()")
    deadline = time.monotonic() + 20
    while browser.evaluate("location.pathname.endsWith('index.html') || document.readyState !== 'complete'"):
        assert time.monotonic() < deadline, "the link on the index led nowhere"
        time.sleep(0.05)
    assert browser.evaluate("document.querySelectorAll('article h1').length") == 1


def test_length_of_the_lines(browser, pages):
    """Lines of prose have at most about 80 characters."""
    widths = """
    [...document.querySelectorAll('.prose p')].map(
      (p) => p.clientWidth / parseFloat(getComputedStyle(p).fontSize)
    )
    """
    for path in pages:
        browser.open(path, LAPTOP)
        # In em; a character is about 0.5 em wide.
        assert max(browser.evaluate(widths), default=0) <= 42, path.name


def test_the_checks_find_planted_faults(browser, report, tmp_path):
    """Each check above finds its case: a picture from outside, a page that is too wide, a faint text."""
    page = (report / "index.html").read_text(encoding="utf-8")
    outside = '<img alt="lost" src="http://example.org/x.png"><!-- x --!><base>'
    wide = '<div style="width: 2000px">wide</div><p style="color: #ccc; background: #fff">faint</p>'
    planted = tmp_path / "planted.html"
    planted.write_text(page.replace("</main>", outside + wide + "</main>"), encoding="utf-8")
    before = len(browser.refused)
    blocked = browser.open(planted, PHONE)
    assert any("Content Security Policy" in text for text in complaints(blocked))
    assert len(browser.refused) == before, "the policy kept the request from being made"
    assert browser.evaluate(HARMFUL) == [1, " x "]
    assert browser.evaluate(INCOMPLETE) == ["lost"]
    assert browser.evaluate(OVERFLOW)[1] != []
    assert [text for _, text in browser.evaluate(FAINT)] == ["faint"]
    planted.write_text(
        page.replace("Content-Security-Policy", "x").replace("</main>", outside + "</main>"), encoding="utf-8"
    )
    assert requests(browser.open(planted)) == ["http://example.org/x.png"]
    assert [line for line in browser.refused[before:] if "example.org" in line] != []
    browser.refused.clear()
