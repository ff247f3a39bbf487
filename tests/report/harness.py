"""The data that published figures are of, and parts of the report's tables."""

import csv
import io
import re

from stn_experiments.report.published import DATA, completed
from stn_experiments.report.tables import to_csv

SETTINGS = {
    name: column["settings"] for source in DATA["sources"] for name, column in source["columns"].items()
}
DISTORTIONS = {
    name: completed(settings["distortion"]) for name, settings in SETTINGS.items() if "distortion" in settings
}


def column(table, name):
    return [row[table.head.index(name)] for row in table.rows]


def bold(table):
    return re.findall(r"\*\*(.+?)\*\*", table.markdown())


def csv_rows(groups):
    return list(csv.DictReader(io.StringIO(to_csv(groups))))
