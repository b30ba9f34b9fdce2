"""The puppet with plain ``jax.vmap`` of ``lax.conv_general_dilated``: what XLA makes of it by itself."""

import jax
import jax.numpy as jnp

from bench.peers import static_jax


def forward(model, images, config: dict):
    """Logits (N, classes) of a ``PuppetCNN``'s very kernels and weights, layers beyond D masked."""
    puppet = model.puppet
    h, depth = model.measure(images)

    def one(image, h, depth):
        x = (image.astype(jnp.float32) * (4.0 / 255.0) - 2.0)[None]
        features = jnp.zeros((puppet.head[...].shape[0],))
        for index, kernel in enumerate(model.puppeteer(h)):
            scale, shift = puppet.norm_scale[index][...], puppet.norm_shift[index][...]
            stride, groups = config["strides"][index], config["norm_groups"]
            x = static_jax.layer(x, kernel.transpose(2, 3, 1, 0), scale, shift, stride, groups)
            mean = x.mean(axis=(0, 1, 2))
            mean = jnp.pad(mean, (0, len(features) - len(mean)))
            features = jnp.where(depth == index + 1, mean, features)
        return features @ puppet.head[...] + puppet.head_bias[...]

    return jax.vmap(one)(images, h, depth)
