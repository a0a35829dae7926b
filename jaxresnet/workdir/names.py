"""Names of the files and folders in a run directory."""

# Every run.
CONFIG_FILE = "config.json"
CLASSES_FILE = "classes.json"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
CHECKPOINTS_FOLDER = "checkpoints"
NEWEST_FILE = "newest-checkpoint.json"
DAMAGED_FOLDER = "damaged-checkpoints"
LOCK_FILE = ".lock"
TRACKER_ID_FILE = "wandb-run-id.txt"

# A finished run.
SUMMARY_FILE = "summary.json"
CONFUSION_FILE = "confusion.csv"
CURVES_FILE = "curves.png"

# A diverged run, and a run that began with imported weights.
FAILURE_FILE = "failure.txt"
IMPORTED_FILE = "imported.json"

# A release: a trained model and nothing else.
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
CARD_IN_WORDS = "README.md"
