"""All fields of a config, with their defaults. The other files override some of them.

The defaults are the paper's baseline. `configs/baseline.py` names the accuracy that the paper reports for it.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Return the default config, locked against new fields."""
    config = ConfigDict()

    config.name = "default"  # name of the experiment: its folder in a sweep, and its key in the report
    config.seed = 0  # seed of initialisation, data order, augmentation and dropout
    config.num_epochs = 200  # passes over the training images
    config.batch_size = 128  # images over all devices; the smaller last batch of an epoch is trained on too
    config.eval_batch_size = 1000  # images per evaluation step; does not change results
    config.eval_every_epochs = 1  # epochs between evaluations; the last epoch is always evaluated
    config.loss = "cross_entropy"  # see LOSSES in jaxresnet/core/steps.py
    config.label_smoothing = 0.0  # share of the target that is spread over all classes
    config.dtype = "float32"  # compute dtype: float32 or bfloat16. Parameters, statistics and loss stay float32
    config.ema_decay = 0.0  # share of the averages of weights and statistics kept at each step; 0: no averages
    config.steps_per_dispatch = 130  # training steps per dispatch on GPU or TPU; on CPU always 1

    # A run, a release, "pretrained:cifar10", or a .safetensors or .pth file to begin with. If its classes have other
    # names, its linear layer is replaced by a new one.
    config.init_from = config_dict.placeholder(str)
    # A run to go on from, where the decay of this one's schedule begins. Until there, both must be trained alike.
    config.branch_from = config_dict.placeholder(str)
    config.freeze = ""  # stages that stay as they are, such as "stem,layer1", or "all-but-head"; statistics stay too

    config.model = ConfigDict()
    config.model.block = "basic"  # see BLOCKS in jaxresnet/core/model.py
    config.model.channels = (64, 128, 256)  # C of the paper, one entry per stage
    config.model.blocks = (4, 4, 3)  # B of the paper, one entry per stage
    config.model.kernel_size = 3  # F of the paper
    config.model.shortcut_kernel_size = 1  # K of the paper
    config.model.stem_channels = config_dict.placeholder(int)  # None: the first entry of channels
    config.model.pooling = "5"  # "global", or the window size of average pooling
    config.model.skips = True  # False: a plain network, without shortcuts
    config.model.dropout_rate = 0.0  # dropout before the linear layer
    config.model.num_classes = 10  # number of logits; labels must be smaller

    config.dataset = ConfigDict()
    config.dataset.name = "cifar10"  # or "cifar100", or "digits", which needs no files
    # A tfds folder, official archive or its folder, folder with CLASS/ or train/CLASS/ and test/CLASS/, or .npz file.
    # None: tfds's own folder, $TFDS_DATA_DIR or ~/tensorflow_datasets, to which missing data are downloaded.
    config.dataset.data_dir = config_dict.placeholder(str)
    # Number of training images held out to choose the best epoch. 0: choose it on the test set, as in the paper.
    config.dataset.validation_size = 0
    config.dataset.image_size = 32  # height and width to which own images are resized; above 32: global pooling only
    config.dataset.split_seed = 0  # seed that draws a fifth of each class as test images, where there is no test/

    config.augment = ConfigDict()
    config.augment.stages = ""  # stages of an own file, as in "mine.py:jitter,mine.py:erase"
    config.augment.crop_padding = 4  # pixels of zero padding per side before random crops; 0: no crop
    config.augment.flip = True  # mirror each training image with probability 1/2
    config.augment.alternating_flip = False  # instead, mirror each in every other epoch, half of them first
    config.augment.cutout_size = 0  # side of a square that hides a part of each training image, in pixels; 0: none
    config.augment.cutmix_alpha = 0.0  # parameter of CutMix's beta distribution, 1.0 in its paper; 0: no CutMix
    # Pairs of a side and a share of the epochs, as in ((16, 0.3), ...): shrink training images to that side until then.
    config.augment.small_images = ()
    config.augment.mean = (0.4914, 0.4822, 0.4465)  # subtracted from pixels in [0, 1]
    config.augment.std = (0.2023, 0.1994, 0.2010)  # divisor after that; means of 0 and divisors of 1: no normalisation

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # see OPTIMIZERS in jaxresnet/core/optim.py
    config.optimizer.momentum = 0.9  # for sgd, rmsprop and muon; beta1 for adam, adamw and radam; the others ignore it
    config.optimizer.weight_decay = 5e-4  # coupled (added to the gradient) except for adamw; for muon, see there

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # see SCHEDULES in jaxresnet/core/schedules.py
    config.schedule.learning_rate = 0.1  # highest rate; the schedule's factors multiply it
    config.schedule.step_per = "epoch"  # when the rate changes: "epoch", as in PyTorch scripts, or "step"
    config.schedule.total_epochs = config_dict.placeholder(float)  # length (T_max of cosine). None: the whole run
    config.schedule.warmup_epochs = 0.0  # length of a linear warm-up before it, from a hundredth of the rate
    config.schedule.decay_epochs = 0.0  # length of a linear fall to 0 at its end, which multiplies it
    config.schedule.start_factor = 1.0  # linear only: factor at the start
    config.schedule.end_factor = 0.0  # linear only: factor at the end
    config.schedule.power = 1.0  # polynomial only: exponent
    config.schedule.restarts = 3  # warm_restarts only: number of restarts, evenly spaced

    config.checkpoint = ConfigDict()  # each holds the best epoch's variables too; the end is always saved
    config.checkpoint.every_minutes = 5.0  # minutes between saves, also within an epoch
    config.checkpoint.every_steps = 0  # save after each multiple of so many steps, too; 0: by time alone
    config.checkpoint.keep = 2  # number of latest checkpoints to keep

    config.code = ""  # set by training: names and SHA-256 of own files, such as that of loss="mine.py:focal"

    config.log_every_steps = 100  # steps between lines of metrics.jsonl within an epoch; 0: only one per epoch

    config.tracker = config_dict.placeholder(str)  # "wandb": send the metrics there too; needs the extra of that name

    config.paper = ConfigDict()  # results of the paper, for plots and the report
    config.paper.accuracy = config_dict.placeholder(float)  # test accuracy, %
    config.paper.epoch = "last"  # epoch of that accuracy: "last", "best" (on the test set) or "cited"
    config.paper.curve = config_dict.placeholder(str)  # a run in jaxresnet/report/paper_curves.csv

    return config.lock()
