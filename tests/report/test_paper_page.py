"""Figures of docs/paper.md, computed from the configs, the authors' logs and the runs of the small study."""

import re

import pytest

from configs import small
from jaxresnet.config import changed_fields, load_experiment
from jaxresnet.core.costs import describe_layers
from jaxresnet.core.state import create_model
from jaxresnet.report.claims import CLAIMS, CORRECTIONS
from jaxresnet.report.findings import judge_claim
from jaxresnet.report.notes import hyperparams_by_epoch
from jaxresnet.report.paper_curves import read_paper_curve
from jaxresnet.report.tables import create_table, read_study
from jaxresnet.workdir.runs import read_runs
from tests.conftest import REPOSITORY
from tests.report.test_notes import arms_of

PAGE = (REPOSITORY / "docs" / "paper.md").read_text(encoding="utf-8")


def section(heading):
    """Return the section whose heading begins as given, with its lines joined."""
    (text,) = re.findall(rf"^## {heading}\b(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return " ".join(text.split())


def printed(name):
    return {arm: config.paper.accuracy for arm, config in arms_of(name).items() if config.paper.accuracy is not None}


def curve(name):
    return read_paper_curve(name)["eval_accuracy"]


def last_rate(name, arm):
    return hyperparams_by_epoch(arms_of(name)[arm]).learning_rate[-1, -1]


def rectification(step, beta2=0.999):
    """Return RAdam's factor of Adam's step (Liu et al. 2020, On the Variance of the Adaptive Learning Rate)."""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    return (((length - 4) * (length - 2) * longest) / ((longest - 4) * (longest - 2) * length)) ** 0.5


def count_parameters(config):
    return sum(layer.parameters for layer in describe_layers(create_model(config), (32, 32, 3)))


def small_steps(config):
    return config.num_epochs * -(-small.TRAINING_IMAGES // config.batch_size)


def test_what_it_measures():
    text, final, baseline = section("What it measures"), read_paper_curve("final"), read_paper_curve("baseline")
    accuracies, losses = final["eval_accuracy"], final["eval_loss"]
    assert f"**{max(accuracies):.2f}% is a best epoch" in text and f"The last epoch is {accuracies[-1]:.2f}." in text
    assert f"epoch {accuracies.index(max(accuracies)) + 1} of {len(accuracies)} of one run" in text
    for arm, log in (("crop", "augmentation/crop"), ("100", "epochs/100_second_log")):
        paper = printed(log.partition("/")[0])[arm]
        assert f"`{arm}` prints {paper:.2f} and its log ends at {curve(log)[-1]:.2f}" in text
    assert final["train_accuracy"][-1] == baseline["train_accuracy"][-1] == 100
    assert "training accuracy is 100.00% in the last epoch" in text
    assert f"ends at {losses[-1]:.3f}, within 0.001 of its lowest" in text and losses[-1] - min(losses) <= 0.0011
    assert f"The network has {count_parameters(arms_of('headline')['final']):,}, which is 4.7M" in text


def test_models():
    text, arms, final, baseline = section("Table 1"), arms_of("headline"), curve("final"), curve("baseline")
    assert f"{max(final):.2f}% against {baseline[-1]:.2f}%" in text
    assert (
        f"{arms['resnet18'].paper.accuracy}% for a ResNet-18 of {count_parameters(arms['resnet18']):,} parame" in text
    )
    assert changed_fields(arms["final"], arms["baseline"]).keys() == {
        "model.pooling",
        "model.dropout_rate",
        "augment.mean",
        "augment.std",
    }
    assert f"dropout of {arms['final'].model.dropout_rate} and no normalisation" in text
    assert f"last epochs are {final[-1]:.2f} and {baseline[-1]:.2f}" in text
    assert f"the best {max(final):.2f} and {max(baseline):.2f}" in text
    ratios = [count_parameters(arms["resnet18"]) / count_parameters(arms["baseline"])]
    ratios.append(count_parameters(small.get_config("resnet18")) / count_parameters(small.get_config("baseline")))
    assert (
        "ResNet-18 has {1:.1f} times the parameters of its baseline, the full one {0:.1f} times".format(*ratios) in text
    )
    relatives = [curve(f"final_try{number}")[-1] for number in (1, 2, 4)]
    assert "end at {:.2f}, {:.2f} and {:.2f}".format(*relatives) in text


def test_schedules():
    text, paper, log = section("Table 2"), printed("scheduler"), read_paper_curve("scheduler/one_cycle")
    assert "{:.2f}% for cosine, {:.2f}, {:.2f} and {:.2f}%".format(*paper.values()) in text
    assert [*paper] == ["cosine", "linear", "polynomial", "one_cycle"]
    assert f"training accuracy of {log['train_accuracy'][-1]:.2f}%" in text
    assert f"a learning rate of {last_rate('scheduler', 'one_cycle'):.3g}" in text


def test_augmentation():
    text, paper = section("Table 3"), printed("augmentation")
    gains = [paper[name] - paper["none"] for name in ("flip", "crop", "crop_flip")]
    assert f"against {paper['none']:.2f}% without" in text
    assert "flips gain {:.2f} points, crops {:.2f}, both {:.2f}".format(*gains) in text
    logs = [read_paper_curve(f"augmentation/{arm}") for arm in paper if arm != "baseline"]
    assert {f"{log['train_accuracy'][-1]:.2f}" for log in logs} == {"100.00"} and "training accuracy of 100.00%" in text
    ends = [curve(f"augmentation/{arm}")[-1] for arm in ("norm_0.49", "norm_0.5")]
    assert "alone ends at {:.2f} and {:.2f}".format(*ends) in text and max(ends) < paper["none"]


def test_optimizers():
    text, paper, arms = section("Table 4"), printed("optimizer"), arms_of("optimizer")
    low, high = min(paper.values()), max(accuracy for name, accuracy in paper.items() if name != "sgd")
    assert f"{paper['sgd']:.2f}% for SGD" in text and f"differ by {high - low:.2f}: {high:.2f} and {low:.2f}" in text
    assert {arms[name].schedule.learning_rate for name in paper} == {0.1} and "SGD's learning rate of 0.1" in text
    radam = small.get_config("optimizer/radam")
    step = small_steps(radam)
    assert f"in step {step}, the last of the study, they are {rectification(step):.2f} times Adam's" in text
    assert arms["rmsprop_longer"].num_epochs == 400 and "`rmsprop_longer` has 400 epochs" in text


def test_epochs():
    text, paper, log = section("Table 5"), printed("epochs"), curve("epochs/100_second_log")
    assert (
        f"{paper['100']:.2f}% after 100 epochs, {paper['200']:.2f} after 200, {paper['300']:.2f} after 300 and "
        f"{paper['400']:.2f} after 400"
    ) in text
    lengths = {arm: config.schedule.total_epochs or config.num_epochs for arm, config in arms_of("epochs").items()}
    assert {lengths[arm] for arm in paper} == {200} and "cosine is 200 epochs long in every arm" in text
    assert f"rate is still {last_rate('epochs', '100'):.2g} where" in text
    assert f"last ten epochs lie between {min(log[-10:]):.2f} and {max(log[-10:]):.2f}" in text


def test_pooling():
    text, paper = section("Table 6"), printed("pooling")
    assert f"{paper['avg_5']:.2f}% for the 5x5 window, {paper['avg_8']:.2f} and {paper['adaptive']:.2f} for" in text
    ends = [curve(f"pooling/{arm}")[-10:] for arm in ("avg_8_stride1", "adaptive")]
    spans = [f"{min(end):.2f} to {max(end):.2f}" for end in ends]
    assert f"span {spans[0]} and {spans[1]}" in text
    assert abs(paper["avg_8"] - paper["adaptive"]) <= min(max(end) - min(end) for end in ends)


def test_dropout():
    text, paper = section("Table 7"), printed("dropout")
    rates = ("0.2", "0.3", "0.4", "0.5")
    assert f"{paper['0.0']:.2f}% without" in text
    assert "{:.2f}, {:.2f}, {:.2f} and {:.2f} at rates".format(*(paper[rate] for rate in rates)) in text
    ends = [curve(f"dropout/{rate}")[-10:] for rate in rates]
    assert f"span up to {max(max(end) - min(end) for end in ends):.2f} points" in text
    assert f"the five rows {max(paper.values()) - min(paper.values()):.2f}" in text


def test_architectures():
    text, paper = section("Table 8"), printed("architecture")
    assert "{:.2f}% for three stages, {:.2f} for four, {:.2f} for five, and {:.2f} for".format(*paper.values()) in text
    assert [*paper] == ["64-128-256", "32-64-128-256", "16-32-64-128-256", "32-64-128"]
    assert f"stem of {arms_of('architecture')['32-64-128'].model.stem_channels} channels" in text
    assert f"Its best epoch is {max(curve('architecture/32-64-128_13-13-13')):.2f}" in text


def test_batch_sizes():
    text, paper = section("Text: batch size"), printed("batch_size")
    ordered = [paper[size] for size in ("16", "32", "64", "128", "256", "512")]
    assert (
        "{:.2f}% at a batch of 16, then {:.2f}, {:.2f}, {:.2f} at 128, {:.2f}, and {:.2f} at".format(*ordered) in text
    )
    steps = [small_steps(small.get_config(name)) for name in ("batch_size/16", "baseline")]
    assert "a batch of 16 takes {:,} and one of 128 takes {:,}".format(*steps) in text
    assert f"From 64 to 512, the last epochs lie within {max(ordered[2:]) - min(ordered[2:]):.2f} points" in text


@pytest.fixture(scope="module")
def tables():
    """Return the tables of the small study's runs, by name."""
    runs = read_runs(REPOSITORY / "results" / "small.jsonl")
    study = read_study(runs, load_experiment(REPOSITORY / "configs" / "small.py"))
    names = [table.__name__.rpartition(".")[2] for table in small.TABLES]
    experiments = [load_experiment(REPOSITORY / "configs" / f"{name}.py") for name in names]
    return {each.path.stem: create_table(each, runs, study) for each in experiments}


@pytest.mark.parametrize("claim", [*CLAIMS, *CORRECTIONS], ids=lambda claim: claim.text)
def test_what_was_found_here(tables, claim):
    each = tables[claim.table]
    title = each.experiment.title
    finding, _, _ = judge_claim(claim, each)
    found = f"{finding.verdict} ({finding.range} points)." if finding else "not run yet."
    assert f"- *{claim.text}*: {found}" in section(title if title.startswith("Text") else title.partition(":")[0])
