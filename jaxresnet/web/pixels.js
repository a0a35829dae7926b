// The pixels that the network sees. They are those of jaxresnet/data/images.py: the central square of a picture,
// resized by Pillow's bicubic filter with antialiasing, computed in the same integers.

const BITS = 22; // after the point, in the filter's integers
const STRIP = 1 << 20; // pixels that are decoded at once, because phones limit a canvas

/** Return pixels (size, size, 3) of an image file. Rejects if the browser cannot open it. */
export async function readPixels(file, size) {
  // Pillow ignores colour profiles as well.
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
  const bitmap = await createImageBitmap(file, options);
  const reduction = (await isJpeg(file)) ? reductionOf(bitmap, 4 * size) : 1;
  const { pixels, width, height } = reduce(bitmap, reduction);
  bitmap.close();
  const side = Math.min(width, height);
  const columns = bicubic(width, (width - side) / 2, side, size);
  const rows = bicubic(height, (height - side) / 2, side, size);
  // Pillow begins with the columns of tall pictures.
  if (height - size > 2 * Math.max(width - size, 0)) {
    return resizeRows(resizeColumns(pixels, width, rows), width, columns);
  }
  return resizeColumns(resizeRows(pixels, width, columns), size, rows);
}

/** Return pixels of the mirror image. */
export function mirror(pixels, size) {
  const mirrored = new Uint8Array(pixels.length);
  for (let at = 0; at < size * size; at++) {
    const x = at % size;
    mirrored.set(pixels.subarray(3 * at, 3 * at + 3), 3 * (at - x + size - 1 - x));
  }
  return mirrored;
}

async function isJpeg(file) {
  const start = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  return start[0] === 0xff && start[1] === 0xd8;
}

/** Return by what Pillow reduces a JPEG while it decodes it: 8, 4, 2 or 1, so that no side becomes less than `least`. */
function reductionOf({ width, height }, least) {
  const most = Math.floor(Math.min(width, height) / least);
  return [8, 4, 2].find((reduction) => reduction <= most) ?? 1;
}

/** Return pixels (height, width, 3) of a picture on white, each the mean of reduction x reduction pixels. */
function reduce(bitmap, reduction) {
  const width = Math.ceil(bitmap.width / reduction);
  const height = Math.ceil(bitmap.height / reduction);
  const pixels = new Uint8Array(width * height * 3);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / (bitmap.width * reduction))));
  const canvas = new OffscreenCanvas(bitmap.width, rows * reduction);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  for (let top = 0; top < height; top += rows) {
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, -top * reduction);
    const high = Math.min(rows * reduction, bitmap.height - top * reduction);
    const { data } = context.getImageData(0, 0, bitmap.width, high);
    for (let y = 0, out = 3 * top * width; y < high; y += reduction) {
      const bottom = Math.min(y + reduction, high);
      for (let x = 0; x < bitmap.width; x += reduction, out += 3) {
        const right = Math.min(x + reduction, bitmap.width);
        let red = 0, green = 0, blue = 0;
        for (let row = y; row < bottom; row++) {
          for (let at = 4 * (row * bitmap.width + x); at < 4 * (row * bitmap.width + right); at += 4) {
            red += data[at];
            green += data[at + 1];
            blue += data[at + 2];
          }
        }
        const count = (bottom - y) * (right - x);
        pixels[out] = red / count + 0.5;
        pixels[out + 1] = green / count + 0.5;
        pixels[out + 2] = blue / count + 0.5;
      }
    }
  }
  return { pixels, width, height };
}

/** Return, for each of `size` pixels, where its inputs of a line of `length` start, and their weights as integers. */
function bicubic(length, start, side, size) {
  const scale = side / size;
  const wide = Math.max(scale, 1);
  return Array.from({ length: size }, (_, at) => {
    const centre = start + (at + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * wide + 0.5));
    const end = Math.min(length, Math.trunc(centre + 2 * wide + 0.5));
    const weights = Array.from({ length: end - first }, (_, i) => cubic((first + i - centre + 0.5) / wide));
    const sum = weights.reduce((a, b) => a + b);
    // Half away from zero, as Pillow rounds.
    const whole = weights.map((weight) => Math.trunc((weight / sum) * 2 ** BITS + Math.sign(weight) / 2));
    return { first, weights: Int32Array.from(whole) };
  });
}

/** Keys' cubic with a = -1/2. */
function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}

/** Return pixels (rows, columns.length, 3) of pixels (rows, width, 3). */
function resizeRows(pixels, width, columns) {
  const height = pixels.length / (3 * width);
  const resized = new Uint8Array(3 * height * columns.length);
  for (let y = 0, out = 0; y < height; y++) {
    for (const column of columns) out = weigh(pixels, 3 * (y * width + column.first), 3, column.weights, resized, out);
  }
  return resized;
}

/** Return pixels (rows.length, width, 3) of pixels (height, width, 3). */
function resizeColumns(pixels, width, rows) {
  const resized = new Uint8Array(3 * rows.length * width);
  let out = 0;
  for (const row of rows) {
    for (let x = 0; x < width; x++) out = weigh(pixels, 3 * (row.first * width + x), 3 * width, row.weights, resized, out);
  }
  return resized;
}

/** Write the weighted sum of pixels that lie `step` apart, and return where the next one is written. */
function weigh(pixels, at, step, weights, resized, out) {
  let red = 2 ** (BITS - 1), green = red, blue = red;
  for (let i = 0; i < weights.length; i++, at += step) {
    const weight = weights[i];
    red += weight * pixels[at];
    green += weight * pixels[at + 1];
    blue += weight * pixels[at + 2];
  }
  for (const sum of [red, green, blue]) resized[out++] = Math.min(Math.max(sum >> BITS, 0), 255);
  return out;
}
