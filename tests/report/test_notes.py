"""Numbers in the notes on the paper's tables, recomputed from the configs, the authors' logs and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxresnet.config import changed_fields, load_experiment
from jaxresnet.core.costs import describe_layers
from jaxresnet.core.state import create_model, create_train_state, create_transform
from jaxresnet.report import notes
from jaxresnet.report.notes import hyperparams_by_epoch
from jaxresnet.report.paper_curves import read_paper_curve
from tests.conftest import REPOSITORY

schedulers = torch.optim.lr_scheduler


def text_of(name):
    """Return the note on a table, with its lines joined."""
    return " ".join(notes.read_note(name).split())


def experiment(name):
    return load_experiment(REPOSITORY / "configs" / f"{name}.py")


def arms_of(name):
    table = experiment(name)
    return {arm: table.get_config(arm) for arm in table.arms}


def torch_rates(create_scheduler, epochs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = create_scheduler(optimizer)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates)


def test_every_table_has_a_note_and_every_note_a_table():
    names = {path.stem for path in (REPOSITORY / "configs").glob("*.py") if "\nTITLE = " in path.read_text()}
    assert {name for name in names if notes.read_note(name)} == names


def test_headline():
    text = text_of("headline")
    final, baseline = (read_paper_curve(name)["eval_accuracy"] for name in ("final", "baseline"))
    others = [max(read_paper_curve(f"final_try{number}")["eval_accuracy"]) for number in (1, 2, 4)]
    assert f"The paper's {max(final):.2f} is the best epoch" in text
    assert f"number {final.index(max(final)) + 1} of {len(final)}" in text and f"last epoch is {final[-1]:.2f}" in text
    assert "{:.2f}, {:.2f} and {:.2f}.".format(*others) in text
    assert f"so {max(final):.2f} and the baseline's {baseline[-1]:.2f} are" in text
    assert f"The baseline's best epoch is {max(baseline):.2f}." in text


def test_scheduler():
    text, arms = text_of("scheduler"), arms_of("scheduler")
    polynomial = torch_rates(schedulers.PolynomialLR, 200)
    zero = int((polynomial == 0).sum())
    assert f"is 0 after {200 - zero} epochs, so {zero} of its 200 epochs change no parameter" in text
    linear = torch_rates(schedulers.LinearLR, 200)
    assert f"rises for {int((linear < 0.1 - 1e-9).sum())} epochs and then stays at {linear[-1]:.3g} to the end" in text
    schedule = arms["one_cycle"].schedule
    assert f"made for {schedule.total_epochs:,.0f} steps and stepped {arms['one_cycle'].num_epochs} times" in text
    cycle = torch_rates(lambda o: schedulers.OneCycleLR(o, max_lr=0.01, steps_per_epoch=128, epochs=200), 200)
    assert f"from {cycle[0]:.3g} to {cycle.max():.3g}" in text and cycle.max() < 0.01 / 20
    assert f"near the {schedule.learning_rate:g} it was given" in text
    for arm, rates in (("polynomial", polynomial), ("linear", linear), ("one_cycle", cycle)):
        np.testing.assert_allclose(hyperparams_by_epoch(arms[arm]).learning_rate[:, 0], rates, rtol=1e-9, atol=1e-12)


def test_augmentation():
    text, arms = text_of("augmentation"), arms_of("augmentation")
    full, base = arms["all"], arms["baseline"]
    assert list(changed_fields(full, base)) == ["augment.std"] and "differ in `augment.std` alone" in text
    assert f"divide by {tuple(full.augment.std)}, the baseline by {tuple(base.augment.std)}" in text
    ratios = [a / b for a, b in zip(base.augment.std, full.augment.std, strict=True)]
    assert f"{min(ratios):.2f} to {max(ratios):.2f} times" in text
    assert f"{base.paper.accuracy:.2f} and {full.paper.accuracy:.2f}, may be" in text


def test_normalisation_alone():
    text = text_of("augmentation")
    curves = [read_paper_curve(f"augmentation/{arm}")["eval_accuracy"] for arm in ("norm_0.49", "norm_0.5", "none")]
    best, lost = [max(curve) for curve in curves], [max(curve) - curve[-1] for curve in curves]
    printed = [arms_of("augmentation")[arm].paper.accuracy for arm in ("norm_0.49", "norm_0.5", "none")]
    assert "best epochs are {:.2f}, {:.2f} and {:.2f}".format(*best) in text
    assert "lose {:.2f} and {:.2f} points".format(*lost) in text and f"{lost[2]:.2f}." in text
    assert "{:.2f} and {:.2f} against {:.2f}".format(*printed) in text


def test_optimizer():
    text, arms = text_of("optimizer"), arms_of("optimizer")
    rate, usual = arms["adam"].schedule.learning_rate, torch.optim.Adam([torch.zeros(1)]).defaults["lr"]
    assert usual == arms["adam_fixed"].schedule.learning_rate
    assert (
        f"learning rate of {rate:g}. For Adam that is {rate / usual:.0f} times PyTorch's default of {usual:g}" in text
    )
    momentum = arms["rmsprop"].optimizer.momentum
    assert f"momentum of {momentum:g} lengthens its steps {1 / (1 - momentum):.0f} times" in text
    assert list(changed_fields(arms["adamw"], arms["adam"])) == ["optimizer.name"]


def test_epochs():
    text, arms = text_of("epochs"), arms_of("epochs")
    rates = torch_rates(lambda o: schedulers.CosineAnnealingLR(o, T_max=200), 400)
    assert f"while the learning rate is still {rates[99]:.2g}" in text
    assert f"to {rates[299]:.2g} in the last epoch of `300` and {rates[399]:.2g} in that of `400`" in text
    assert all(arms[arm].schedule.total_epochs == 200 for arm in ("100", "300", "400"))
    around = read_paper_curve("baseline")["eval_accuracy"][90:110]
    second = read_paper_curve("epochs/100_second_log")["eval_accuracy"]
    assert f"scores {min(around):.2f} to {max(around):.2f}" in text
    assert f"scores {min(second[-10:]):.2f} to {max(second[-10:]):.2f} in its last ten epochs" in text
    assert f"and {second[-1]:.2f} in the last" in text
    paper = {arm: arms[arm].paper.accuracy for arm in arms}
    assert f"So {paper['100']:.2f} says" in text and f"printed {paper['300']:.2f} and {paper['400']:.2f} are" in text
    base = paper["200"]
    assert f"{paper['300'] - base:+.2f} and {paper['400'] - base:+.2f} against its {base:.2f}" in text


def largest_difference(first, second):
    """Return the largest difference between the logits of two models with equal parameters, on 16 noise images."""
    state = create_train_state(first, (32, 32, 3))
    noise = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    images = create_transform(first).eval(jnp.asarray(noise))

    def logits(config):
        return jax.jit(lambda x: create_model(config).apply(state.variables, x, train=False))(images)

    return float(jnp.max(jnp.abs(logits(first) - logits(second))))


@pytest.mark.reliability
def test_pooling():
    text, arms = text_of("pooling"), arms_of("pooling")
    eight, adaptive, corner = (arms[arm] for arm in ("avg_8", "adaptive", "avg_5"))
    assert largest_difference(eight, adaptive) == 0 and "equal to the last bit" in text
    assert largest_difference(eight, corner) > 1e-3
    last = [layer for layer in describe_layers(create_model(corner), (32, 32, 3)) if layer.kind == "conv"][-1]
    side, window = last.output_shape[0], int(corner.model.pooling)
    assert f"a window of {eight.model.pooling} at stride 1 is the whole {side}x{side} map" in text
    assert f"{side**2 - window**2} of {side**2} positions are never read" in text
    assert f"So their {eight.paper.accuracy:.2f} and {adaptive.paper.accuracy:.2f} are" in text
    gains = [config.paper.accuracy - corner.paper.accuracy for config in (eight, adaptive)]
    assert f"{min(gains):.2f} to {max(gains):.2f} less" in text


def test_dropout():
    text, arms = text_of("dropout"), arms_of("dropout")
    (pooling,) = {config.model.pooling for config in arms.values()}
    accuracies = [config.paper.accuracy for config in arms.values()]
    assert f"the baseline's {pooling}x{pooling} corner pooling" in text
    assert f"All {len(arms)} rows lie within {max(accuracies) - min(accuracies):.2f} points" in text


def test_architecture():
    text, arms = text_of("architecture"), arms_of("architecture")
    others = {
        arm: [f"{field}={value}" for field, value in changed_fields(config, arms["64-128-256"]).items()]
        for arm, config in arms.items()
        if arm != "64-128-256"
    }
    others = {
        arm: [each for each in fields if "channels=[" not in each and "blocks" not in each]
        for arm, fields in others.items()
    }
    assert others == {
        "32-64-128-256": ["model.pooling=global"],
        "16-32-64-128-256": ["model.pooling=global"],
        "32-64-128": ["model.pooling=global", "model.stem_channels=16"],
    }
    assert "`32-64-128-256` and `16-32-64-128-256` also have `model.pooling=global`." in text
    assert "`32-64-128` also has `model.pooling=global` and `model.stem_channels=16`." in text


def test_batch_size():
    (rate,) = {config.schedule.learning_rate for config in arms_of("batch_size").values()}
    assert f"learning rate of {rate:g}" in text_of("batch_size")


def test_logs_that_end_elsewhere():
    assert notes.other_logs_note(experiment("augmentation")).count("The log that survives of") == 1
    assert "`crop` ends at 94.10" in notes.other_logs_note(experiment("augmentation"))
    assert "`100` ends at 88.30" in notes.other_logs_note(experiment("epochs"))
    assert notes.other_logs_note(experiment("dropout")) == ""
