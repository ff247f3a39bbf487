from stn_experiments.report.robustness import robustness, shades
from stn_experiments.storage.run_folder import data_digest
from tests.report.harness import DISTORTIONS, bold


def test_evaluations_become_a_matrix(write_run, groups):
    write_run("a", 1.0, evaluations={"clean-11": 2.0, "noisy-22": 4.0})
    write_run("b", 3.0, seed=1, evaluations={"clean-11": 5.0})
    own = "rotated-" + data_digest({"name": "rotated", "distortion": DISTORTIONS["rotated"]})
    others = {"noisy-22": 8.0, "noisy-33": 9.0, own: 7.0, "rotated-00": 6.0}
    write_run("c", 7.0, stn="none", evaluations=others)
    write_run("d", 9.0, stn="tps")
    write_run("e", 1.5, stn="rotation", evaluations={"rotated-00": 16.0})
    table = robustness(groups())
    assert table.head == ["trained on", "model", "clean", "noisy", "noisy-33", "rotated", "rotated-00"]
    assert table.rows == [
        ["rotated", "compact + rotation", "–", "–", "–", "1.50", "16.00"],
        ["rotated", "compact + affine", "3.50", "4.00", "–", "2.00", "–"],
        ["rotated", "compact + none", "–", "8.00", "9.00", "7.00", "6.00"],
    ]
    assert bold(table) == ["1.50", "2.00", "7.00"]
    found = shades(table)
    assert found.keys() == {"1.50", "2.00", "3.50", "4.00", "6.00", "7.00", "8.00", "9.00", "16.00"}
    assert found["1.50"] == "background: hsl(215 45% 96%)"
    assert found["16.00"] == "background: hsl(215 45% 30%); color: white"
