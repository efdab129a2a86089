// Masks of the Flow Canvas: a Uint8Array of 0 and 1, row by row, over a small raster of the picture. Pure functions.

export function emptyMask({ width, height }) {
  return new Uint8Array(width * height);
}

export function isEmpty(mask) {
  return !mask.includes(1);
}

export function union(one, other) {
  return one.map((value, i) => value | other[i]);
}

// Everything within `radius` of the line from a to b becomes `value`.
export function stroke(mask, size, a, b, radius, value) {
  const { width, height } = size;
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const length = dx * dx + dy * dy;
  const [left, right] = [Math.min(a[0], b[0]) - radius, Math.max(a[0], b[0]) + radius];
  const [top, bottom] = [Math.min(a[1], b[1]) - radius, Math.max(a[1], b[1]) + radius];
  for (let y = Math.max(0, Math.floor(top)); y <= Math.min(height - 1, Math.ceil(bottom)); y++) {
    for (let x = Math.max(0, Math.floor(left)); x <= Math.min(width - 1, Math.ceil(right)); x++) {
      const t = length ? Math.min(1, Math.max(0, ((x - a[0]) * dx + (y - a[1]) * dy) / length)) : 0;
      if (Math.hypot(x - a[0] - t * dx, y - a[1] - t * dy) <= radius) mask[y * width + x] = value;
    }
  }
}

// The inside of a closed outline, even-odd.
export function fillOutline(mask, { width, height }, points) {
  for (let y = 0; y < height; y++) {
    const cuts = [];
    points.forEach(([ax, ay], i) => {
      const [bx, by] = points[(i + 1) % points.length];
      if (ay > y !== by > y) cuts.push(((bx - ax) * (y - ay)) / (by - ay) + ax);
    });
    cuts.sort((a, b) => a - b);
    for (let i = 0; i + 1 < cuts.length; i += 2) {
      const [from, to] = [Math.max(0, Math.ceil(cuts[i])), Math.min(width - 1, Math.ceil(cuts[i + 1]) - 1)];
      for (let x = from; x <= to; x++) mask[y * width + x] = 1;
    }
  }
}

// The connected area whose colours differ by at most `tolerance` (0..1) from their neighbour's and three times that from
// the point picked; its holes are filled, so that a pattern does not leave islands behind.
export function pick(mask, { width, height }, pixels, [sx, sy], tolerance) {
  const [x0, y0] = [Math.round(sx), Math.round(sy)];
  if (x0 < 0 || y0 < 0 || x0 >= width || y0 >= height) return;
  const differs = (i, j) => Math.max(
    Math.abs(pixels[4 * i] - pixels[4 * j]),
    Math.abs(pixels[4 * i + 1] - pixels[4 * j + 1]),
    Math.abs(pixels[4 * i + 2] - pixels[4 * j + 2])) / 255;
  const origin = y0 * width + x0;
  const found = new Uint8Array(width * height);
  spread(found, width, height, [origin], (from, to) =>
    differs(from, to) <= tolerance && differs(origin, to) <= 3 * tolerance);
  const outside = new Uint8Array(width * height);
  const rim = [];
  for (let i = 0; i < width * height; i++) {
    const x = i % width;
    const y = (i - x) / width;
    if ((x === 0 || y === 0 || x === width - 1 || y === height - 1) && !found[i]) rim.push(i);
  }
  spread(outside, width, height, rim, (_, to) => !found[to]);
  for (let i = 0; i < width * height; i++) if (!outside[i]) mask[i] = 1;
}

function spread(seen, width, height, starts, allowed) {
  const queue = [...starts];
  for (const i of starts) seen[i] = 1;
  while (queue.length) {
    const i = queue.pop();
    const x = i % width;
    const near = [x > 0 ? i - 1 : -1, x < width - 1 ? i + 1 : -1, i - width, i + width];
    for (const j of near) {
      if (j >= 0 && j < width * height && !seen[j] && allowed(i, j)) {
        seen[j] = 1;
        queue.push(j);
      }
    }
  }
}

// [left, top, right, bottom] of a mask in raster pixels, or null.
export function box(mask, { width, height }) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    const x = i % width;
    const y = (i - x) / width;
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  }
  return right < 0 ? null : [left, top, right, bottom];
}

// Run lengths, beginning with the pixels outside.
export function toRuns(mask) {
  const runs = [];
  let value = 0;
  let length = 0;
  for (const one of mask) {
    if (one === value) length++;
    else {
      runs.push(length);
      [value, length] = [one, 1];
    }
  }
  runs.push(length);
  return runs;
}

export function fromRuns(runs, { width, height }) {
  const mask = new Uint8Array(width * height);
  let at = 0;
  runs.forEach((length, i) => {
    if (i % 2) mask.fill(1, at, at + length);
    at += length;
  });
  return mask;
}
