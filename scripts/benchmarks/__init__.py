"""How fast it is, beside what else there is: one module for each question, see ``scripts/benchmark.py``."""
