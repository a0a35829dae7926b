"""The report's tables, notes and page for given runs."""

import os
import re

import pytest
import torch

from configs import final, headline, small
from configs.scheduler import get_config as scheduler_config
from jaxresnet.config import load_experiment
from jaxresnet.core.costs import describe_layers
from jaxresnet.core.state import create_model
from jaxresnet.report import __main__ as report
from jaxresnet.report.claims import CLAIMS, CORRECTIONS
from jaxresnet.report.figures import draw_architecture
from jaxresnet.report.page import Page, anchor, table
from jaxresnet.report.tables import read_study
from jaxresnet.system.errors import UserError
from jaxresnet.training import train_and_evaluate
from jaxresnet.workdir.folder import write_failure
from jaxresnet.workdir.runs import read_runs
from tests.conftest import REPOSITORY
from tests.report.test_groups import write_run
from tests.torch_reference import TorchResNet

CONFIGS = REPOSITORY / "configs"


def seeded(get_config, arm, seed=0, **fields):
    config = get_config(arm) if arm else get_config()
    config.seed = seed
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a report on some full and some shortened runs. Return its folder, text and page."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, (last, best) in enumerate([(95.0, 95.3), (95.1, 95.4), (95.5, 95.5)]):
        write_run(folder / "baseline" / f"seed{seed}", seeded(scheduler_config, "cosine", seed), [90.0, best, last])
    for seed, last in enumerate([78.0, 79.0]):
        write_run(folder / f"polynomial{seed}", seeded(scheduler_config, "polynomial", seed), [77.0, last])
    write_run(folder / "linear", seeded(scheduler_config, "linear"), [80.0, 91.0])
    write_run(folder / "unfinished", seeded(scheduler_config, "one_cycle"), [10.0, 20.0, 30.0], finished=False)
    write_run(folder / "final", seeded(final.get_config, None, dtype="bfloat16"), [90.0, 96.2, 96.1])
    for arm, accuracies in (("cosine", [74.0, 74.2]), ("polynomial", [65.0, 65.2]), ("polynomial_fixed", [74.1, 74.3])):
        for seed, last in enumerate(accuracies):
            config = seeded(scheduler_config, arm, seed, num_epochs=3)
            write_run(folder / "short" / f"{arm}{seed}", config, [50.0, 60.0, last])
    out = tmp_path_factory.mktemp("out") / "report"
    report.write_report(folder, out, CONFIGS)
    return out, (out / "README.md").read_text(), (out / "index.html").read_text()


def section(markdown, heading):
    return markdown.partition(f"{heading}\n")[2].partition("\n## ")[0]


