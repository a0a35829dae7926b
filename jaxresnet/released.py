"""Names of released models, which commands and ``load`` take wherever they take a run."""

import pathlib

from jaxresnet.system.errors import UsageError, user_path
from jaxresnet.system.files import shipped_folder

# Where each model lies. All come with the package.
MODELS = {"pretrained:cifar10": shipped_folder("pretrained") / "cifar10"}
DEFAULT = "pretrained:cifar10"


def resolve(path_or_name: str | pathlib.Path) -> pathlib.Path:
    """Return the folder of a run or a release that a user gave as a path, or as a name in ``MODELS``.

    Raises:
        UsageError: there is no released model of that name.
        UserError: the path cannot be on this machine.
    """
    name = str(path_or_name)
    if name.startswith("pretrained:") and name not in MODELS:
        raise UsageError(f"there is no released model {name!r}; expected one of {', '.join(MODELS)}")
    return MODELS[name] if name in MODELS else user_path(path_or_name)
