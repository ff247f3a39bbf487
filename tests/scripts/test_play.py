"""``scripts/play.py``: its mistakes, and its page in a browser."""

import importlib.util
import json
import os
import runpy
import socket
import subprocess
import sys
import time

import pytest

from stn_experiments.common.errors import UserError
from tests.conftest import ROOT


@pytest.fixture
def gradio_is(monkeypatch):
    """Whether the script finds gradio, which it imports after all checks."""
    find_spec = importlib.util.find_spec

    def make(spec):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest: spec if name == "gradio" else find_spec(name, *rest),
        )

    return make


def test_a_mistake_is_one_line(untrained, few_digits, refused, gradio_is, tmp_path):
    gradio_is("installed")
    rotated, rts = untrained("rotated", *few_digits), untrained("rts", *few_digits, "data=rts")
    question = untrained("question", *few_digits, "data=question", "attention=coattention", "stn=none")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, says in (
            ([tmp_path], f"{tmp_path} is not a run: it contains 3"),
            ([rotated, rts], "rotated reads digits of shape (1, 28, 28), "),
            (
                [question],
                f"the page shows single MNIST digits or your own images, which {question} cannot read",
            ),
            (
                [rotated, "--port", port],
                f"port {port} of 127.0.0.1 cannot be used: Address already in use; --port",
            ),
            ([rotated, "--port", 70_000], "port 70000 of 127.0.0.1 cannot be used"),
            ([], "there is no folder outputs"),
        ):
            assert says in refused("play.py", *words)
    gradio_is(None)
    line = "the page needs gradio: pip install -c constraints.txt -e '.[play]'"
    assert refused("play.py", rotated) == line


def test_the_newest_finished_run_is_the_default(untrained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    newest_run = runpy.run_path(str(ROOT / "scripts" / "play.py"))["newest_run"]
    for number, name in enumerate(("old", "new", "middle", "unfinished")):
        folder = untrained(f"outputs/{name}")
        if name == "old":
            with pytest.raises(UserError, match="no finished run in outputs"):
                newest_run()
        if name != "unfinished":
            file = folder / "result.json"
            file.write_text('{"status": "finished"}')
            when = 100 if name == "new" else number
            os.utime(file, (when, when))
    assert newest_run().name == "new"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
def test_a_slider_changes_the_picture_in_a_browser_and_nothing_comes_from_outside(untrained, chrome):
    folder = untrained("first", "data=rotated", "stn=similarity")
    command = [sys.executable, str(ROOT / "scripts" / "play.py"), str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            address = server.stdout.readline().split()[1]
            chrome.get(address)
            first = wait_for(chrome, PICTURE, lambda picture: picture)
            assert "true rotation 0.0°" in chrome.execute_script(TEXT)
            chrome.execute_script(MOVE, "angle", 90)
            second = wait_for(chrome, PICTURE, lambda picture: picture != first)
            assert "true rotation 90.0°" in chrome.execute_script(TEXT)
            chrome.execute_script(DRAW)
            wait_for(chrome, PICTURE, lambda picture: picture != second)
            chrome.execute_script("document.querySelector('#animate').click()")
            wait_for(chrome, "return document.querySelector('#animation img')?.naturalWidth", bool)
            if screenshots := os.environ.get("STN_SCREENSHOTS"):
                chrome.save_screenshot(f"{screenshots}/play.png")
        finally:
            server.terminate()
    assert (folder / "evaluations" / "play-angle.gif").exists()
    requests = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    urls = [
        one["params"]["request"]["url"] for one in requests if one["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith(address) for url in urls)
    own = (address, "data:", "blob:", "chrome:", "chrome-untrusted:")  # the browser's first tab is its own
    assert [url for url in urls if not url.startswith(own)] == []


def wait_for(chrome, script, accepts, seconds=60):
    """What a script returns as soon as it is accepted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if accepts(found := chrome.execute_script(script)):
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing changed within {seconds} seconds: {script}")


PICTURE = "return document.querySelector('#answers img')?.src"
TEXT = "return document.querySelector('#answers').innerText"
MOVE = """
const slider = document.querySelector(`#${arguments[0]} input[type=range]`);
slider.value = arguments[1];
slider.dispatchEvent(new Event('input', {bubbles: true}));
"""
DRAW = """
const canvas = document.querySelector('#pad canvas'), {left, top} = canvas.getBoundingClientRect();
canvas.setPointerCapture = () => {};
for (const [kind, x, y] of [['down', 60, 60], ['move', 200, 60], ['move', 120, 220]])
  canvas.dispatchEvent(new PointerEvent(`pointer${kind}`, {clientX: left + x, clientY: top + y, buttons: 1}));
"""
