"""The page of scripts/play.py. All that it loads comes from this machine."""

import io
import os
import socket
import time
from base64 import b64decode
from html import escape
from tempfile import TemporaryDirectory
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported

import gradio as gr
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from stn_experiments.common.errors import UserError
from stn_experiments.data.drawn import as_digit
from stn_experiments.data.mnist import Digits
from stn_experiments.report.panels import data_uri
from stn_experiments.runs.play import UNTOUCHED, Answer, Playground

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.run { display: flex; flex-wrap: wrap; gap: 4px 20px; align-items: center; margin-bottom: 20px }
.run img { flex: 1 1 420px; min-width: 0; max-width: 732px; border-radius: 6px }
.bars { display: grid; grid-template-columns: 1em 120px 4em; gap: 1px 8px; align-items: center }
.bars i { height: 14px; border-radius: 2px; background: #56b4e9 }
#pad canvas { border: 1px solid; background: white; cursor: crosshair; touch-action: none }
.bars b { text-align: right; font-weight: normal }
"""
PAD = """<p>Draw a digit here, and choose its class: it replaces the test digit.</p>
<canvas width="280" height="280"></canvas><br><button>erase</button>"""
PEN = """
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
Object.assign(pen, { lineWidth: 22, lineCap: "round", lineJoin: "round" });
const send = (value) => { props.value = value; trigger("change"); };
canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  pen.beginPath();
  pen.moveTo(event.offsetX, event.offsetY);
};
canvas.onpointermove = (event) => {
  if (!event.buttons) return;
  pen.lineTo(event.offsetX, event.offsetY);
  pen.stroke();
  send(canvas.toDataURL());
};
element.querySelector("button").onclick = () => { pen.clearRect(0, 0, 280, 280); send(""); };
"""
LIVE: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "queue": False}
"""During a request, of further changes only the last one is kept."""


def serve(playground: Playground, listener: socket.socket) -> None:
    """Serve the page until a signal ends it."""
    with TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = gr.mount_gradio_app(FastAPI(), build(playground), "/", theme=THEME, css=CSS, footer_links=[])
        host, port = listener.getsockname()[:2]
        print(f"page        http://{host}:{port}  (Ctrl-C ends it)")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run([listener])


def build(playground: Playground) -> gr.Blocks:
    """Sliders on the left, what the runs make of the digit on the right."""

    def read(drawing: str, label: float, number: float, *values: float) -> tuple[Digits, dict[str, float]]:
        image = as_digit(ink(drawing)) if drawing else None
        test_digit = playground.test_digit(int(label), int(number) - 1)
        digit = test_digit if image is None else Digits(image[None], test_digit.labels)
        return digit, dict(zip(playground.sliders, values, strict=True))

    def show(*inputs: Any) -> str:
        start = time.perf_counter()
        digit, values = read(*inputs)
        answers = "".join(
            answer_html(answer, values["angle"]) for answer in playground.answers(digit, values)
        )
        return f"{answers}<small>drawn in {1000 * (time.perf_counter() - start):.0f} ms</small>"

    def animate(name: str, *inputs: Any) -> str:
        try:
            file = playground.animate(*read(*inputs), name)
        except UserError as error:
            raise gr.Error(str(error)) from error
        link = data_uri("image/gif", file.read_bytes())
        picture = f'<a href="{link}" download="{file.name}"><img src="{link}" alt="animation"></a>'
        return f"{picture}<small>{escape(str(file))}</small>"

    with gr.Blocks(title="Play with a digit", analytics_enabled=False, fill_width=True) as blocks, gr.Row():
        with gr.Column(scale=1, min_width=320):
            label = gr.Slider(0, 9, 3, step=1, label="class")
            last = min(map(len, playground.of_class))
            number = gr.Slider(1, last, 1, step=1, label="number of the test digit")
            sliders = [
                gr.Slider(low, high, UNTOUCHED.get(name, 0), step=step, label=text, elem_id=name)
                for name, (text, low, high, step) in playground.sliders.items()
            ]
            reset = gr.Button("reset the sliders")
        with gr.Column(scale=3, min_width=600):
            shown = gr.HTML(elem_id="answers")
            with gr.Row():
                with gr.Column():
                    pad = gr.HTML("", html_template=PAD, js_on_load=PEN, elem_id="pad")
                with gr.Column():
                    swept = gr.Dropdown(list(playground.sliders), label="slider to animate")
                    start = gr.Button("animate", elem_id="animate")
                    animation = gr.HTML(elem_id="animation")
        inputs: list[Any] = [pad, label, number, *sliders]  # gradio adds their events at run time
        gr.on([blocks.load, *(one.change for one in inputs)], show, inputs, shown, **LIVE)
        start.click(animate, [swept, *inputs], animation)
        reset.click(lambda: [UNTOUCHED.get(name, 0) for name in playground.sliders], None, sliders)
    return blocks


def answer_html(answer: Answer, angle: float) -> str:
    """The panel of one run, a bar for each class, and the rotation that its transformer undoes."""
    bars = "".join(
        f'<span>{label}</span><i style="width: {max(120 * share, 1):.0f}px"></i><b>{100 * share:.1f} %</b>'
        for label, share in enumerate(answer.probabilities)
    )
    undone = "" if answer.rotation is None else f"the transformer undoes <b>{answer.rotation:.1f}°</b>"
    with io.BytesIO() as file:
        answer.panel.save(file, "PNG", compress_level=1)
        link = data_uri("image/png", file.getvalue())
    return (
        f'<div class="run"><img src="{link}" alt="{escape(answer.run)}"><div><div class="bars">{bars}</div>'
        f"<p>true rotation <b>{angle:.1f}°</b><br>{undone}</p></div></div>"
    )


def ink(link: str) -> np.ndarray:
    """The ink (H, W) uint8 of a drawing, a transparent PNG in a link."""
    with Image.open(io.BytesIO(b64decode(link.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))[..., 3]
