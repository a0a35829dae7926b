"""Pack the finished runs below a folder into one file of JSON lines, a run per line, sorted by path.

    python -m scripts.pack_runs runs/small results/small.jsonl

``read_runs`` reads such a file beside folders. A line holds the path of the run below the folder, its config, its
summary or the reason why it diverged, and its metrics at the end of evaluated epochs and of every tenth. Runs that the
file already holds stay, and those of the folder replace their older versions, so the command can be repeated as runs
finish.
"""

import argparse
import json
import pathlib
from typing import Any

from jaxresnet import cli
from jaxresnet.system.errors import UserError, user_path
from jaxresnet.system.files import write_whole
from jaxresnet.workdir.log import is_epoch_line
from jaxresnet.workdir.runs import Run, read_packed, read_runs


def pack(run: Run, folder: pathlib.Path) -> dict[str, Any]:
    """Return the line of a run. Metrics are rounded to six digits."""
    metrics = [line for line in run.lines if line["epoch"] % 10 == 0 or is_epoch_line(line)]
    return {
        "path": run.path.relative_to(folder).as_posix(),
        "config": run.config.to_dict(),
        "summary": run.summary,
        "failure": run.failure,
        "metrics": [
            {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}
            for line in metrics
        ],
    }


def pack_runs(folder: pathlib.Path, file: pathlib.Path) -> int:
    """Write the finished runs of ``folder`` to ``file``, beside those that it holds.

    Returns:
        The number of runs in the file.

    Raises:
        UserError: the folder holds no finished run, or the file holds other lines.
    """
    packed = {line["path"]: line for line in read_packed(file)} if file.exists() else {}
    finished = [run for run in read_runs(folder) if run.summary or run.failure]
    if not finished:
        raise UserError(f"{folder} holds no finished run")
    packed |= {line["path"]: line for line in (pack(run, folder) for run in finished)}
    lines = [json.dumps(packed[path], separators=(",", ":")) for path in sorted(packed)]
    write_whole(file, "".join(f"{line}\n" for line in lines))
    return len(packed)


def run(arguments: argparse.Namespace) -> None:
    """Pack the runs in the folder that the command line names."""
    count = pack_runs(user_path(arguments.folder), user_path(arguments.file))
    print(f"{arguments.file} holds {count} runs")


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = cli.Parser("scripts.pack_runs", __doc__.partition("\n")[0])
    parser.add_argument("folder", help="folder of the runs, at any depth")
    parser.add_argument("file", help="file of JSON lines to write or to extend")
    cli.run(run, parser, argv)


if __name__ == "__main__":
    main()
