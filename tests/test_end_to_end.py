"""Real digits and real processes: a run, its panels, TensorBoard over HTTP and in a browser, the report."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from io import BytesIO

import pytest
from PIL import Image

pytestmark = pytest.mark.xdist_group("end_to_end")  # one worker trains the run that all tests look at
SHORT = ["trainer=quick", "trainer.images_per_epoch=3840", "trainer.batch_size=48", "data.valid_size=500",
         "trainer.device=cpu"]  # fmt: skip


@pytest.fixture(scope="session")
def real_run(run_script, tmp_path_factory):
    """A short run on the real digits from the command line: the folder of runs, and the run's own."""
    root = tmp_path_factory.mktemp("outputs")
    done = run_script("train.py", *SHORT, f"run.root={root}")
    assert done.returncode == 0, done.stderr
    (folder,) = root.glob("quick-*")
    return root, folder


def test_a_short_run_learns(real_run):
    result = json.loads((real_run[1] / "result.json").read_text())
    assert result["images_seen"] == 2 * 3840
    assert result["test_error"] < 12
    assert result["theta_spread"] > 0.01
    assert 0.2 < result["iou_mean"] < 1
    assert result["ink_inside"] > 0.8
    assert result["input_rotation_deg"] == pytest.approx(90 / 3**0.5, rel=0.02)
    assert result["residual_rotation_deg"] < result["input_rotation_deg"]


@pytest.fixture(scope="session")
def tensorboard(real_run):
    """The address of a TensorBoard that serves the real run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(real_run[0]), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--samples_per_plugin", "images=1000"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                if get(f"{address}/data/plugin/images/tags"):
                    break
            except OSError:
                pass
            time.sleep(0.5)
        else:
            pytest.fail("TensorBoard served no images within a minute")
        yield address
    finally:
        server.terminate()
        server.wait()


def get(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def test_tensorboard_serves_the_panels_of_all_epochs_under_one_tag(real_run, tensorboard):
    name = real_run[1].name
    tags = get(f"{tensorboard}/data/plugin/images/tags")
    assert {run: set(of_run) for run, of_run in tags.items()} == {
        name: {"panel/validation", "panel/test", "panel/mistakes"}
    }
    for tag, steps, file in (
        ("panel/validation", [0, 1, 2], "panel-0002.png"),
        ("panel/test", [2], "panel-test.png"),
        ("panel/mistakes", [2], "panel-mistakes.png"),
    ):
        query = urllib.parse.urlencode({"run": name, "tag": tag, "sample": 0})
        rows = get(f"{tensorboard}/data/plugin/images/images?{query}")
        assert [row["step"] for row in rows] == steps
        with urllib.request.urlopen(
            f"{tensorboard}/data/plugin/images/individualImage?{rows[-1]['query']}"
        ) as answer:
            served = Image.open(BytesIO(answer.read()))
        assert served.size == Image.open(real_run[1] / "panels" / file).size


def test_tensorboard_shows_the_numbers_and_the_settings_in_the_same_run(real_run, tensorboard):
    name = real_run[1].name
    tags = get(f"{tensorboard}/data/plugin/scalars/tags")
    assert list(tags) == [name]
    assert {"loss/train", "error/train", "error/val", "lr/network", "lr/localisation",
            "speed/images_per_second", "transformer/theta_spread",
            "transformer/localisation_gradient", "transformer/outside_share",
            "final/test_error", "final/val_error"} <= set(tags[name])  # fmt: skip
    groups = get(
        f"{tensorboard}/data/plugin/hparams/session_groups",
        {
            "experimentName": "",
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
            "colParams": [{"metric": {"group": "", "tag": "final/test_error"}}],
            "startIndex": 0,
            "sliceSize": 10,
        },
    )["sessionGroups"]
    (group,) = groups
    assert group["hparams"]["stn"] == "similarity"
    assert group["hparams"]["trainer.batch_size"] == 48
    assert group["hparams"]["seed"] == 0
    result = json.loads((real_run[1] / "result.json").read_text())
    values = {row["name"]["tag"]: row["value"] for row in group["metricValues"]}
    assert values["final/test_error"] == pytest.approx(result["test_error"], rel=1e-5)


@pytest.mark.slow
def test_a_browser_shows_the_panel(tensorboard, chrome):
    chrome.get(f"{tensorboard}/#images")
    deadline = time.monotonic() + 60
    widths = []
    while time.monotonic() < deadline and not widths:
        time.sleep(0.5)
        widths = chrome.execute_script(IMAGES_LOADED)
    if folder := os.environ.get("STN_SCREENSHOTS"):
        chrome.save_screenshot(f"{folder}/tensorboard.png")
    assert widths, "no panel appeared within a minute"
    assert min(widths) > 400


# TensorBoard's pages are nested shadow roots, which no plain selector looks into.
IMAGES_LOADED = """
const found = [];
const walk = (root) => root.querySelectorAll('*').forEach((element) => {
  if (element.tagName === 'IMG' && element.src.includes('individualImage') && element.naturalWidth > 0)
    found.push(element.naturalWidth);
  if (element.shadowRoot) walk(element.shadowRoot);
});
walk(document);
return found;
"""
