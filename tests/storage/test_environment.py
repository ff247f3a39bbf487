"""What a run records of its machine."""

import os
from pathlib import Path

from stn_experiments.storage.environment import environment


def test_the_processor_is_recorded(monkeypatch):
    made = environment(3)
    assert (made["seed"], made["cores"]) == (3, os.cpu_count())
    assert made["cpu"]
    monkeypatch.setattr(
        Path, "read_text", lambda _: "processor: 0\nmodel name\t: A Chip 9\nmodel name\t: B\n"
    )
    assert environment(3)["cpu"] == "A Chip 9"


def test_without_a_list_of_processors_the_architecture_is_recorded(monkeypatch):
    def refuse(_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert environment(3)["cpu"]
