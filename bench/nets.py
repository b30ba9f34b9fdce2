"""CNNs as users of Flax NNX write them, without a thought of puppets: ResNets and a MobileNet; those at the end of this
file as ``python -m train --model bench.nets:resnet20`` takes them."""

import functools

import jax.numpy as jnp
from flax import nnx


class BasicBlock(nnx.Module):
    def __init__(self, c_in, c_out, stride=1, *, rngs):
        self.conv1 = nnx.Conv(c_in, c_out, (3, 3), strides=stride, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(c_out, rngs=rngs)
        self.conv2 = nnx.Conv(c_out, c_out, (3, 3), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(c_out, rngs=rngs)
        if stride != 1 or c_in != c_out:
            self.shortcut = nnx.Conv(c_in, c_out, (1, 1), strides=stride, use_bias=False, rngs=rngs)
        else:
            self.shortcut = lambda x: x

    def __call__(self, x):
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + self.shortcut(x))


class ResNet(nnx.Module):
    """He et al. 2016, section 4.2; three stages of ``blocks``, 20 layers with three."""

    def __init__(self, num_classes=10, width=16, blocks=3, in_channels=3, *, rngs):
        self.stem = nnx.Conv(in_channels, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(width, rngs=rngs)
        layers, c_in = [], width
        for stage in range(3):
            for i in range(blocks):
                c_out = width << stage
                layers.append(BasicBlock(c_in, c_out, 2 if stage > 0 and i == 0 else 1, rngs=rngs))
                c_in = c_out
        self.blocks = nnx.List(layers)
        self.head = nnx.Linear(c_in, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


class InvertedResidual(nnx.Module):
    def __init__(self, c_in, c_out, stride=1, expand=2, *, rngs):
        c = c_in * expand
        self.expand = nnx.Conv(c_in, c, (1, 1), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(c, rngs=rngs)
        self.depthwise = nnx.Conv(c, c, (3, 3), strides=stride, feature_group_count=c, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(c, rngs=rngs)
        self.project = nnx.Conv(c, c_out, (1, 1), use_bias=False, rngs=rngs)
        self.norm3 = nnx.BatchNorm(c_out, rngs=rngs)
        self.residual = stride == 1 and c_in == c_out

    def __call__(self, x):
        y = nnx.relu6(self.norm1(self.expand(x)))
        y = nnx.relu6(self.norm2(self.depthwise(y)))
        y = self.norm3(self.project(y))
        return x + y if self.residual else y


class MobileNet(nnx.Module):
    """A small MobileNetV2 (Sandler et al. 2018): depthwise and pointwise convolutions, dropout before the head."""

    def __init__(self, num_classes=10, width=8, in_channels=3, *, rngs):
        self.stem = nnx.Conv(in_channels, width, (3, 3), strides=(2, 2), rngs=rngs)
        self.features = nnx.Sequential(
            InvertedResidual(width, width, rngs=rngs),
            InvertedResidual(width, width, rngs=rngs),
            InvertedResidual(width, 2 * width, stride=2, rngs=rngs),
            InvertedResidual(2 * width, 2 * width, rngs=rngs),
            InvertedResidual(2 * width, 2 * width, rngs=rngs),
        )
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(2 * width, num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.features(nnx.relu(self.stem(x)))
        return self.head(self.dropout(x.mean(axis=(1, 2))))


class UNet(nnx.Module):
    """Of two levels (Ronneberger et al. 2015): logits for every pixel."""

    def __init__(self, num_classes=10, width=32, in_channels=3, *, rngs):
        self.down = nnx.Conv(in_channels, width, (3, 3), rngs=rngs)
        self.bottom = nnx.Conv(width, 2 * width, (3, 3), rngs=rngs)
        self.up = nnx.ConvTranspose(2 * width, width, (2, 2), strides=(2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(2 * width, rngs=rngs)
        self.last = nnx.Conv(2 * width, num_classes, (1, 1), rngs=rngs)

    def __call__(self, x):
        skip = nnx.relu(self.down(x))
        x = self.up(nnx.silu(self.bottom(nnx.max_pool(skip, (2, 2), strides=(2, 2)))))
        return {"pixels": self.last(self.norm(jnp.concatenate([x, skip], axis=-1)))}


resnet8 = functools.partial(ResNet, blocks=1)  # the image classifier of MLPerf Tiny
resnet20 = functools.partial(ResNet, blocks=3)
mobilenet = functools.partial(MobileNet, width=16)
