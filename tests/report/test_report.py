"""The report on given runs: settings, verdicts, tables to paste, and what it says of bad input."""

import json
import re

import pandas as pd
import pytest

from configs import dropout, pooling, quickstart, scheduler, small
from configs.tables import Arm, getter
from jaxresnet.report.__main__ import write_report
from jaxresnet.report.figures import Mark, draw_forest, to_svg
from jaxresnet.report.page import to_markdown
from jaxresnet.report.statistics import Difference
from jaxresnet.report.study import describe_setting, group_runs, judge, load_tables
from jaxresnet.system.errors import UserError
from jaxresnet.workdir.runs import read_runs
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
SCHEDULER = {
    "cosine": [95.0, 95.2],
    "polynomial": [80.0, 80.3],
    "one_cycle": [91.0, 91.3],
    "linear_fixed": [95.1, 95.2],
}
MINE = """
from configs import quickstart
from configs.tables import Arm, Claim, getter

TITLE = "Rates on the digits"
ARMS = {
    "usual": Arm(words="as it comes"),
    "low": Arm({"schedule.learning_rate": 0.01}, words="a tenth | of it"),
    "high_rate": Arm({"schedule.learning_rate": 0.4}),
}
CLAIMS = (Claim("The usual rate is the best", (("usual", "low"), ("usual", "high_rate"))),)
NOTE = "Rates of **one** seed & more."
get_config = getter("rates", ARMS, quickstart.get_config)
"""
MINE_RUNS = {"usual": [98.0, 98.2, 98.4], "low": [90.0, 90.1, 90.4], "high_rate": [98.1, 98.2, 98.6]}


def run_of(config, accuracy):
    """Return a packed run with this accuracy after the last of its epochs, or one that diverged without one."""
    line = {"epoch": config.num_epochs, "step": 10, "train_accuracy": 99.0, "test_accuracy": accuracy, "seconds": 1.0}
    last = {"epoch": config.num_epochs, "accuracy": accuracy}
    whole = json.loads((REPOSITORY / "results" / "runs" / "cpu" / "summary.json").read_text())
    whole |= {"last": last, "best": last, "evaluated_on": "test", "git_commit": "a1", "data_fingerprint": "f1"}
    run = {"path": f"{config.name}/seed{config.seed}", "config": config.to_dict(), "metrics": [line]}
    return run | ({"failure": "the loss is NaN"} if accuracy is None else {"summary": whole})


