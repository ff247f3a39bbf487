"""The data that published figures are of, and parts of the report's tables."""

import csv
import io
import re

from stn_experiments.report.published import DATA
from stn_experiments.report.tables import to_csv

DISTORTIONS = {name: column["distortion"] for name, column in DATA["columns"].items()}


def column(table, name):
    return [row[table.head.index(name)] for row in table.rows]


def bold(table):
    return re.findall(r"\*\*(.+?)\*\*", table.markdown())


def csv_rows(groups):
    return list(csv.DictReader(io.StringIO(to_csv(groups))))
