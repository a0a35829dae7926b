"""What the paper's captions leave unsaid, derived from the settings of the arms and the authors' own logs."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxresnet.architecture import describe_layers
from jaxresnet.cifar10 import IMAGE_SHAPE, NUM_TRAIN
from jaxresnet.config import changed_fields
from jaxresnet.experiments import Experiment
from jaxresnet.page import table
from jaxresnet.plot import read_paper_curve
from jaxresnet.runs import Group, Stat
from jaxresnet.schedules import Hyperparams, create_hyperparams_fn
from jaxresnet.train_state import create_model, create_train_state, create_transform


def hyperparams_by_epoch(config: ConfigDict) -> Hyperparams:
    """Learning rates and momenta of every step on CIFAR-10, (epochs, steps an epoch)."""
    steps_per_epoch = -(-NUM_TRAIN // config.batch_size)
    steps = np.arange(config.num_epochs * steps_per_epoch).reshape(config.num_epochs, steps_per_epoch)
    return create_hyperparams_fn(config, steps_per_epoch)(steps)


def rate_table(hyperparams: dict[str, Hyperparams]) -> str:
    """A table of the learning rate that each arm really trains at, and of the momentum where one moves it.

    Args:
        hyperparams: by arm, from ``hyperparams_by_epoch``.
    """
    moving = any(np.ptp(momenta) > 0 for _, momenta in hyperparams.values())
    rows = []
    for arm, (rates, momenta) in hyperparams.items():
        at_zero = int((rates.max(1) < 1e-12).sum())
        row = [
            f"`{arm}`",
            f"{rates[0, 0]:.3g}",
            f"{rates.max():.3g}",
            f"{rates[-1, -1]:.3g}",
            f"{at_zero} of {len(rates)}",
        ]
        low, high = f"{momenta.min():.4g}", f"{momenta.max():.4g}"
        rows.append([*row, low if low == high else f"{low} to {high}"] if moving else row)
    header = ["arm", "first step", "highest", "last step", "epochs at 0"]
    return table([*header, "momentum"] if moving else header, rows)


def scheduler_note(experiment: Experiment) -> str:
    """Why Table 2 does not compare the schedules that it names."""
    rates = {arm: hyperparams_by_epoch(experiment.get_config(arm)).learning_rate for arm in experiment.arms}
    constant_from = int(np.argmax(rates["linear"].min(1) >= rates["linear"].max() - 1e-12))
    zero_from = int(np.argmax(rates["polynomial"].max(1) < 1e-12))
    epochs, cycle = len(rates["polynomial"]), experiment.get_config("one_cycle").schedule
    return (
        f"Only cosine ran as its name says. At PyTorch's defaults `linear` rises for {constant_from} epochs and then "
        f"stays at {rates['linear'].max():.3g} to the end; it never decays. `polynomial` is 0 after {zero_from} "
        f"epochs, so {epochs - zero_from} of its {epochs} epochs change no parameter. `one_cycle` was made for "
        f"{cycle.total_epochs:,.0f} steps and stepped {epochs} times: its rate goes from "
        f"{rates['one_cycle'][0, 0]:.3g} to {rates['one_cycle'].max():.3g} and never near the "
        f"{cycle.learning_rate:g} it was given. The three are ranked by these accidents, and not by the shape of the "
        "schedules."
    )


def other_logs_note(experiment: Experiment) -> str:
    """Which of the authors' logs end elsewhere than the figure that the paper prints; empty where none does."""
    sentences = []
    for arm in experiment.arms:
        paper = experiment.get_config(arm).paper
        if paper.curve and paper.epoch == "last":
            last = read_paper_curve(paper.curve)["eval_accuracy"][-1]
            if abs(last - paper.accuracy) > 0.011:  # more than rounding
                sentences.append(
                    f"The log that survives of `{arm}` ends at {last:.2f}, so it is of another run than the one "
                    "printed."
                )
    return " ".join(sentences)


def augmentation_note(experiment: Experiment) -> str:
    """Why the row `all` is not the baseline."""
    full, base = experiment.get_config("all"), experiment.get_config("baseline")
    fields = ", ".join(changed_fields(full, base))
    ratios = [a / b for a, b in zip(base.augment.std, full.augment.std, strict=True)]
    return (
        f"`all` and `baseline` differ in `{fields}` alone: the arms that normalise divide by "
        f"{tuple(full.augment.std)}, the baseline by {tuple(base.augment.std)}, so their images are "
        f"{min(ratios):.2f} to {max(ratios):.2f} times the baseline's. BatchNorm follows the first convolution and "
        f"takes most of such a factor out again; the difference between the two rows, {base.paper.accuracy:.2f} and "
        f"{full.paper.accuracy:.2f}, may be that of one run to the next."
    )


