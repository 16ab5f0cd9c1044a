"""Every key and its default; its range is in ranges.py. An experiment states its differences."""

from ml_collections import ConfigDict, FieldReference

from trashseg_jax.errors import InputError

DATASETS = ("demo", "aistage", "taco", "coco", "masks")
# A map of category names serves many COCO files; the values of label images mean anything.
CLASS_MAPS = {"taco": "taco", "masks": ""}


def get_config(dataset: str = "demo") -> ConfigDict:
    """Returns the defaults for one of DATASETS."""
    if dataset not in DATASETS:
        raise InputError(f"data set {dataset!r}: must be one of {', '.join(DATASETS)}")
    config = ConfigDict()
    config.seed = 0
    # "modern" or "reference": the keys of `recipes` below that are used where no flag says else.
    config.recipe = "modern"
    # When a loss or a gradient is not finite: "stop" the run, or "skip" that update.
    config.nan_policy = "stop"
    config.data = _data(dataset)
    config.model = ConfigDict(
        {
            "encoder": "resnet34",  # resnet18, resnet34, resnet50
            "width": 64,  # features of the encoder's stem
            # The four below are explained in docs/encoders.md.
            "output_stride": 32,  # 16, 8: dilation in place of the last strides
            "stem_pool": "max",  # atrous, none: features of twice the size, output_stride <= 16
            "layer4": "standard",  # or reference_dilated
            "multi_grid": (1, 1, 1),  # factors on the dilations of layer4's blocks
            # A file of weights, a hub id (timm/resnet34.a1_in1k), or "": random weights.
            "pretrained": "",
            "pretrained_prefix": "",  # before the encoder's names in it; "": found by itself
            # A model's folder (docs/models.md): the whole network begins with its weights.
            "init": "",
            "decoder_features": (256, 128, 64, 32, 16),
            "dtype": "bfloat16",  # of the convolutions; parameters are always float32
        }
    )
    config.loss = _loss()
    config.optimizer = ConfigDict(
        {
            "name": "adamw",  # adamw, or adam: with L2 added to the gradient
            "learning_rate": 1e-3,
            "weight_decay": 1e-2,
            "schedule": "cosine",  # constant, cosine, polynomial
            "warmup_steps": 200,  # a tenth of --config.train.steps where it would outlast them
            "clip_norm": 1.0,  # 0: no clipping
        }
    )
    config.train = ConfigDict(
        {
            "steps": 0,  # steps or epochs, not both
            "epochs": 40.0,
            "batch_size": 16,  # over all devices of all processes
            # Where memory is short (docs/benchmarks.md): the number of parts that a batch is taken
            # in, one after the other; activations computed again in the backward pass.
            "accumulate": 1,
            "remat": False,
            "log_every": 20,
            "eval_every": 500,
            "checkpoint_every": 500,
            "keep_checkpoints": 2,  # the latest; the best by mIoU is kept besides
            "ema_decay": 0.999,  # of the weights' average, which is evaluated; 0: no average
        }
    )
    config.eval = ConfigDict(
        {
            "batch_size": 16,
            "split": "val",  # or train
            # What the last evaluation counts: the photograph's own pixels (original), or those of
            # the scaled image (scaled), as the evaluations during training do.
            "resolution": "original",
            # fit: the longer side is scaled to data.image_size; tile: overlapping windows of that
            # size at the photograph's own scale.
            "scale": "fit",
            # Of tile: the factor by which a photograph is scaled before its windows are cut.
            "tile_scale": 1.0,
            "tta": "",  # views whose probabilities are averaged: "flip", "scales", "flip,scales"
            "checkpoint": "latest",  # best: by mIoU; or the step of one
            "tag": "",  # ends the name of an evaluation's folder: evaluations/SPLIT-STEP-TAG
            "common_share": 0.001,  # `miou_common` leaves out classes with less of the pixels
        }
    )
    # Refines the final evaluation's predictions (pydensecrf, see docs/crf.md). A sxy is in pixels
    # of the scaled image, srgb in grey levels of 0..255; a compat of 0 leaves its term out.
    config.crf = ConfigDict(
        {
            "enabled": False,
            "iterations": 10,
            "gaussian_sxy": 3.0,
            "gaussian_compat": 3.0,
            "bilateral_sxy": 80.0,
            "bilateral_srgb": 13.0,
            "bilateral_compat": 10.0,
            "workers": -1,  # processes; -1: one a core, 0: none, refines between the batches
            "timeout": 300.0,  # seconds an image may take a process, before another one tries
        }
    )
    config.recipes = _recipes()
    if dataset == "demo":
        _shrink(config)
    return config


