"""``python -m train``: trains a Puppet-CNN and leaves a folder that documents the run.

Read :func:`train.steps.loop.train` first; every other file is one step of it.
"""
