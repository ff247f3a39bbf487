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
from stn_experiments.data.examples import DigitExamples, Example
from stn_experiments.report.panels import data_uri
from stn_experiments.runs.play import UNTOUCHED, Answer, Playground

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
.run { display: flex; flex-wrap: wrap; gap: 4px 20px; align-items: center; margin-bottom: 20px }
.run img { flex: 1 1 420px; min-width: 0; max-width: 732px; border-radius: 6px }
.bars { display: grid; grid-template-columns: auto 120px 4em; gap: 1px 8px; align-items: center }
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
BARS = 10
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
    """Sliders on the left, what the runs make of the image on the right."""
    examples = playground.examples
    names = {examples.class_names[label]: label for label in examples.of_class}

    def read(drawing: str, name: str, number: float, *values: float) -> tuple[Example, dict[str, float]]:
        image = as_digit(ink(drawing)) if drawing else None
        example = examples.example(names[name], int(number) - 1)
        if image is not None:
            example = Example(image[None], example.label)
        return example, dict(zip(examples.sliders, values, strict=True))

    def show(*inputs: Any) -> str:
        start = time.perf_counter()
        example, values = read(*inputs)
        answers = "".join(
            answer_html(answer, values["angle"]) for answer in playground.answers(example, values)
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

    with gr.Blocks(title="Play with an image", analytics_enabled=False, fill_width=True) as blocks, gr.Row():
        with gr.Column(scale=1, min_width=320):
            label = gr.Dropdown(list(names), value=list(names)[len(names) // 3], label="class")
            most = max(map(len, examples.of_class.values()))
            number = gr.Slider(1, max(most, 2), 1, step=1, label="number of the image", visible=most > 1)
            sliders = [
                gr.Slider(low, high, UNTOUCHED.get(name, 0), step=step, label=text, elem_id=name)
                for name, (text, low, high, step) in examples.sliders.items()
            ]
            reset = gr.Button("reset the sliders")
        with gr.Column(scale=3, min_width=600):
            shown = gr.HTML(elem_id="answers")
            with gr.Row():
                with gr.Column():
                    is_of_digits = isinstance(examples, DigitExamples)
                    pad = gr.HTML("", html_template=PAD, js_on_load=PEN, elem_id="pad", visible=is_of_digits)
                with gr.Column():
                    swept = gr.Dropdown(list(examples.sliders), label="slider to animate")
                    start = gr.Button("animate", elem_id="animate")
                    animation = gr.HTML(elem_id="animation")
        inputs: list[Any] = [pad, label, number, *sliders]  # gradio adds their events at run time
        gr.on([blocks.load, *(one.change for one in inputs)], show, inputs, shown, **LIVE)
        start.click(animate, [swept, *inputs], animation)
        reset.click(lambda: [UNTOUCHED.get(name, 0) for name in examples.sliders], None, sliders)
    return blocks


def answer_html(answer: Answer, angle: float) -> str:
    """The panel of one run, bars, and the rotation that its transformer undoes.

    There is a bar for each class, or for the ten most probable ones.
    """
    shares = list(answer.probabilities.items())
    if len(shares) > BARS:
        shares = sorted(shares, key=lambda pair: pair[1], reverse=True)[:BARS]
    bars = "".join(
        f"<span>{escape(name)}</span>"
        f'<i style="width: {max(120 * share, 1):.0f}px"></i><b>{100 * share:.1f} %</b>'
        for name, share in shares
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