def row(text, arm):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{arm}`")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_means_deviations_differences_and_marks(written):
    rows = section(written[1], "## Table 2: learning-rate schedule").partition("### ")[0].partition("The learning")[0]
    assert row(rows, "cosine") == ["`cosine`", "95.48", "95.20 ± 0.26, best 95.40 ± 0.10, n 3, -0.28 within"]
    assert row(rows, "polynomial")[1:] == ["78.413", "78.50 ± 0.71, best 78.50 ± 0.71, n 2, +0.09 within"]
    assert row(rows, "linear") == ["`linear`", "91.048", "91.00, best 91.00, n 1, -0.05 one seed"]
    assert row(rows, "one_cycle")[1:] == ["91.29", "unfinished: epoch 3 of 200"]
    assert row(rows, "warm_restarts") == ["`warm_restarts`", "", "not run"]


def test_a_difference_beyond_the_seeds_spread_is_marked(tmp_path):
    for seed, last in enumerate([94.0, 94.1, 94.05]):
        write_run(tmp_path / f"runs/{seed}", seeded(scheduler_config, "cosine", seed), [90.0, last])
    report.write_report(tmp_path / "runs", tmp_path / "out", CONFIGS)
    rows = section((tmp_path / "out" / "README.md").read_text(), "## Table 2: learning-rate schedule")
    assert row(rows.partition("The learning")[0], "cosine")[-1].endswith("n 3, -1.43 **outside**")


def test_the_paper_printed_the_best_epoch_of_the_final_model(written):
    rows = section(written[1], "## Table 1: models")
    (line,) = [line for line in rows.splitlines() if line.startswith("| `final`")]
    assert "`final` | 96.10 (best) | bfloat16: 96.10, best 96.20, n 1, +0.10 one seed |" in line
    assert row(rows, "resnet18")[1:3] == ["93.02 (cited)", "not run"]


def test_shortened_runs_stand_apart_and_are_not_compared_with_the_paper(written):
    text = section(written[1], "### Shortened runs of table 2: learning-rate schedule")
    assert "Every arm has `num_epochs=3`, so these are not compared with the paper." in text
    assert row(text, "cosine")[1:] == ["74.10 ± 0.14", "74.10 ± 0.14", "2", ""]
    assert row(text, "polynomial")[4] == "-9.00 **outside**"
    assert row(text, "polynomial_fixed")[4] == "+0.10 within"
    assert "78.41" not in text and "95.48" not in text
    # If a table's only shortened runs are the baseline's, only the first table shows them.
    assert "### Shortened runs of table 1" in written[1] and "### Shortened runs of table 3" not in written[1]


def test_the_best_run_is_that_of_the_highest_last_epoch(written):
    """The best epoch does not count, because it is chosen on the test set."""
    best = section(written[1], "## The best run")
    assert "`final` has the highest test accuracy after its last epoch: **96.10%** (final, seed 0, 200 epochs" in best


def test_every_row_of_the_paper_is_there_run_or_not(written):
    shown = 0
    for path in sorted(path for path in CONFIGS.glob("*.py") if path.stem != "arms"):
        experiment = load_experiment(path)
        for arm in experiment.arms if experiment.title else ():
            rows = section(written[1], f"## {experiment.title}").partition("| arm | paper |")[2]
            printed = row(rows.partition("\n\n")[0], arm)[1]
            accuracy = experiment.get_config(arm).paper.accuracy
            assert printed == "" if accuracy is None else printed.startswith(f"{accuracy:g}"[:5])
            shown += accuracy is not None and "cited" not in printed
    assert shown == 44
    assert "Of the 36 experiments in them, 4 have been run here at full length" in written[1]


def test_the_page_stands_alone_and_shows_every_figure(written):
    out, markdown, page = written
    sources = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    assert len(sources) == len(set(sources)) > 8
    assert all((out / source).stat().st_size > 2000 for source in sources)
    assert {f"figures/{path.name}" for path in (out / "figures").iterdir()} == set(sources)
    assert page.count('src="data:image/svg+xml;base64,') == page.count("<img ") == len(sources)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "http" not in re.sub(r'src="data:[^"]*"', "", page)
    assert all(f'id="{target}"' in page for target in re.findall(r'href="#([^"]+)"', page))
    assert '<td class="text" data-label="claim of the paper">The final recipe scores higher' in page
    assert '<td data-label="more"><a href="#table-1-models">' in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page and "@media print" in page and "nan" not in re.sub(r'"data:[^"]*"', "", page)


def test_held_out_images_are_not_called_test_images(tmp_path):
    for seed, accuracies in enumerate(([90.0, 95.0], [90.0, 95.4])):
        config = seeded(final.get_config, None, seed, **{"dataset.validation_size": 5000, "num_epochs": 2})
        test = {"epoch": 2, "test_accuracy": 88.0 + seed, "test_loss": 1.0}
        write_run(tmp_path / "runs" / str(seed), config, accuracies, test=test)
    report.write_report(tmp_path / "runs", tmp_path / "out", CONFIGS)
    markdown = (tmp_path / "out" / "README.md").read_text()
    text = section(markdown, "### Shortened runs of table 1: models")
    assert "accuracies on training images that were held out" in text
    assert row(text, "final")[1:] == ["95.20 ± 0.28", "95.20 ± 0.28", "2", "", "88.50 ± 0.71"]
    assert "validation accuracy of each arm" in text and "on the validation images" in markdown
    # Nothing was chosen on the test set here.
    assert "choosing the best epoch" not in section(markdown, "## Table 1: models")


@pytest.mark.reliability
def test_odd_runs_break_nothing(tmp_path):
    """The runs have missing or short logs, a divergence, two precisions, and different data."""
    write_run(tmp_path / "runs/a", seeded(scheduler_config, "cosine"), [90.0], data_fingerprint="1")
    write_run(tmp_path / "runs/b", seeded(scheduler_config, "cosine", 1), [90.0, 91.0], data_fingerprint="2")
    write_run(tmp_path / "runs/c", seeded(scheduler_config, "polynomial", num_epochs=2), [70.0, 71.0])
    (tmp_path / "runs/c/metrics.jsonl").unlink()
    write_run(tmp_path / "runs/d", seeded(scheduler_config, "linear"), [60.0], finished=False)
    write_failure("the loss became nan at step 7", tmp_path / "runs/d")
    write_run(tmp_path / "runs/e", seeded(scheduler_config, "one_cycle"), [60.0], finished=False)
    write_run(tmp_path / "runs/f", seeded(scheduler_config, "one_cycle", dtype="bfloat16"), [90.0] * 200)
    write_run(tmp_path / "runs/g", small.get_config(), [50.0] * 20, test={"epoch": 1, "test_accuracy": 50.0})
    (tmp_path / "runs/g/metrics.jsonl").unlink()
    report.write_report(tmp_path / "runs", tmp_path / "out", CONFIGS)
    markdown = (tmp_path / "out" / "README.md").read_text()
    rows = section(markdown, "## Table 2: learning-rate schedule").partition("Only cosine")[0]
    assert row(rows, "linear")[2] == "diverged"
    assert "`runs/d`" not in markdown and "- `d` diverged: the loss became nan at step 7" in markdown
    assert "bfloat16: 90.00, best 90.00, n 1" in row(rows, "one_cycle")[2]
    assert "unfinished: epoch 1 of 200" in row(rows, "one_cycle")[2]
    assert "have the checksums 1, 2." in markdown
    # The small study's baseline has no log.
    assert "What the small study can say" in markdown and "ends at a training accuracy" not in markdown
    # The one complete log is drawn, although the others are not.
    assert "figures/scheduler-full-curves.svg" in markdown
    assert "figures/scheduler-changed-1-curves.svg" not in markdown


def test_no_runs_at_all_are_refused(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="there is no run in it"):
        report.write_report(tmp_path / "runs", tmp_path / "out", CONFIGS)
    assert not (tmp_path / "out").exists()


def test_one_run_and_the_rest_not_run(tmp_path):
    write_run(tmp_path / "runs" / "linear", seeded(scheduler_config, "linear"), [80.0, 91.0])
    report.write_report(tmp_path / "runs", tmp_path / "out", CONFIGS)
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.count("No arm of this table has been run at full length yet.") == 8
    assert text.count("| not run |") == len(CLAIMS) + len(CORRECTIONS) + 7  # claims, and the other arms of Table 2
    # Figures that need no run are drawn anyway.
    drawn = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"architecture", "epochs-rates", "optimizer-rates", "scheduler-rates"} <= drawn
    svg = (tmp_path / "out" / "figures" / "optimizer-rates.svg").read_text()
    panels = re.findall("<!-- ([a-z_]+(?: and . more)?) -->", svg)
    assert panels[:3] == ["sgd and 5 more", "adam_fixed and 2 more", "adam_fixed_warmup and 1 more"]


def test_a_claim_is_judged_from_full_runs_once_all_of_its_arms_have_two(tmp_path):
    """The ResNet-18 has no run at full length, so claims about it still rest on the small study."""
    for seed in range(2):
        for arm, last in {"final": 96.0, "baseline": 95.0}.items():
            write_run(tmp_path / f"runs/{arm}{seed}", seeded(headline.get_config, arm, seed), [90.0, last + seed / 10])
        for name, last in {"baseline": 60.0, "final": 50.0, "resnet18": 55.0}.items():
            test = {"epoch": 1, "test_accuracy": last, "test_loss": 1.0}
            write_run(
                tmp_path / f"runs/small/{name}{seed}", seeded(small.get_config, name, seed), [last + seed], test=test
            )
    report.write_report(tmp_path / "runs", tmp_path / "out", CONFIGS)
    findings = section((tmp_path / "out" / "README.md").read_text(), "## Findings").splitlines()
    final, resnet = (
        next(line for line in findings if line.startswith(f"| {text}")) for text in ("The final recipe", "Both score")
    )
    assert "| holds | +1.00 ± 0.30 | [Table 1](#table-1-models), full length |" in final
    assert "| in part: holds in 1, reversed in 1 of 2 comparisons | -5.00 ± " in resnet and "length" not in resnet


def test_an_out_that_cannot_be_a_report_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxresnet.report.__main__.read_runs", None)  # fails if it is called
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    refused = {"mine": "holds other files", "mine/letter.txt": "is a file", "mine/letter.txt/x": "cannot be written"}
    for out, message in refused.items():
        with pytest.raises(UserError, match=message):
            report.write_report(tmp_path, tmp_path / out, CONFIGS)
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UserError, match="cannot be written"):
        report.write_report(tmp_path, tmp_path / "closed", CONFIGS)


@pytest.mark.reliability
def test_a_real_run_of_the_final_model(tmp_path, tiny_npz):
    config = final.get_config()
    config.update_from_flattened_dict(
        {
            "num_epochs": 2,
            "batch_size": 60,
            "dataset.data_dir": str(tiny_npz),
            "model.channels": (4, 8),
            "model.blocks": (1, 1),
        }
    )
    summary = train_and_evaluate(config, str(tmp_path / "runs" / "final"))
    report.write_report(tmp_path / "runs", tmp_path / "out", CONFIGS)
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"| `final` | {summary['last']['accuracy']:.2f}" in section(text, "### Shortened runs of table 1: models")
    assert "over 1 run with `dataset.data_dir" not in text and "over 1 run with `batch_size=60`" in text
    assert {"confusion.svg", "classes.svg"} <= {path.name for path in (tmp_path / "out" / "figures").iterdir()}


