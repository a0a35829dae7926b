"""Every field of a config, with its default. The other files override some of them.

The defaults are the paper's baseline; `configs/baseline.py` says what the paper reports for it.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()

    config.name = "default"  # of the experiment: a sweep's folder for its runs, and how the report knows them
    config.seed = 0  # of initialisation, data order, augmentation and dropout
    config.num_epochs = 200  # passes over the training images
    config.batch_size = 128  # over all devices; an epoch's last, smaller batch is trained on too
    config.eval_batch_size = 1000  # does not change results
    config.eval_every_epochs = 1  # epochs between evaluations; the last epoch is always evaluated
    config.label_smoothing = 0.0  # share of the target that is divided among all classes
    config.dtype = "float32"  # of the computation: float32 or bfloat16. Parameters, statistics and loss stay float32
    config.steps_per_dispatch = 130  # training steps that a GPU or TPU runs before it reports; on CPU always 1

    config.model = ConfigDict()
    config.model.channels = (64, 128, 256)  # C of the paper, one entry a stage
    config.model.blocks = (4, 4, 3)  # B of the paper, one entry a stage
    config.model.kernel_size = 3  # F of the paper
    config.model.shortcut_kernel_size = 1  # K of the paper
    config.model.stem_channels = config_dict.placeholder(int)  # None: the first of channels
    config.model.pooling = "5"  # "global", or the window of an average pooling
    config.model.dropout_rate = 0.0  # before the linear layer
    config.model.num_classes = 10  # logits; labels must be below it

    config.dataset = ConfigDict()
    config.dataset.name = "cifar10"  # or "digits", which need no files
    # A folder of tfds, a cifar-10-batches-py folder, or a .npz file. None: tfds's own folder, $TFDS_DATA_DIR or
    # ~/tensorflow_datasets, downloading CIFAR-10 to it where it is missing.
    config.dataset.data_dir = config_dict.placeholder(str)
    # Training images held out to choose the best epoch on; 0: it is chosen on the test set, as in the paper.
    config.dataset.validation_size = 0

    config.augment = ConfigDict()
    config.augment.crop_padding = 4  # pixels of zeros a side that random crops are cut from; 0: no crop
    config.augment.flip = True  # mirror half of the training images
    # Sides to which training images are shrunk, with the share of the epochs until which they are: ((16, 0.3), ...)
    config.augment.small_images = ()
    config.augment.mean = (0.4914, 0.4822, 0.4465)  # of pixels in [0, 1], subtracted; zeros and ...
    config.augment.std = (0.2023, 0.1994, 0.2010)  # ... ones: no normalisation

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # see OPTIMIZERS in jaxresnet/optim.py
    config.optimizer.momentum = 0.9  # of sgd, rmsprop and muon; beta1 of adam, adamw and radam; the others have none
    config.optimizer.weight_decay = 5e-4  # coupled (added to the gradient), but for adamw; see muon in optim.py

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # see SCHEDULES in jaxresnet/schedules.py
    config.schedule.learning_rate = 0.1  # what its factors multiply: the highest rate
    config.schedule.step_per = "epoch"  # when the rate moves: "epoch", as PyTorch scripts do, or "step"
    config.schedule.total_epochs = config_dict.placeholder(float)  # its length (T_max of cosine). None: the whole run
    config.schedule.warmup_epochs = 0.0  # of a linear rise before it, from a hundredth of the rate
    config.schedule.start_factor = 1.0  # of linear
    config.schedule.end_factor = 0.0  # of linear
    config.schedule.power = 1.0  # of polynomial
    config.schedule.restarts = 3  # of warm_restarts, evenly spaced

    config.checkpoint = ConfigDict()  # an epoch that is the best yet, and the end, are always saved
    config.checkpoint.every_minutes = 5.0  # also within an epoch
    config.checkpoint.every_steps = 0  # also every so many steps; 0: by time alone
    config.checkpoint.keep = 2  # how many of the latest to keep beside the best

    config.log_every_steps = 100  # a line in metrics.jsonl within an epoch; 0: one at each epoch's end alone

    config.paper = ConfigDict()  # what the paper reports, for plots and the report
    config.paper.accuracy = config_dict.placeholder(float)  # test accuracy, %
    config.paper.epoch = "last"  # what that is of: the "last" epoch, the "best" on the test set, or "cited"
    config.paper.curve = config_dict.placeholder(str)  # a run in jaxresnet/paper_curves.csv

    return config.lock()
