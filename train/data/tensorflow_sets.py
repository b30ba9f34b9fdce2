"""Image classification sets of TensorFlow Datasets, read where they have been prepared; none is downloaded.

Reading needs the package tensorflow-datasets but not TensorFlow: a prepared set describes itself, and its records are
read and decoded here.
"""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from train.data.decode import decode
from train.data.split import Dataset, hold_out, set_aside
from train.errors import UserError, missing

# name, name/configuration
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.-]+))?")
CATALOGUE = "https://www.tensorflow.org/datasets/catalog/overview"


def is_prepared(name: str) -> bool:
    """Whether the set lies prepared, in one configuration or several; nothing is imported."""
    parts = _NAME.fullmatch(name)
    return parts is not None and bool(_prepared(parts))


def load(name: str, image_size: int | None) -> Dataset:
    """The splits train and test of a set named as in the catalogue, ``"mnist"``, ``"cifar10_corrupted/fog_1"``; one
    without labelled test images is tested on validation, or on a part of train. Refused if a
    package is missing, or the set is not prepared, not one of image classification, or unreadable."""
    import tensorflow_datasets as tfds

    folder = _version_folder(name)
    try:
        # From the files alone: a builder made from the name would run the code that downloads.
        builder = tfds.builder_from_directory(folder)
        features = _check_features(name, builder.info.features, tfds)
        splits = {split: _Records(builder, split) for split in builder.info.splits}
        return _decode(name, features, splits, image_size)
    except (UserError, ModuleNotFoundError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise UserError(
            f"--data {name}: {folder} cannot be read ({type(error).__name__}: {reason[0]}). It must be prepared in the "
            f"array_record format: remove it and prepare it again.\n{_how_to_prepare(name)}"
        ) from error


def absent(name: str) -> UserError:
    """The error for a name that is no prepared set: not yet, or no set at all, in which case a folder was meant."""
    directory = _directory()
    folder = Path(os.path.expanduser(name)).absolute()
    no_folder = f"a folder of class folders of images (there is no folder {folder})"
    parts = _NAME.fullmatch(name)
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        return UserError(f"--data {name}: {missing(error)}. It reads data sets by name; otherwise expected {no_folder}")
    known = tfds.list_builders(with_community_datasets=False) if parts else []
    if parts and parts["name"] in known:
        return UserError(
            f"--data {name}: no prepared {name} in {directory}. If it lies elsewhere, point the environment "
            f"variable TFDS_DATA_DIR to the folder that holds {parts['name']}/. Nor is it {no_folder}.\n"
            f"{_how_to_prepare(name)}"
        )
    close = difflib.get_close_matches(name, ["digits", *known])
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    return UserError(
        f"--data {name}: expected digits, or {no_folder}, or a data set of TensorFlow Datasets (it knows none of this "
        f"name, and none lies prepared in {directory}; the catalogue is at {CATALOGUE}).{meant}"
    )


class _Records:
    """A split's records, as :class:`train.data.decode.Records`."""

    def __init__(self, builder, split: str):
        import tensorflow_datasets as tfds

        self.split = split
        # Images stay encoded: train.data.images decodes and checks them.
        self.source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self.source)

    def read(self, rows: range) -> Sequence[tuple[bytes, int]]:
        # Many at a time: one by one takes ten times as long.
        return [(record["image"], record["label"]) for record in self.source.__getitems__(list(rows))]

    def name(self, row: int) -> str:
        return f"{self.split}[{row}]"

    def labelled(self) -> bool:
        """Whether the images have labels: some sets give -1 for the test images."""
        return len(self) > 0 and self.read(range(1))[0][1] >= 0


def _decode(name, features, splits: dict[str, _Records], image_size) -> Dataset:
    if "train" not in splits:
        raise UserError(f"--data {name}: has the splits {', '.join(splits)}, expected one called train")
    names = ["train", *[other for other in ("test", "validation") if other in splits and splits[other].labelled()][:1]]
    height, width, channels = features["image"].shape
    size = None if None in (height, width) else (height, width)
    parts = [splits[split] for split in names]
    decoded, skipped, scaled = decode(name, parts, image_size, size=size, channels=1 if channels == 1 else 3)
    for split, part in zip(names, decoded, strict=True):
        if len(part) and part.labels.min() < 0:
            raise UserError(f"--data {name}: has images without a label in {split}, expected a class for each")
    train, test = decoded if len(decoded) == 2 else hold_out(decoded[0])
    note = "" if len(decoded) == 2 else set_aside(len(test), len(decoded[0]))
    note = "\n".join(filter(None, [note, scaled]))
    return Dataset(train, test, tuple(features["label"].names), tuple(skipped), note)


def _check_features(name: str, features, tfds):
    """The set's features, if they are those of image classification."""
    held = dict(features.items()) if hasattr(features, "items") else {}
    image, label = held.get("image"), held.get("label")
    pictures = isinstance(image, tfds.features.Image) and len(image.shape) == 3 and image.np_dtype.kind != "f"
    if not pictures or not isinstance(label, tfds.features.ClassLabel):
        raise UserError(
            f"--data {name}: has the features {' '.join(repr(features).split())}, expected one image (Image) of 8 or "
            "16 bits a channel, and label (ClassLabel): not a set of image classification"
        )
    return features


def _prepared(parts: re.Match) -> list[Path]:
    """The folders of all prepared versions, of the configuration asked for or of all; nothing is imported."""
    root = _directory() / parts["name"] / (parts["config"] or "")
    # Not "**": a folder of that name may be one of a million images.
    found = list(root.glob("*/dataset_info.json")) or ([] if parts["config"] else root.glob("*/*/dataset_info.json"))
    return [path.parent for path in found]


def _version_folder(name: str) -> Path:
    """The prepared set: of the latest version, and of the configuration asked for or the only one."""
    parts = _NAME.fullmatch(name)
    assert parts is not None, name  # is_prepared has looked at it
    versions = _prepared(parts)
    configs = sorted({path.parent.name for path in versions})
    if len(configs) > 1:
        raise UserError(
            f"--data {name}: lies prepared in the configurations {', '.join(configs)}; expected one of them, for "
            f"example --data {parts['name']}/{configs[0]}"
        )
    return max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])


def _directory() -> Path:
    """Where prepared sets lie."""
    return Path(os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")).absolute()


def _how_to_prepare(name: str) -> str:
    return (
        "Preparing it once downloads it and needs more packages than training does:\n"
        "    pip install tensorflow importlib_resources\n"
        f'    python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir=r'{_directory()}', file_format='array_record').download_and_prepare()\""
    )
