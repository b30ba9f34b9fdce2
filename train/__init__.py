"""``python -m train``: trains a Puppet-CNN and leaves a folder that documents the run.

Read :func:`train.steps.loop.train` first. Packages:

- ``commands``: one file each, from arguments to exit code;
- ``data``: data sets, decoded once, and batches of them;
- ``steps``: augmentation, optimiser, the training step and the loop around it;
- ``runs``: what a run writes into its folder, and reading it again;
- ``predict``: files of images to predictions; ``plots``: figures.
"""