def optimizer_note(experiment: Experiment) -> str:
    """Why Table 4 does not compare the optimizers at their best."""
    rate = experiment.get_config("adam").schedule.learning_rate
    usual = experiment.get_config("adam_fixed").schedule.learning_rate
    momentum = experiment.get_config("rmsprop").optimizer.momentum
    return (
        f"Every optimizer ran at SGD's learning rate of {rate:g}. For Adam that is {rate / usual:.0f} times "
        f"PyTorch's default of {usual:g}, and RMSprop's momentum of {momentum:g} lengthens its steps "
        f"{1 / (1 - momentum):.0f} times again. Decoupled decay saves AdamW: the rows `adam` and `adamw` differ in "
        "nothing else. The table ranks tolerance to a rate that is too high; the `_fixed` arms compare the "
        "optimizers at usual ones."
    )


def epochs_note(experiment: Experiment, groups: dict[str, list[Group]]) -> str:
    """Why 100 epochs scored 85, and why 300 and 400 do not overfit."""
    rates = {arm: hyperparams_by_epoch(experiment.get_config(arm)).learning_rate for arm in experiment.arms}
    accuracies = read_paper_curve("baseline")["eval_accuracy"]
    around = accuracies[90:110]
    second = read_paper_curve("epochs/100_second_log")["eval_accuracy"]
    baseline = experiment.get_config("200").paper.accuracy
    paper = {arm: experiment.get_config(arm).paper.accuracy for arm in ("100", "300", "400")}
    text = (
        "The cosine is 200 epochs long in every arm. `100` stops while the learning rate is still "
        f"{rates['100'][-1, -1]:.2g}, where accuracy jumps from epoch to epoch: the baseline itself scores "
        f"{min(around):.2f} to {max(around):.2f} in epochs 91 to 110 of the authors' log, and another log of this "
        f"arm {min(second[-10:]):.2f} to {max(second[-10:]):.2f} in its last ten epochs, {second[-1]:.2f} in the "
        f"last. So {paper['100']:.2f} says where a run was stopped, and not what 100 epochs can do.\n\n"
        f"Past epoch 200 the rate rises again, to {rates['300'][-1, -1]:.2g} in the last epoch of `300` and "
        f"{rates['400'][-1, -1]:.2g} in that of `400`, so a last epoch there would score like one at such a rate. "
        f"The printed {paper['300']:.2f} and {paper['400']:.2f} are far above that, and no log of them survives. We "
        "take them for accuracies of an earlier epoch, the best or that of epoch 200, where the recipe is the "
        f"baseline's to the step; then {paper['300'] - baseline:+.2f} and {paper['400'] - baseline:+.2f} against its "
        f"{baseline:.2f} are the spread of one run to the next, and no overfitting. If they were last epochs, as in "
        "the paper's other rows, our last epochs would come near them."
    )
    for arm in ("300", "400"):
        for group in groups[arm]:
            if group.is_full and group.runs:
                last, best = group.accuracy("last"), group.accuracy("best")
                text += (
                    f" Our `{arm}`: last epoch {last}, {last.mean - paper[arm]:+.2f} from the printed figure; best "
                    f"epoch {best}, {best.mean - paper[arm]:+.2f} from it (n = {last.n})."
                )
    return text


def largest_difference(first: ConfigDict, second: ConfigDict) -> float:
    """The largest difference between the logits of two models with the same parameters, on 16 images of noise."""
    state = create_train_state(first, IMAGE_SHAPE)
    noise = np.random.default_rng(0).integers(0, 256, (16, *IMAGE_SHAPE), dtype=np.uint8)
    images = create_transform(first).eval(jnp.asarray(noise))

    def logits(config: ConfigDict) -> jax.Array:
        return jax.jit(lambda x: create_model(config).apply(state.variables, x, train=False))(images)

    return float(jnp.max(jnp.abs(logits(first) - logits(second))))


