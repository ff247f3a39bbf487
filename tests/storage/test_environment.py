"""What a run records of its machine."""

import os
import platform
from pathlib import Path

from stn_experiments.storage.environment import cpu_name, environment


def test_the_processor_and_its_cores_are_recorded():
    made = environment(3)
    assert (made["seed"], made["cores"], made["cpu"]) == (3, os.cpu_count(), cpu_name())


def test_the_name_of_the_processor(monkeypatch):
    monkeypatch.setattr(
        Path, "read_text", lambda _: "processor: 0\nmodel name\t: A Chip 9\nmodel name\t: B\n"
    )
    assert cpu_name() == "A Chip 9"
    monkeypatch.setattr(Path, "read_text", lambda _: "")
    monkeypatch.setattr(platform, "processor", lambda: "x86_64")
    assert cpu_name() == "x86_64"


def test_a_system_without_a_list_of_processors(monkeypatch):
    def refuse(_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert cpu_name()


def test_the_commit_is_unknown_outside_a_checkout(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment(0)["commit"] == "unknown"
