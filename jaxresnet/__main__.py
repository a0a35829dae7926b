"""The command ``jaxresnet``, which is also ``python -m jaxresnet``: ``jaxresnet train --config=final``."""

import runpy
import sys

from jaxresnet import __version__, cli
from jaxresnet.system.errors import UsageError

COMMANDS = {
    "train": ("main", "train what a config describes, or resume it"),
    "finetune": ("finetune", "train a model further on pictures of your own"),
    "evaluate": ("evaluate", "score a run or a release on its test set"),
    "predict": ("predict", "classify images"),
    "explain": ("explain", "show where a network looks in images"),
    "plot": ("plot", "draw a run's curves over the paper's"),
    "summary": ("summary", "print a config's model layer by layer"),
    "configs": ("list_configs", "list the configs that come with the package, and their arms"),
    "sweep": ("sweep", "train every arm of a table"),
    "report": ("report", "redraw the paper's tables from finished runs"),
    "export": ("export", "write a run as one file for JAX, ONNX or PyTorch, as a web page, or as a release"),
    "convert": ("convert", "import PyTorch weights as a run"),
}


def main() -> None:
    """Run the command that the first argument names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    with cli.command():  # It reports errors of a command's imports, too.
        if name in COMMANDS:
            sys.argv = [f"jaxresnet {name}", *arguments]
            runpy.run_module(f"jaxresnet.{COMMANDS[name][0]}", run_name="__main__")
        elif name == "--version":
            print(f"jaxresnet {__version__}")
        elif name in ("--help", "-h", "help"):
            print("usage: jaxresnet COMMAND ...\n\nEach command explains itself: jaxresnet COMMAND --help\n")
            print("\n".join(f"  {command:9} {text}" for command, (_, text) in COMMANDS.items()))
        else:
            raise UsageError(f"there is no command {name!r}; expected one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
