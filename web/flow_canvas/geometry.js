// Points and motions of the Flow Canvas. Pure functions; pixel i is the point i, y runs down, angles turn clockwise.

export const IDENTITY = Object.freeze({ move: [0, 0], turn: 0, scale: [1, 1] });

// The same map as in guidance/flow/canvas.py: pivot + move + R(turn) diag(sx, sy) (p - pivot).
export function mapPoint(region, [x, y]) {
  const [a, b, c, d] = linear(region);
  const [px, py] = region.pivot;
  return [px + region.move[0] + a * (x - px) + c * (y - py), py + region.move[1] + b * (x - px) + d * (y - py)];
}

export function unmapPoint(region, [x, y]) {
  const [a, b, c, d] = linear(region);
  const det = a * d - b * c;
  const u = x - region.pivot[0] - region.move[0];
  const v = y - region.pivot[1] - region.move[1];
  return [region.pivot[0] + (d * u - c * v) / det, region.pivot[1] + (a * v - b * u) / det];
}

// Columns of R(turn) diag(sx, sy), in the order that CanvasRenderingContext2D.transform takes: [a, b, c, d].
export function linear({ turn, scale }) {
  const r = (turn * Math.PI) / 180;
  const [cos, sin] = [Math.cos(r), Math.sin(r)];
  return [cos * scale[0], sin * scale[0], -sin * scale[1], cos * scale[1]];
}

export function isIdentity({ move, turn, scale, still }) {
  return !still && !move[0] && !move[1] && turn % 360 === 0 && scale[0] === 1 && scale[1] === 1;
}

// The handles of a region with the box [left, top, right, bottom], where they are now; `reach` is how far the knob for
// turning stands off. It stands above the box, or on the first other side where it lies within `size`, the picture.
export function handles(region, [left, top, right, bottom], reach, size = null) {
  const [cx, cy] = [(left + right) / 2, (top + bottom) / 2];
  const at = (name, x, y) => ({ name, at: mapPoint(region, [x, y]), from: [x, y] });
  const list = [
    at("corner", left, top), at("corner", right, top), at("corner", right, bottom), at("corner", left, bottom),
    at("side-x", left, cy), at("side-x", right, cy), at("side-y", cx, top), at("side-y", cx, bottom),
  ];
  const [ox, oy] = mapPoint(region, [cx, cy]);
  const knobs = [[cx, top], [cx, bottom], [right, cy], [left, cy]].map((from) => {
    const [hx, hy] = mapPoint(region, from);
    const length = Math.hypot(hx - ox, hy - oy) || 1;
    return { name: "turn", at: [hx + ((hx - ox) / length) * reach, hy + ((hy - oy) / length) * reach], from };
  });
  const within = ({ at: [x, y] }) => !size || (x >= 0 && y >= 0 && x < size.width && y < size.height);
  list.push(knobs.find(within) ?? knobs[0]);
  list.push({ name: "pivot", at: mapPoint(region, region.pivot), from: region.pivot });
  return list;
}

// The region after dragging a handle (or its inside, "move") from `start` to `now`; `before` is the region at the start.
export function dragged(before, handle, start, now, exact) {
  const round = (v) => Math.round(v * 100) / 100;
  if (handle.name === "move") {
    const step = (i) => (exact ? round(now[i] - start[i]) : Math.round(now[i] - start[i]));
    return { ...before, move: [before.move[0] + step(0), before.move[1] + step(1)] };
  }
  const centre = mapPoint(before, before.pivot);
  if (handle.name === "turn") {
    const angle = (p) => (Math.atan2(p[1] - centre[1], p[0] - centre[0]) * 180) / Math.PI;
    const turn = before.turn + angle(now) - angle(start);
    const wrapped = ((((turn + 180) % 360) + 360) % 360) - 180;
    return { ...before, turn: exact ? round(wrapped) : Math.round(wrapped) };
  }
  if (handle.name === "pivot") {
    // The thing stays where it is; only the point about which it turns and scales goes elsewhere.
    const pivot = unmapPoint(before, now).map(round);
    const kept = mapPoint({ ...before, pivot }, before.pivot);
    return { ...before, pivot, move: [0, 1].map((i) => round(before.move[i] + centre[i] - kept[i])) };
  }
  return { ...before, scale: scaled(before, handle, centre, start, now).map(round) };
}

function scaled(before, handle, centre, start, now) {
  const limit = (v) => Math.min(Math.max(v, 0.05), 8);
  const r = (before.turn * Math.PI) / 180;
  const along = (p, i) => {
    const [u, v] = [p[0] - centre[0], p[1] - centre[1]];
    return i ? -u * Math.sin(r) + v * Math.cos(r) : u * Math.cos(r) + v * Math.sin(r);
  };
  if (handle.name === "corner") {
    const far = (p) => Math.hypot(p[0] - centre[0], p[1] - centre[1]);
    const factor = far(now) / Math.max(far(start), 1e-6);
    return before.scale.map((s) => limit(s * factor));
  }
  const i = handle.name === "side-x" ? 0 : 1;
  const was = along(start, i);
  const factor = Math.abs(was) < 1e-6 ? 1 : along(now, i) / was;
  return before.scale.map((s, k) => (k === i ? limit(s * factor) : s));
}

// Where arrows begin: a lattice inside the box, `step` apart; at least its centre.
export function lattice([left, top, right, bottom], step) {
  const points = [];
  const first = (a, b) => a + ((b - a) % step) / 2;
  for (let y = first(top, bottom); y <= bottom; y += step) {
    for (let x = first(left, right); x <= right; x += step) points.push([x, y]);
  }
  return points.length ? points : [[(left + right) / 2, (top + bottom) / 2]];
}
