"""Two notebooks in JupyterLab, as a reader steps through them: all cells run, and selectors choose.

The runs are made first, in the smallest size. The server has the settings that `make lab` has.
"""

import os
import re
import subprocess
import sys
import time

import nbformat
import pytest
from test_report_browser import LAPTOP, Browser

from reidlib.files import REPOSITORY

pytestmark = pytest.mark.browser
ROWS = ("baseline", "baseline+pam+cam", "abdnet-xe")
STATE = """
(() => {
  const panel = window.jupyterapp?.shell?.currentWidget;
  if (!panel?.content?.widgets || !panel.sessionContext.session?.kernel) return null;
  const code = panel.content.widgets.filter((cell) => cell.model.type === "code");
  return {
    path: panel.context.path,
    done: code.filter((cell) => cell.model.executionCount !== null).length,
    cells: code.length,
    outputs: code.flatMap((cell) => cell.model.outputs.toJSON()).map((output) =>
      output.output_type === "error" ? `error: ${output.evalue}` : Object.keys(output.data ?? {}).join(" ")),
    widgets: document.querySelectorAll(".jupyter-widgets").length,
    dialogs: [...document.querySelectorAll(".jp-Dialog, .Toastify__toast")].map((one) => one.textContent),
  };
})()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The runs that the notebooks show."""
    folder = tmp_path_factory.mktemp("study")
    command = [sys.executable, "run_all.py", "--profile", "smoke", "--results", str(folder / "results")]
    command += ["--data-root", str(folder / "data"), "--methods", *ROWS, "--only", "01_data", "10_train"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=900)
    return folder


@pytest.fixture(scope="module")
def lab(results):
    """The address of a JupyterLab whose folder holds two notebooks with these runs as parameters."""
    folder = results / "notebooks"
    folder.mkdir()
    for name in ("30_attention_maps", "32_ranking_gallery"):
        notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
        cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
        given = {"profile": "smoke", "results": str(results / "results"), "data_root": str(results / "data")}
        for parameter, value in given.items():
            cell.source = re.sub(rf"(?m)^{parameter} = .*?(?=  #)", f"{parameter} = {value!r}", cell.source)
        nbformat.write(notebook, folder / f"{name}.ipynb")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--port=0",
        "--allow-root",
        "--port-retries=0",
    ]
    command += [
        "--IdentityProvider.token=t",
        "--LabApp.expose_app_in_browser=True",
        f"--notebook-dir={folder}",
    ]
    own = {
        name: str(results / name)
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
    }
    environment = {**os.environ, **own, "PYTHONPATH": str(REPOSITORY), "HOME": str(results)}
    with (results / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        address = None
        while address is None:
            assert time.monotonic() < deadline and server.poll() is None, (results / "lab.log").read_text()
            found = re.search(r"http://127\.0\.0\.1:(\d+)/lab", (results / "lab.log").read_text())
            address = found and f"http://127.0.0.1:{found[1]}"
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def browser(tmp_path):
    """Chromium that may talk to this machine only. Each test has its own: no question about unsaved work."""
    running = Browser(tmp_path)
    running.session = None
    context = running.call("Target.createBrowserContext", proxyServer="direct://")
    target = running.call("Target.createTarget", url="about:blank", **context)["targetId"]
    running.session = running.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime"):
        running.call(f"{domain}.enable")
    window = dict(zip(("width", "height"), LAPTOP, strict=True))
    running.call("Emulation.setDeviceMetricsOverride", **window, deviceScaleFactor=1, mobile=False)
    yield running
    running.close()


@pytest.mark.parametrize(
    ("name", "figures"), [("32_ranking_gallery", 2), ("30_attention_maps", 2)], ids=["gallery", "maps"]
)
def test_a_notebook_runs_in_jupyterlab_and_has_its_selectors(browser, lab, name, figures):
    browser.call("Page.navigate", url=f"{lab}/lab/tree/{name}.ipynb?token=t&reset")
    state = waited(browser, 120, lambda state: state["path"] == f"{name}.ipynb")
    assert state["dialogs"] == [], "no news, no question"
    browser.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells'); 0")  # not the promise
    state = waited(browser, 240, lambda state: state["done"] == state["cells"] or errors(state))
    assert errors(state) == []
    assert sum("image/png" in kinds for kinds in state["outputs"]) == figures
    assert state["widgets"] >= 3, "two selectors and what they show"
    picture = "[...document.querySelectorAll('.jupyter-widgets img')].map((one) => one.src.length)"
    (first,) = browser.evaluate(picture)
    # One more query or image is asked for, as a reader would type it.
    for act in ("focus", "select"):
        browser.evaluate(f"document.querySelector('.jupyter-widgets input[type=number]').{act}()")
    browser.call("Input.insertText", text="1")
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    browser.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
    browser.call("Input.dispatchKeyEvent", type="keyUp", **enter)
    deadline = time.monotonic() + 60
    while browser.evaluate(picture) in ([], [first]):
        assert time.monotonic() < deadline, "the selector changed nothing"
        time.sleep(0.2)


def waited(browser, seconds, enough):
    """The notebook's state, once it is as wanted."""
    deadline = time.monotonic() + seconds
    while not ((state := browser.evaluate(STATE)) and enough(state)):
        assert time.monotonic() < deadline, state
        time.sleep(0.3)
    return state


def errors(state) -> list[str]:
    return [kinds for kinds in state["outputs"] if kinds.startswith("error")]