@pytest.mark.reliability
def test_reports_replace_reports_and_nothing_else(tmp_path):
    write_run(tmp_path / "runs" / "linear", seeded(scheduler_config, "linear"), [80.0, 91.0])
    out = tmp_path / "out"
    report.write_report(tmp_path / "runs", out, CONFIGS)
    first = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    report.write_report(tmp_path / "runs", out, CONFIGS)
    assert first == {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    with pytest.raises(UserError, match="holds other files and no report"):
        Page("x").write(tmp_path / "mine")
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"
    with pytest.raises(UserError, match="is a file; give a folder"):
        Page("x").write(tmp_path / "mine" / "index.html")


def test_the_report_in_the_repository_is_that_of_its_runs(tmp_path):
    """If this fails, run ``python -m jaxresnet.report --workdir=results --out=results/report``."""
    results = REPOSITORY / "results"
    report.write_report(results, tmp_path / "out", CONFIGS)
    drawn, kept = (
        {path.relative_to(folder): path.read_text() for path in folder.rglob("*") if path.suffix in (".md", ".svg")}
        for folder in (tmp_path / "out", results / "report")
    )
    assert drawn.keys() == kept.keys()
    assert [path for path in drawn if drawn[path] != kept[path]] == []


def test_the_papers_puzzle_on_real_data():
    """Polynomial at PyTorch's defaults loses to cosine and to its corrected arm by more than the seeds' spread."""
    groups, spread = read_study(
        read_runs(REPOSITORY / "results" / "small.jsonl"), load_experiment(CONFIGS / "small.py")
    )
    cosine, polynomial, fixed = (
        groups[name].accuracy("last") for name in ("baseline", "scheduler/polynomial", "scheduler/polynomial_fixed")
    )
    assert cosine.mean - polynomial.mean > spread.interval(cosine, polynomial)
    assert fixed.mean - polynomial.mean > spread.interval(fixed, polynomial)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        report.write_report(tmp_path / "none", tmp_path / "out", CONFIGS)
    with pytest.raises(UserError, match="there are no tables in it"):
        report.write_report(tmp_path, tmp_path / "out", tmp_path)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Write a report on made-up runs of the small study: two seeds of Table 2 and of the epochs, and one of dropout."""
    folder = tmp_path_factory.mktemp("runs")
    accuracies = {"baseline": 60.0, "scheduler/linear": 55.0, "scheduler/polynomial": 30.0, "scheduler/one_cycle": 40.0}
    fixed = {"linear": 60.5, "polynomial": 59.8, "one_cycle": 61.0}
    accuracies |= {f"scheduler/{arm}_fixed": accuracy for arm, accuracy in fixed.items()}
    accuracies |= {"epochs/100": 61.5, "epochs/300": 60.2, "epochs/400": 59.9, "dropout/0.2": 60.1}
    for name, last in accuracies.items():
        for seed in range(2):
            config = small.get_config(name)
            config.seed = seed
            test = {"epoch": 1, "test_accuracy": last, "test_loss": 1.0}
            logged = [last - 10.0] * (config.num_epochs - 1) + [last + 0.4 * seed]
            write_run(folder / name / f"seed{seed}", config, logged, test=test)
    out = tmp_path_factory.mktemp("out") / "report"
    report.write_report(folder, out, CONFIGS)
    return (out / "README.md").read_text(), {path.stem for path in (out / "figures").iterdir()}


def test_the_report_opens_with_what_was_found(study):
    """Each arm's seeds differ by 0.4, so the deviation is 0.28 with 11 degrees of freedom, and 0.62 is outside."""
    findings = section(study[0], "## Findings")
    claims = {line.split("|")[1].strip(): line for line in findings.splitlines() if line.startswith("|")}
    assert study[0].index("## Findings") < study[0].index("## Contents") < study[0].index("## Table 1")
    cosine = next(line for text, line in claims.items() if text.startswith("Cosine decay"))
    assert "| holds in all 3 comparisons | +5.00 ± 0.62 to +30.00 ± 0.62 |" in cosine
    assert "[Table 2](#table-2-learning-rate-schedule)" in cosine
    corrected = next(line for text, line in claims.items() if text.startswith("Schedules that run"))
    assert "| holds in all 3 comparisons | +5.50 ± 0.62 to +29.80 ± 0.62 |" in corrected
    epochs = next(line for text, line in claims.items() if text.startswith("100 epochs"))
    assert "| reversed | -1.50 ± 0.62 |" in epochs
    longer = next(line for text, line in claims.items() if text.startswith("300 and 400 epochs"))
    assert "| holds: all differences are within 1 point | -0.20 ± 0.62 to +0.10 ± 0.62 |" in longer
    assert sum("| not run |" in line for line in claims.values()) == len(CLAIMS) + len(CORRECTIONS) - 5
    order = [line for line in findings.splitlines() if line.startswith("| [Table")]
    assert order == [
        "| [Table 2](#table-2-learning-rate-schedule) | 4 | +0.67 | +0.67 to +0.67 | 17% |",
        order[1],
    ]
    assert order[1].startswith("| [Table 5](#table-5-epochs) | 4 | ")


def test_the_small_study_stands_beside_the_paper(study):
    rows = section(study[0], "## Table 2: learning-rate schedule").partition("Only cosine")[0]
    assert "No arm of this table has been run at full length yet." in rows
    assert "| arm | paper | small study | n | against `cosine` |" in rows
    assert row(rows, "cosine") == ["`cosine`", "95.48", "60.20 ± 0.28", "2", ""]
    assert row(rows, "linear") == ["`linear`", "91.048", "55.20 ± 0.28", "2", "-5.00 **outside**"]
    assert row(rows, "polynomial_fixed")[2:] == ["60.00 ± 0.28", "2", "-0.20 within"]
    assert row(rows, "warm_restarts") == ["`warm_restarts`", "", "not run", "", ""]
    assert {"scheduler-small-bars", "scheduler-small-curves", "epochs-small-curves"} <= study[1]
    # Its runs are no shortened runs of the tables.
    assert "### " not in study[0]


def test_markdown():
    assert anchor("Table 2: learning-rate schedule") == "table-2-learning-rate-schedule"
    assert table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_what_choosing_the_best_epoch_is_worth(written):
    text = section(written[1], "## Table 1: models")
    assert "number 198 of 200" in text
    # The choice is worth 0.3, 0.3 and 0.0 for the baseline, and 0.1 for the final model.
    assert (
        "In our 4 runs of this table at full length, choosing the best epoch on the test set gains 0.18 ± 0.15 points, "
        "at most 0.30."
    ) in text


def test_imports_are_those_of_the_torch_model():
    layers = describe_layers(create_model(final.get_config()), (32, 32, 3))
    reference = TorchResNet(pooling="global", head=1)
    modules = {"conv": torch.nn.Conv2d, "norm": torch.nn.BatchNorm2d, "linear": torch.nn.Linear}
    for kind, module in modules.items():
        expected = [sum(p.numel() for p in m.parameters()) for m in reference.modules() if isinstance(m, module)]
        assert sorted(layer.parameters for layer in layers if layer.kind == kind) == sorted(expected)
    assert sum(layer.parameters for layer in layers) == 4_697_162
    assert [layer.output_shape for layer in layers if layer.path in ("conv1", "layer3_0/conv1", "linear")] == [
        (32, 32, 64), (8, 8, 256), (10,),
    ]  # fmt: skip


def test_the_architecture_is_drawn_from_the_model():
    figure = draw_architecture(create_model(final.get_config()), (32, 32, 3))
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    for expected in (
        "4 blocks of 128,\nthe first at stride 2",
        "global mean, dropout 0.4",
        "4,697,162",
        "798.7 M",
        "8x8x256",
    ):
        assert expected in texts