def write_runs(folder, get_config, accuracies, change=lambda config: None):
    """Write a file with a run of each accuracy of each arm."""
    lines = []
    for arm, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            config = get_config(arm)
            config.seed = seed
            change(config)
            lines.append(run_of(config, accuracy))
    folder.mkdir(exist_ok=True)
    (folder / f"runs{len([*folder.iterdir()])}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def report(tmp_path, runs, configs=CONFIGS):
    """Write a report and return its Markdown, its page, and a function that reads its tables."""
    write_report(runs, tmp_path / "out", configs)
    out = tmp_path / "out"
    return (out / "README.md").read_text(), (out / "index.html").read_text(), lambda n: (out / "tables" / n).read_text()


def mine(tmp_path, accuracies=MINE_RUNS):
    """Write the runs and the config file of a table that is not this project's."""
    arms = {
        "usual": Arm(),
        "low": Arm({"schedule.learning_rate": 0.01}),
        "high_rate": Arm({"schedule.learning_rate": 0.4}),
    }
    runs = write_runs(tmp_path / "runs", getter("rates", arms, quickstart.get_config), accuracies)
    (tmp_path / "rates.py").write_text(MINE)
    return report(tmp_path, runs, tmp_path / "rates.py")


def verdicts(tmp_path, runs, table):
    (table,) = [each for each in load_tables(CONFIGS) if each.name == table]
    rows = judge([table], group_runs(read_runs(runs), [table]))
    return {(row.first, row.second, row.claim.equal): row for row in rows}


def test_papers_table(tmp_path):
    runs = write_runs(tmp_path / "runs", scheduler.get_config, SCHEDULER)
    markdown, page, table = report(tmp_path, runs)
    assert (
        "Cosine is the best of the four schedules at the paper's settings**: 2 of 3 supported, 1 not judged" in markdown
    )
    assert '"The baseline CosineAnnealingLR performed the best"' in markdown
    assert "| `" not in markdown and "| cosine | the baseline | 95.48 | 95.10 |  | 2 |" in markdown
    assert "8 finished runs of 1 table, with the configs as they are." in markdown
    frame = pd.read_csv((tmp_path / "out" / "tables" / "scheduler.csv"), index_col="arm")
    assert frame.loc["polynomial", ["ours", "difference", "n"]].tolist() == pytest.approx([80.15, -14.95, 2])
    assert frame.loc["polynomial", "low"] < -14.95 < frame.loc["polynomial", "high"] < 0
    assert frame.loc["linear", "remark"] == "not run" and pd.isna(frame.loc["polynomial", "paper"])
    assert "multiple of 0.01%" in " ".join(page.split()) and "<svg" in page and page.count("<table") == 1
    assert "one\\_cycle" in table("scheduler.tex") and "\\toprule" in table("scheduler.tex")


def test_table_without_runs_of_its_control(tmp_path):
    runs = write_runs(tmp_path / "runs", scheduler.get_config, {"linear": [91.0, 91.2], "one_cycle": [92.0, 92.1]})
    markdown, *_ = report(tmp_path, runs)
    assert "| cosine | the baseline | 95.48 |  | not run | 0 |" in markdown
    assert markdown.count("| cosine not run | 2 |") == 2


def test_page_needs_no_network(tmp_path):
    _, page, _ = mine(tmp_path)
    links = set(re.findall(r'(?:src|href|url)\W*=\W*"([^"]*)"', page))
    assert links and all(link.startswith("#") for link in links)
    assert all(f'id="{link[1:]}"' in page for link in links)


def test_strangers_table_is_not_the_papers(tmp_path):
    markdown, page, table = mine(tmp_path)
    for text in (markdown, page, table("rates.tex"), table("rates.md"), table("rates.csv")):
        assert "paper" not in text.lower() and "authors" not in text
    assert markdown.splitlines()[1] == "# Rates on the digits"
    assert "**The usual rate is the best**: 1 of 2 supported, 1 inconclusive (detectable: 0." in markdown
    assert "9 finished runs of 1 table, with the configs as they are." in markdown
    assert "| low | a tenth \\| of it | 90.17 | -8.03 [" in table("rates.md")
    assert "Rates of <strong>one</strong> seed &amp; more." in page
    assert "What could not be judged" not in markdown


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        ({"usual": [98.0, 98.1]}, "2 not judged"),
        ({"usual": [98.0], "low": [90.0], "high_rate": [97.0]}, "2 not judged (one seed)"),
        ({arm: [98.0, 98.0] for arm in MINE_RUNS}, "(seeds do not differ at all)"),
        (MINE_RUNS | {"low": [None, None]}, "1 not judged (diverged)"),
        (MINE_RUNS | {"low": [90.0, None]}, "1 runs diverged and count nowhere: `rates/low` with seed 1."),
        (MINE_RUNS | {"low": [10.0, 98.0]}, "2 not judged (seeds differ too much)"),
        (MINE_RUNS | {"low": [90.0]}, "| low | a tenth \\| of it | 90.00 | -8.0"),
    ],
    ids=["one arm", "one seed", "no spread", "diverged", "one seed diverged", "unequal spread", "unequal seeds"],
)
def test_bad_input_is_reported(tmp_path, accuracies, sentence):
    markdown, page, _ = mine(tmp_path, accuracies)
    assert sentence.removeprefix("2 ") in markdown and "nan" not in markdown and ">nan" not in page


def test_two_versions_of_the_code_are_named(tmp_path):
    runs = write_runs(tmp_path / "runs", pooling.get_config, {"avg_5": [95.0, 95.1], "adaptive": [95.5, 95.7]})
    text = (runs / "runs0.jsonl").read_text()
    (runs / "runs0.jsonl").write_text(text.replace('"git_commit": "a1"', '"git_commit": "b2"', 1))
    markdown, _, _ = report(tmp_path, runs)
    assert "- 4 compared runs are of 2 versions of the code: a1, b2." in markdown