def pooling_note(experiment: Experiment) -> str:
    """Why two rows of Table 6 are one, and what the first one never reads."""
    eight, adaptive, corner = (experiment.get_config(arm) for arm in ("avg_8", "adaptive", "avg_5"))
    difference = largest_difference(eight, adaptive)
    outcome = "equal to the last bit" if difference == 0 else f"equal to within {difference:.1g}"
    convolutions = [layer for layer in describe_layers(create_model(corner), IMAGE_SHAPE) if layer.kind == "conv"]
    side, window = convolutions[-1].output_shape[0], int(corner.model.pooling)
    gains = [config.paper.accuracy - corner.paper.accuracy for config in (eight, adaptive)]
    return (
        f"`avg_8` and `adaptive` are the same function: a window of {eight.model.pooling} at stride 1 is the whole "
        f"{side}x{side} map. With the same parameters their logits for 16 images of noise are {outcome}. So their "
        f"{eight.paper.accuracy:.2f} and {adaptive.paper.accuracy:.2f} are two draws of one thing. `avg_5` fits the "
        f"map once, in its top left corner: {side**2 - window**2} of {side**2} positions are never read, and it "
        f"scores {min(gains):.2f} to {max(gains):.2f} less."
    )


def dropout_note(experiment: Experiment) -> str:
    """Where the dropout of Table 7 stands."""
    configs = [experiment.get_config(arm) for arm in experiment.arms]
    (pooling,) = {config.model.pooling for config in configs}
    figures = [config.paper.accuracy for config in configs]
    return (
        f"The dropout stands between the baseline's {pooling}x{pooling} corner pooling and the linear layer; the "
        f"global pooling of the final model came later. All {len(figures)} rows lie within "
        f"{max(figures) - min(figures):.2f} points, one run each."
    )


def architecture_note(experiment: Experiment) -> str:
    """What the rows of Table 8 change beside channels and blocks."""
    base = experiment.get_config("64-128-256")
    others = {
        arm: ", ".join(
            f"`{field}={value}`"
            for field, value in changed_fields(experiment.get_config(arm), base).items()
            if field not in ("model.channels", "model.blocks")
        )
        for arm in experiment.arms
        if experiment.get_config(arm).name != base.name
    }
    return (
        "The rows differ in more than channels and blocks: "
        + "; ".join(f"`{arm}` also has {changes}" for arm, changes in others.items())
        + ". A stem that is narrower than the first stage gives its first block a projection that the others lack. No "
        "script of the second and third row survives; their stem and pooling are assumed."
    )


def batch_size_note(experiment: Experiment) -> str:
    """What was not changed along with the batch size."""
    (rate,) = {experiment.get_config(arm).schedule.learning_rate for arm in experiment.arms}
    return (
        f"All ran at a learning rate of {rate:g}, so a smaller batch also means more noise a step: the rows compare "
        "recipes and not batch sizes alone."
    )


def selection_note(groups: list[Group]) -> str:
    """What the choice of the best epoch on the test set is worth: in the authors' logs, and in our own runs."""
    logs = {name: read_paper_curve(name)["eval_accuracy"] for name in ("final", "baseline")}
    best, last = max(logs["final"]), logs["final"][-1]
    others = [max(read_paper_curve(f"final_try{number}")["eval_accuracy"]) for number in (1, 2, 4)]
    text = (
        f"The paper's {best:.2f} is the best epoch of one run, number {logs['final'].index(best) + 1} of "
        f"{len(logs['final'])}, chosen on the test set; the same run's last epoch is {last:.2f}. Logs of three "
        "relatives survive, two without an adaptive pooling layer and one with the baseline's normalisation; their "
        f"best epochs are {', '.join(f'{accuracy:.2f}' for accuracy in others)}. Tables 2 to 8 print last epochs, so "
        f"{best:.2f} and the baseline's {logs['baseline'][-1]:.2f} are different quantities: the baseline's best "
        f"epoch is {max(logs['baseline']):.2f}."
    )
    for is_full, what in ((True, "at full length"), (False, "shortened or changed")):
        gains = [
            run.summary["best"]["accuracy"] - run.summary["last"]["accuracy"]
            for group in groups
            for run in group.runs
            if group.is_full == is_full and group.split == "test" and run.summary
        ]
        if gains:
            text += (
                f" In our own {len(gains)} runs of this table {what} the choice is worth {Stat.of(gains)} points, at "
                f"most {max(gains):.2f}."
            )
    return text
