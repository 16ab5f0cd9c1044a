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
            # resnet18, resnet34, resnet50; efficientnet_lite0, _lite1, _lite2
            "encoder": "resnet34",
            # Features of a ResNet's stem. An EfficientNet has width / 64 of those published.
            "width": 64,
            # The four below are explained in docs/encoders.md; the last three are of ResNets only.
            "output_stride": 32,  # 16, 8: dilation in place of the last strides
            "stem_pool": "max",  # atrous, none: features of twice the size, output_stride <= 16
            "layer4": "standard",  # or reference_dilated
            "multi_grid": (1, 1, 1),  # factors on the dilations of layer4's blocks
            # A file of weights, a hub id (timm/resnet34.a1_in1k), an installed package's
            # (package:efficientnet-lite0), or "": random weights.
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
            # For learning from weights: a factor on the encoder's learning rate; another one for
            # each stage from the last to the first; the first updates, in which the encoder's
            # weights stay as they are.
            "encoder_rate": 1.0,
            "stage_decay": 1.0,
            "hold_encoder_steps": 0,
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
            # The encoder's BatchNorm uses the statistics that come with its weights, as they are.
            "hold_statistics": False,
            # Shares, by example, that are left out: the last residual branch of the encoder, those
            # before it less; the channels before the head.
            "drop_path": 0.0,
            "dropout": 0.0,
            # The steps are divided evenly among these shares of data.image_size: (0.5, 0.75, 1.0).
            "image_scales": (1.0,),
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
            # False: an evaluation leaves out the calibration that is there. Those during training,
            # and the one at its end, never have any.
            "calibration": True,
            "tag": "",  # ends the name of an evaluation's folder: evaluations/SPLIT-STEP-TAG
            "common_share": 0.001,  # `miou_common` leaves out classes with less of the pixels
            # Boundary IoU is of the pixels so near to a class's boundary, as a share of the image's
            # diagonal; 0: it is left out.
            "boundary": 0.02,
        }
    )
    # Refines the final evaluation's predictions (see docs/crf.md). A sxy is in pixels
    # of the scaled image, srgb in grey levels of 0..255; a compat of 0 leaves its term out.
    config.crf = ConfigDict(
        {
            "enabled": False,
            # pydensecrf: on the host; device: JAX; auto: the former where it is installed.
            "engine": "auto",
            "iterations": 10,
            "gaussian_sxy": 3.0,
            "gaussian_compat": 3.0,
            "bilateral_sxy": 80.0,
            "bilateral_srgb": 13.0,
            "bilateral_compat": 10.0,
            # Of pydensecrf: processes; -1: one a core, 0: none, refines between the batches.
            "workers": -1,
            "timeout": 300.0,  # seconds an image may take a process, before another one tries
            "tuned_on": "",  # DATASET/SPLIT of the images that scripts/tune_crf.py tuned it on
        }
    )
    # What --mode=calibrate fits, and on which images (docs/calibration.md).
    config.calibration = ConfigDict(
        {
            # prior: class weights and sampling are taken back; temperature: one factor on the
            # logits; bias: that and an addend a class.
            "method": "prior",
            # Of prior: how far they are taken back. best: as is best for the mIoU; or a number as
            # text, "0.4", of which 0 is not at all and 1 is entirely.
            "strength": "best",
            "split": "val",  # or train, of which the network is too sure
            # Of its images: those at even or at odd places, whose others judge what is fitted; all,
            # where eval.split is another one.
            "images": "even",
            # Of prior: the focal loss's own distortion is undone before.
            "undo_focal": True,
            "pixels": 200_000,  # of each half, drawn at random, that temperature and bias are of
        }
    )
    config.recipes = _recipes()
    if dataset == "demo":
        _shrink(config)
    return config


def data_format(dataset: str) -> str:
    return "masks" if dataset == "masks" else "coco"


