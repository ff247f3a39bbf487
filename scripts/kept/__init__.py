"""The results in docs/results, and the tables that are written from them: see ``scripts/results.py``."""
