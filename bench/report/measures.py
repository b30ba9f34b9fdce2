"""Which paths of the code a result file measures: the file is older than its code if a later commit touched one."""

import fnmatch

_LIBRARY = ("puppet_jax", ":(exclude)puppet_jax/pretrained.py", ":(exclude)puppet_jax/summary.py", "setup.py")
_CONTENDERS = (*_LIBRARY, "bench/case.py", "bench/contenders", "bench/peers")
# What decides what is learned; how fast is no part of it.
_LEARNING = (
    "puppet_jax/complexity.py",
    "puppet_jax/images.py",
    "puppet_jax/schedule.py",
    "puppet_jax/model.py",
    "puppet_jax/presets.py",
    "puppet_jax/puppeteers",
    "puppet_jax/puppets",
    ":(exclude)puppet_jax/puppets/native",
    "train/steps/augment.py",
    "train/build.py",
    "train/config.py",
    "train/data",
    "train/steps/evaluation.py",
    "train/steps/loop.py",
    "train/steps/optimiser.py",
    "train/steps/step.py",
)
_LOOP = (
    "train/data",
    "train/devices.py",
    "train/steps/evaluation.py",
    "train/steps/loop.py",
    "train/steps/optimiser.py",
    "train/steps/step.py",
)

# file: paths from the root of the repository, as git takes them
MEASURES: dict[str, tuple[str, ...]] = {
    "speed*.json": _CONTENDERS,
    "scaling.json": _CONTENDERS,
    "memory.json": _CONTENDERS,
    "gpu*.json": (*_LIBRARY, ":(exclude)puppet_jax/puppets/native", "bench/gpu.py"),
    "accuracy_*.json": _LEARNING,
    "digits.json": (*_LEARNING, "bench/recipe.py"),
    "cifar10_one_epoch.json": (*_LIBRARY, *_LEARNING, "bench/recipe.py"),
    "precision_*.json": (*_LIBRARY, "bench/precision.py"),
    "trainer_*.json": (
        *_LIBRARY,
        *_LOOP,
        "train/runs/checkpoint.py",
        "train/runs/events.py",
        "train/runs/reading.py",
        "bench/trainer.py",
    ),
    "export.json": (*_LIBRARY, "bench/export.py"),
    "predict_*.json": (
        *_LIBRARY,
        "train/predict/stream.py",
        "train/data/images.py",
        "train/data/walk.py",
        "train/commands/predict.py",
        "train/predict/formats.py",
        "train/predict/jsonl_file.py",
        "train/predict/predictor.py",
        "train/predict/read_ahead.py",
        "bench/predict.py",
    ),
    "puppetize.json": (
        *_LIBRARY,
        "bench/nets.py",
        "bench/puppetize.py",
        "bench/short_training.py",
        "train/steps/augment.py",
        "train/data",
        "train/steps/optimiser.py",
    ),
    "huge_pages.json": (*_LIBRARY, *_LOOP, "train/huge_pages.py"),
}


def paths_of(name: str) -> tuple[str, ...]:
    """The paths that the result file of this name measures; none if the table does not know it."""
    return next((paths for pattern, paths in MEASURES.items() if fnmatch.fnmatchcase(name, pattern)), ())
