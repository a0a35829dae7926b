"""Reading and grouping of runs."""

from configs import arms as configs_arms
from configs.pooling import ARMS, get_config
from jaxresnet.config import eval_split_name, save_config
from jaxresnet.report.groups import changed_sweeps, group_runs
from jaxresnet.report.spread import Stat
from jaxresnet.workdir.folder import write_confusion, write_summary
from jaxresnet.workdir.runs import read_runs


def write_run(folder, config, accuracies, finished=True, **summary):
    """Write a run as training leaves it, with these accuracies and further fields of its summary."""
    split = eval_split_name(config)
    folder.mkdir(parents=True)
    save_config(config, folder)
    lines = []
    for epoch, accuracy in enumerate(accuracies, 1):
        lines.append(
            f'{{"epoch": {epoch}, "step": {391 * epoch}, "learning_rate": {0.1 / epoch}, "train_loss": 1.0, '
            f'"train_accuracy": 50.0, "images_per_second": 100.0, "{split}_loss": 1.0, "{split}_accuracy": {accuracy}, '
            f'"seconds": {10.0 * epoch}}}\n'
        )
    (folder / "metrics.jsonl").write_text("".join(lines))
    if not finished:
        return
    best = max(range(len(accuracies)), key=lambda i: accuracies[i])
    write_confusion([[9, 1], [2, 8]], ["cat", "dog"], folder)
    write_summary(
        {
            "best": {"epoch": best + 1, "accuracy": accuracies[best], "selected_on": split},
            "last": {"epoch": len(accuracies), "accuracy": accuracies[-1]},
            "evaluated_on": split,
            "wall_seconds": 100.0,
            "train_seconds": 90.0,
            "images_per_second": 1000.0,
            "device": "a device",
            "device_count": 1,
            "platform": "gpu",
            "versions": {"jax": "1.2.3"},
            **summary,
        },
        folder,
    )


def arm(name, **fields):
    config = configs_arms.choose("pooling", ARMS, name)
    config.update_from_flattened_dict(fields)
    return config


def test_groups_differ_in_what_they_change_of_the_arm(tmp_path):
    write_run(tmp_path / "a", arm("avg_8"), [90.0, 94.0])
    write_run(tmp_path / "b", arm("avg_8", seed=1), [90.0, 95.0])
    write_run(tmp_path / "again" / "b", arm("avg_8", seed=1), [90.0, 95.0])
    write_run(tmp_path / "c", arm("avg_8", dtype="bfloat16"), [90.0, 96.0])
    write_run(tmp_path / "d", arm("avg_8", num_epochs=2), [60.0, 61.0])
    write_run(tmp_path / "e", arm("avg_8", seed=2), [90.0], finished=False)
    write_run(tmp_path / "f", arm("adaptive"), [90.0, 91.0])
    full, low, short = group_runs(read_runs(tmp_path), get_config("avg_8"))
    assert full.is_full and full.changes == {} and len(full.unfinished) == 1
    # Seed 1 lies in two folders, but counts once.
    assert full.accuracy("last") == Stat.of([95.0, 94.0]) and full.accuracy("best").n == 2
    assert low.is_full and low.changes == {"dtype": "bfloat16"}
    assert not short.is_full and short.changes == {"num_epochs": 2}


def test_what_does_not_change_training_makes_no_other_group(tmp_path):
    write_run(tmp_path / "a", arm("avg_8", eval_batch_size=7, log_every_steps=1), [90.0])
    (group,) = group_runs(read_runs(tmp_path), get_config("avg_8"))
    assert group.changes == {}


def test_a_damaged_run_is_named_and_left_out(tmp_path, capsys):
    write_run(tmp_path / "good", arm("avg_8"), [90.0])
    write_run(tmp_path / "bad", arm("avg_8", seed=1), [90.0])
    (tmp_path / "bad" / "summary.json").write_text("{")
    assert [run.path.name for run in read_runs(tmp_path)] == ["good"]
    errors = capsys.readouterr().err
    assert errors.startswith("skipped: ") and "bad/summary.json cannot be read" in errors


def test_a_summary_of_another_version_is_named_and_left_out(tmp_path, capsys):
    write_run(tmp_path / "old", arm("avg_8"), [90.0])
    write_summary({"best": {}, "last": {}}, tmp_path / "old")
    assert read_runs(tmp_path) == []
    assert "has a summary without device, device_count, evaluated_on" in capsys.readouterr().err


def test_changed_runs_come_longest_first(tmp_path):
    for epochs in (10, 3, 100, 20):
        write_run(tmp_path / str(epochs), arm("avg_8", num_epochs=epochs), [90.0])
    groups = group_runs(read_runs(tmp_path), get_config("avg_8"))
    assert [group.changes["num_epochs"] for group in groups] == [100, 20, 10, 3]


def test_arms_with_the_same_fields_changed_belong_together(tmp_path):
    """Tuples come back as lists. If an arm pools globally anyway, that is not counted as a change."""
    overrides = {"model.channels": (4, 8, 16), "model.pooling": "global", "num_epochs": 2}
    for name in ARMS:
        write_run(tmp_path / name, arm(name, **overrides), [50.0, 60.0])
    write_run(tmp_path / "other", arm("avg_5", num_epochs=3), [50.0, 60.0, 70.0])
    runs = read_runs(tmp_path)
    together, alone = changed_sweeps({name: group_runs(runs, get_config(name)) for name in ARMS})
    assert list(together.groups) == ["avg_5", "avg_8", "adaptive"] and list(alone.groups) == ["avg_5"]
    assert together.changes == {"model.channels": [4, 8, 16], "model.pooling": "global", "num_epochs": 2}


def test_curves_are_of_whole_logs_alone(tmp_path):
    for seed, accuracies in enumerate(([50.0, 60.0], [55.0])):
        write_run(tmp_path / str(seed), arm("avg_8", num_epochs=2, seed=seed), accuracies)
    (group,) = group_runs(read_runs(tmp_path), get_config("avg_8"))
    assert group.curves() == ([1, 2], [[50.0, 60.0]]) and group.accuracy("last").n == 2
