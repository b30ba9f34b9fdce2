// A picture of any size as the pixels that a net takes: what Pillow's ImageOps.fit does, bicubic, to rounding.

// Keys 1981 with a = -1/2.
function bicubic(x) {
  const at = Math.abs(x);
  if (at < 1) return (1.5 * at - 2.5) * at * at + 1;
  return at < 2 ? ((-0.5 * at + 2.5) * at - 4) * at + 2 : 0;
}

// Of each of `count` pixels along one axis, the first that it is made of and their weights. They cover `length` pixels
// from `start`; made smaller, a pixel is a mean of all that it covers.
function weightsOf(total, start, length, count) {
  const scale = length / count;
  const wide = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - 2 * wide + 0.5), 0);
    const end = Math.min(Math.trunc(centre + 2 * wide + 0.5), total);
    const each = Array.from({ length: end - first }, (_, j) => bicubic((first + j - centre + 0.5) / wide));
    const sum = each.reduce((a, b) => a + b);
    return { first, each: each.map((weight) => weight / sum) };
  });
}

// Rows of RGBA pixels, each made of as many as `weights` says, those of a row `step` apart.
function resampled(levels, rows, rowStep, weights, step) {
  const found = new Uint8ClampedArray(4 * rows * weights.length); // rounds and clips what is put into it
  for (let row = 0; row < rows; row++) {
    weights.forEach(({ first, each }, column) => {
      for (let channel = 0; channel < 4; channel++) {
        const from = row * rowStep + first * step + channel;
        let sum = 0;
        for (let j = 0; j < each.length; j++) sum += each[j] * levels[from + j * step];
        found[4 * (row * weights.length + column) + channel] = sum;
      }
    });
  }
  return found;
}

// Red, green and blue of size×size pixels: the picture scaled so that it just covers them, its middle cut out.
export async function fitted(blob, size) {
  const picture = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = picture;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // under what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  let levels = context.getImageData(0, 0, width, height).data;
  if (width !== size || height !== size) {
    const side = Math.min(width, height);
    const across = weightsOf(width, (width - side) / 2, side, size);
    const down = weightsOf(height, (height - side) / 2, side, size);
    levels = resampled(levels, height, 4 * width, across, 4);
    // The second axis as rows, and back.
    levels = turned(resampled(turned(levels, height, size), size, 4 * height, down, 4), size, size);
  }
  return Uint8Array.from({ length: 3 * size * size }, (_, i) => levels[Math.floor(i / 3) * 4 + (i % 3)]);
}

function turned(levels, rows, columns) {
  const found = new Uint8ClampedArray(levels.length);
  for (let i = 0; i < levels.length; i++) {
    const [row, column, channel] = [Math.floor(i / 4 / columns), Math.floor(i / 4) % columns, i % 4];
    found[4 * (column * rows + row) + channel] = levels[i];
  }
  return found;
}