def test_settings_in_words():
    config = small.get_config("epochs/400")
    own = small.ARMS["epochs/400"][0].get_config("400")
    assert describe_setting(own, own) == ""
    assert describe_setting(config, own) == "2,560 training images, 25% of the channels"
    config.num_epochs, config.dtype = 40, "bfloat16"
    assert describe_setting(config, own) == (
        "2,560 training images, 10% of the epochs, 25% of the channels, dtype=bfloat16"
    )


def test_runs_of_different_settings_stand_apart(tmp_path):
    runs = write_runs(tmp_path / "runs", pooling.get_config, {"avg_5": [95.0, 95.1], "adaptive": [95.5, 95.7]})
    write_runs(runs, pooling.get_config, {"adaptive": [60.0]}, lambda config: config.update({"num_epochs": 20}))
    markdown, page, _ = report(tmp_path, runs)
    assert "| adaptive | the mean over the whole map | 95.61 | 95.60 |" in markdown
    assert "| adaptive | 10% of the epochs | 1 | 60.00 |" in markdown and "Further runs" in page
    assert "4 finished runs of 2 tables, with the configs as they are." in markdown


def test_claims_untestable_with_smaller_networks(tmp_path):
    def shrink(config):
        small.shrink(config)

    accuracies = {"baseline": [55.0, 55.2], "resnet18": [60.0, 60.1], "final": [52.0, 52.3]}
    headline = small.ARMS["final"][0]
    rows = verdicts(tmp_path, write_runs(tmp_path / "small", headline.get_config, accuracies, shrink), "headline")
    assert rows["final", "resnet18", False].verdict == "not testable"
    assert rows["final", "baseline", False].verdict == "contradicted"
    rows = verdicts(tmp_path, write_runs(tmp_path / "full", headline.get_config, accuracies), "headline")
    assert rows["final", "resnet18", False].verdict == "contradicted"


@pytest.mark.parametrize(
    ("rate", "verdict"),
    [([95.1, 95.3, 95.2], "supported"), ([93.0, 93.1, 93.2], "contradicted"), ([94.0, 96.5, 94.2], "inconclusive")],
)
def test_claim_of_no_difference(tmp_path, rate, verdict):
    accuracies = {"0.0": [95.0, 95.2, 95.1], "0.4": rate, "0.2": [95.0, 95.1, 95.2]}
    runs = write_runs(tmp_path / "runs", dropout.get_config, accuracies)
    assert verdicts(tmp_path, runs, "dropout")["0.4", "0.0", True].verdict == verdict


def test_claim_names_an_unknown_arm(tmp_path):
    (tmp_path / "mine.py").write_text(MINE.replace('("usual", "low")', '("usual", "lowest")'))
    with pytest.raises(UserError, match="CLAIMS name 'lowest', which ARMS does not have"):
        load_tables(tmp_path / "mine.py")


def test_wrong_folders(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        write_report(tmp_path / "none", tmp_path / "out", CONFIGS)
    with pytest.raises(UserError, match="there is no finished run of a table"):
        write_report(REPOSITORY / "results" / "runs" / "cpu", tmp_path / "out", CONFIGS)
    with pytest.raises(UserError, match="there is no table in it"):
        load_tables(tmp_path)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files and no report"):
        write_report(tmp_path, tmp_path, CONFIGS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_forest_has_every_row():
    marks = [
        Mark("A claim"),
        Mark("a over b", Difference(1.0, low=0.5, high=1.5), 2.0, "supported"),
        Mark("c over d", Difference(-90, low=-99, high=1), verdict="inconclusive"),
    ]
    svg = to_svg(draw_forest(marks, "points"))
    assert all(
        f">{text}</text>" in svg for text in ("A claim", "a over b", "c over d", "supported", "the paper's difference")
    )
    assert "not testable" not in svg and "currentColor" in to_svg(draw_forest(marks, "points"), inline=True)


def test_markdown_escapes_bars():
    assert to_markdown(pd.DataFrame({"arm": ["a|b"], "n": ["2"]})) == "| arm | n |\n| --- | ---: |\n| a\\|b | 2 |"


def test_committed_report_is_that_of_the_runs(tmp_path):
    """``jaxresnet report --workdir=results --out=results/report`` brings it up to date."""
    markdown, _, _ = report(tmp_path, REPOSITORY / "results")
    assert markdown == (REPOSITORY / "results" / "report" / "README.md").read_text()