def _data(dataset: str) -> ConfigDict:
    single = {"train_file": "annotations.json", "val_file": "annotations.json"}
    pair = {"train_file": "train.json", "val_file": "val.json"}
    return ConfigDict(
        {
            "name": dataset,
            # Of the folder: one of FORMATS in trashseg_jax/data/formats.
            "format": data_format(dataset),
            "dir": "",  # the folder with the json files and images; the demo makes its own
            # Below `dir`; a pattern, "batch_*/data.json", takes in several.
            **(single if dataset == "taco" else pair),
            # Below `dir`, "" where they are found by themselves: folders of a split's images and
            # of its label images (docs/class_maps.md), and texts or jsons that list its names.
            **dict.fromkeys(("train_images", "train_labels", "val_images", "val_labels"), ""),
            **dict.fromkeys(("train_list", "val_list"), ""),
            **dict.fromkeys(("image_suffix", "label_suffix"), ""),  # ends of label images' names
            "val_fraction": 0.2,  # held out where both files are the same one, or nothing splits
            "allow_overlap": False,  # True: train although all validation images are trained on
            # Data sets to train on besides, a folder and its share of the images drawn each:
            # "taco:/data/taco=0.3,coco:/data/pseudo=0.2" leaves 0.5 to the main one, from which
            # validation comes. A name of DATASETS says the format, the file and the class map
            # (another one: "taco:/data/taco:my_map.json=0.3"). Where the folder has files for
            # train and val only train is used, else all of it. See docs/data_formats.md.
            "mix": "",
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
                # One warp, drawn anew for each image. What it shows from beyond the image's edge is
                # black and ignored.
                "rotation": 0.0,  # up to so many degrees, either way
                "scale": (1.0, 1.0),  # factors; MMSegmentation's are (0.5, 2.0)
                "perspective": 0.0,  # up to which share of half a side each corner moves inwards
                # The share of crops that are moved to where they hold a pixel of an object, of one
                # of the image's classes drawn first: so rare classes come as often as others.
                "object_crops": 0.0,
                "flip": True,
                "turn": False,  # by quarter turns: for photographs from above
                "cutout": 0.0,  # up to which share of the area a black square covers, ignored
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.2,
                "hue": 0.0,  # up to which share of the colour circle it is turned, either way
                "grayscale": 0.0,  # share of the images that lose their colour
                # Each of the three is done to half of the images.
                "clahe": 0.0,  # local contrast is equalised, clipped at up to so much; often 4
                "blur": 0.0,  # Gaussian, with a sigma of up to so many pixels
                "jpeg": 0,  # lowest quality, the highest is 100; 0: no compression
            },
            # Copy-paste (Ghiasi et al. 2021): objects of other training photographs, which are the
            # connected pieces of a class, pasted into images after cropping. The shares of images
            # with each class that a run prints and stores are those without pasting, and so are
            # the counts that sampling and loss.alpha go by.
            "paste": {
                "probability": 0.0,  # the share of images that get any; 0: off
                "objects": 3,  # from 1 to so many in an image
                # Times the size that an object has relative to its photograph's longer side.
                "scale": (0.5, 1.5),
                # An object's class is drawn by its number of objects ^ -power, then the object.
                "power": 0.5,
                "flip": True,  # mirrors half of them
                # Of the training split's objects these are kept in the cache: at most so many of a
                # class, whose longer side is such a share of their photograph's, the edge blurred
                # with this standard deviation in pixels (0: not).
                "per_class": 300,
                "size": (0.03, 0.5),
                "border": 1.0,
            },
            # What the encoder's weights were trained with: imagenet's mean and deviation;
            # inception: -1 to 1, for EfficientNet-Lite; unit: 0 to 1.
            "normalize": "imagenet",
        }
    )


def _loss() -> ConfigDict:
    return ConfigDict(
        {
            "name": "cross_entropy",  # or focal
            "gamma": 2.0,  # focal: 0 is cross-entropy
            "label_smoothing": 0.0,
            # cross_entropy: the share of the target that is the prediction itself, for labels that
            # may be wrong, as pseudo labels are; 0: the labels alone.
            "bootstrap": 0.0,
            # Of an image's valid pixels, the share that counts: those with the largest loss.
            "hard_share": 1.0,
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
            # In place of alpha: in the loss, but not in predictions, logits are raised by this
            # times log(the class's share of the training pixels). 1 aims at the same recall for
            # all classes; 0: off.
            "logit_adjustment": 0.0,
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
