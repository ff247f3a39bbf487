from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stn_experiments.tracking.tensorboard import TensorBoard, flatten


def read(folder):
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    return events.Reload()


def test_what_is_written_can_be_read(tmp_path):
    board = TensorBoard(tmp_path)
    board.hyperparameters({"seed": 0, "stn": {"name": "none"}})
    board.scalars({"error/val": 2.5}, 1)
    board.panel(Image.new("RGB", (30, 20), "red"), 1)
    board.final(1.5, 2.5, 3)
    board.close()
    events = read(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("error/val")] == [(1, 2.5)]
    assert [(e.step, e.value) for e in events.Scalars("final/test_error")] == [(3, 1.5)]
    (panel,) = events.Images("panel")
    assert (panel.step, panel.width, panel.height) == (1, 30, 20)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # all in the same run


def test_a_resumed_run_hides_what_it_does_again(tmp_path):
    first = TensorBoard(tmp_path)
    for step, value in enumerate((10.0, 11.0, 12.0)):
        first.scalars({"error/val": value}, step)
    first.close()
    again = TensorBoard(tmp_path, first_step=2)
    again.scalars({"error/val": 22.0}, 2)
    again.close()
    assert [e.value for e in read(tmp_path).Scalars("error/val")] == [10.0, 11.0, 22.0]


def test_settings_are_flat_plain_and_without_the_runs_place():
    nested = {
        "seed": 1,
        "run": {"root": "outputs"},
        "data": {"_target_": "x", "name": "rts", "root": None, "distortion": {"scale": [0.7, 1.2]}},
    }
    assert flatten(nested) == {
        "seed": 1,
        "data": "rts",
        "data.root": "None",
        "data.distortion.scale": "[0.7, 1.2]",
    }
