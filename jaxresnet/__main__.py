"""The command ``jaxresnet``, which is also ``python -m jaxresnet``: ``jaxresnet train --config=final``."""

import os
import sys

COMMANDS = {
    "train": ("main", "train what a config describes, or resume it"),
    "evaluate": ("evaluate", "score a run or a release on its test set"),
    "predict": ("predict", "classify images"),
    "plot": ("plot", "draw a run's curves over the paper's"),
    "summary": ("summary", "print a config's model layer by layer"),
    "sweep": ("sweep", "train every arm of a table"),
    "report": ("report", "redraw the paper's tables from finished runs"),
    "export": ("export", "write a run as one file for JAX, ONNX or PyTorch, or as a release"),
    "convert": ("convert", "import PyTorch weights as a run"),
}


def main() -> None:
    """Run the command that the first argument names, in place of this process."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        # A process of its own, because commands set up their process before they import JAX.
        os.execv(sys.executable, [sys.executable, "-m", f"jaxresnet.{COMMANDS[name][0]}", *arguments])
    lines = ["usage: jaxresnet COMMAND ...", "", "Each command explains itself: jaxresnet COMMAND --help", ""]
    lines += [f"  {command:9} {text}" for command, (_, text) in COMMANDS.items()]
    if name in ("--help", "-h", "help"):
        print("\n".join(lines))
        return
    print(f"jaxresnet: there is no command {name!r}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
