"""Runs: train one, evaluate it, repeat a step of it, or load its network."""

from stn_experiments.runs.load import load_run

__all__ = ["load_run"]