def _data(dataset: str) -> ConfigDict:
    single = {"train_file": "annotations.json", "val_file": "annotations.json"}
    pair = {"train_file": "train.json", "val_file": "val.json"}
    return ConfigDict(
        {
            "name": dataset,
            # Of the folder: one of FORMATS in trashseg_jax/data/formats.
            "format": "masks" if dataset == "masks" else "coco",
            "dir": "",  # the folder with the json files and images; the demo makes its own
            **(single if dataset == "taco" else pair),
            # Below `dir`, "" where they are found by themselves: folders of a split's images and
            # of its label images (docs/class_maps.md), and texts or jsons that list its names.
            **dict.fromkeys(("train_images", "train_labels", "val_images", "val_labels"), ""),
            **dict.fromkeys(("train_list", "val_list"), ""),
            **dict.fromkeys(("image_suffix", "label_suffix"), ""),  # ends of label images' names
            "val_fraction": 0.2,  # held out where both files are the same one, or nothing splits
            "allow_overlap": False,  # True: train although all validation images are trained on
            "class_map": CLASS_MAPS.get(dataset, "recycle_trash"),  # or a json's path
            "paint_order": "area",  # or "reference"
            "crowd": "class",  # what iscrowd marks counts as its category; "ignore": it doesn't
            "boxes": "refuse",  # "ignore": what is in a box without an outline doesn't count
            # The json's sizes and outlines are those of images with their EXIF rotation applied;
            # "stored": without it; "mixed": the sizes without, the outlines with it.
            "exif": "upright",
            "skip_bad": False,  # True: leave bad images out and report them
            "cache_dir": "",  # "": $XDG_CACHE_HOME/trashseg_jax, or ~/.cache/trashseg_jax
            "image_size": 512,
            # uniform: each image once an epoch. The others draw images with rare classes more
            # often: class_balanced by the rarest class's share of the images ^ -power,
            # repeat_factor by sqrt(threshold / share) where that is above 1. LVIS, with 1,200
            # classes, uses a threshold of 0.001.
            "sampling": {"name": "uniform", "power": 0.5, "threshold": 0.1},
            "demo": {"num_train": 400, "num_val": 100, "size": 128, "seed": 0},
            "augment": {
                "crop_area": (0.25, 1.0),  # share of the image; (1.0, 1.0): the whole image
                "crop_ratio": (0.75, 1.3333),  # width over height
                "flip": True,
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.2,
            },
            "normalize": "imagenet",  # "unit": only divide by 255
        }
    )


def _loss() -> ConfigDict:
    return ConfigDict(
        {
            "name": "cross_entropy",  # or focal
            "gamma": 2.0,  # focal: 0 is cross-entropy
            "label_smoothing": 0.0,
            # The scheme of the class weights (alpha), each pixel's weight by its class, from the
            # training split: none, annotation_ratio, inverse_frequency, median_frequency,
            # effective_number, enet; see alphas.py.
            "alpha": "none",
            # Class weights of your own in place of a scheme: one a class, (1.0, 2.0, ...), or by
            # name, "Battery=20,Metal=2", the others then 1.
            "alpha_values": FieldReference("", field_type=object),
            # What inverse_frequency and effective_number count: images, annotations, pixels.
            "alpha_counts": "images",
            "alpha_power": 1.0,  # of inverse_frequency
            "alpha_beta": 0.999,  # of effective_number: counts level off at 1 / (1 - beta)
            # An image's sum is divided by its valid pixels (mean), by the sum of their class
            # weights (alpha), or by all of its pixels (reference; focal then has the reference's
            # 1e-8 too).
            "reduction": "mean",
            # Added with this weight: none, dice, lovasz, tversky.
            "region": "none",
            "region_weight": 1.0,
            "tversky_alpha": 0.3,  # of false positives
            "tversky_beta": 0.7,  # of false negatives
        }
    )


def _recipes() -> ConfigDict:
    """What the reference did, and what is done today; see docs/recipes.md."""
    reference = {
        "data": {
            "normalize": "unit",
            "augment": {
                "crop_area": (1.0, 1.0),
                "flip": False,
                "brightness": 0.0,
                "contrast": 0.0,
                "saturation": 0.0,
            },
        },
        "loss": {"reduction": "reference"},
        "optimizer": {
            "name": "adam",
            "learning_rate": 1e-4,
            "weight_decay": 1e-6,
            "schedule": "constant",
            "warmup_steps": 0,
            "clip_norm": 0.0,
        },
        "train": {"steps": 0, "epochs": 20.0, "batch_size": 8, "ema_decay": 0.0},
    }
    return ConfigDict({"modern": {}, "reference": reference})


def _shrink(config: ConfigDict) -> None:
    """Makes the demo one that two CPU cores train in minutes: see README, "The demo"."""
    config.data.image_size = 96
    config.model.update({"encoder": "resnet18", "width": 32})
    config.model.decoder_features = (128, 64, 32, 16, 16)
    config.model.dtype = "float32"  # CPUs without bfloat16 instructions emulate it, slowly
    config.optimizer.update({"learning_rate": 3e-3, "warmup_steps": 100})
    config.train.update({"steps": 1000, "epochs": 0.0, "batch_size": 8, "ema_decay": 0.99})
    config.train.update({"eval_every": 250, "checkpoint_every": 250})
    config.crf.update({"gaussian_sxy": 1.0, "bilateral_sxy": 15.0})  # the same share of 96 pixels
    # A training this short fits too little rather than too much.
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    config.data.augment.update({"crop_area": (0.8, 1.0), **off})
