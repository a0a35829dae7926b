"""The paper's tables, redrawn from finished runs: ``python -m jaxresnet.report``."""
