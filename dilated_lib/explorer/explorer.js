// The explorer: a stack of layers that can be touched. No dependency, no request.

// 1 · words

const token = ({ kind, kernel, stride = 1, dilation = 1, before = 0, after = 0 }) =>
	kind + kernel + (stride === 1 ? "" : `s${stride}`) + (dilation === 1 ? "" : `d${dilation}`) +
	(before || after ? `p${before}` + (after === before ? "" : `:${after}`) : "");
const table = (rates) =>
	[...rates.map((d) => token({ kind: "k", kernel: 3, dilation: d, before: d, after: d })), "k1"].join();

// every label, to be translated here
const T = {
	explorer: "Receptive-field explorer",
	preset: "Preset",
	own: "your own",
	presets: {
		"k3,k3d2,k3d4": "dilations 1, 2, 4",
		"k3d2,k3d2,k3d2": "dilations 2, 2, 2: holes",
		"k3,k3d2,k3d5": "dilations 1, 2, 5: no holes",
		[table([1, 1, 2, 4, 8, 1])]: "Table 1, 7 layers (KITTI)",
		[table([1, 1, 2, 4, 8, 16, 1])]: "Table 1, 8 layers (VOC, CamVid)",
		[table([1, 1, 2, 4, 8, 16, 32, 64, 1])]: "Table 1, 10 layers (Cityscapes)",
		"k3,k3,m2s2,k3,k3,m2s2,k3,k3,k3,m2s2,k3,k3,k3,k3d2,k3d2,k3d2,k7d4,k1,k1": "VGG-16 front end",
		[Array.from({ length: 10 }, (_, i) => token({ kind: "k", kernel: 2, dilation: 2 ** i, before: 2 ** i })).join()]:
			"WaveNet, one causal block",
	},
	kinds: { k: "convolution", m: "max pooling", t: "transposed convolution" },
	kind: "Kind",
	fields: { kernel: "kernel", stride: "stride", dilation: "dilation", before: "padding before", after: "padding after" },
	add: "Add layer",
	remove: "Remove",
	up: "Move up",
	down: "Move down",
	channels: "Channels",
	length: "Input length",
	fits: "fits the stack",
	both: "same along both axes",
	axis: "Axis",
	axes: ["height", "width"],
	input: "input",
	layer: (n) => `Layer ${n}`,
	choose: (n, text, spans) => `Layer ${n}: ${text} ${spans}`,
	spans: (size) => `spans ${size}`,
	map: "The stack, along one axis. Arrow keys move from unit to unit, Escape lets go.",
	tabs: ["Numbers", "Two dimensions", "Code", "Step by step"],
	impossible: (n, why) => `This stack cannot exist. ${n ? `Layer ${n}: ` : ""}${why}`,
	why: {
		whole: (name, least, most, got) => `${name} must be a whole number from ${least} to ${most}, got ${got}.`,
		small: (span, has) => `its taps span ${span} units, and the map below has ${has}, padding included.`,
		pooling: (pad, kernel) => `pooling pads at most half its kernel: ${pad} is more than half of ${kernel}.`,
		crop: (before, after, has) => `its padding crops all ${has} units that it makes: ${before} and ${after}.`,
		wide: (size) => `it spans ${size} positions, too many to draw.`,
		large: (has) => `its map would have ${has} units, too many to draw.`,
		many: (most) => `It has more than ${most} layers.`,
		token: (text) => `${text} is no layer, such as k3d2p2, m2s2 or t4s2p1.`,
		blind: "no unit of it reads any input.",
	},
	unit: {
		field: (size, stride) => `Receptive field ${size}, stride ${stride}`,
		top: (layer, unit, units) => `${layer}, unit ${unit} (0 to ${units - 1})`,
		spans: (first, last, size, paths) => `spans input ${first} to ${last}: ${size} positions, ${paths} paths`,
		nothing: "reads no input",
		padding: (some, all) => `${some} of them from the input, the other ${all} end outside a map`,
		feeds: (units, layer, paths) => `feeds ${units} of ${layer}'s units, ${paths} paths`,
		pinned: "pinned",
	},
	numbers: [
		"receptive field", "stride", "padding", "centre of unit 0", "parameters", "positions reached", "pixels reached",
		"standard deviation", "HDC rule, r₁ = 1",
	],
	of: (some, all) => `${some} of ${all}`,
	phases: "units differ by phase",
	hdc: {
		not: "does not apply: it needs two layers or more of one kernel size, stride 1",
		is: (kept, m, k, r) => `${kept ? "kept" : "broken"}: M₂ = ${m}, K = ${k}, r₁ = ${r}`,
		holes: (n) => `; holes: ${n || "none"}`,
	},
	terms: ["layer", "extent", "jump below", "adds", "size"],
	transposed: "Units differ by phase: the largest sizes are listed.",
	copy: "Copy",
	copied: "Copied.",
	views: ["path counts, logarithmic", "effective field, linear"],
	view: "Show",
	plane: (h, w, reached, holes) => `${h} × ${w} positions: ${reached} reached, holes (hatched): ${holes}.`,
	spread: (h, w) => `Standard deviation with equal weights: ${h === w ? h : `${h} (height), ${w} (width)`}; the ellipse is at two of them.`,
	time: {
		play: "Play", pause: "Pause", step: "Step", speed: "Speed",
		still: "Your system asks for less motion: use Step.",
		kind: "This layer is no convolution: choose one.",
		wide: (side) => `Its picture would have ${side} pixels a side, too many to play.`,
		term: (n, all, tap, at, text) => `tap ${n} of ${all}: weight (${tap}) meets pixel (${at}), ${text}`,
		output: (at) => `output (${at})`,
		picture: "picture",
		result: "output",
	},
};

// 2 · arithmetic

const floorDiv = (a, b) => Math.floor(a / b);
const clamp = (n, most) => Math.min(Math.max(n, 0), most);
const mod = (a, b) => ((a % b) + b) % b;
const gcd = (a, b) => (b ? gcd(b, a % b) : a);
const extent = (w) => w.dilation * (w.kernel - 1) + 1;
const isUp = (w) => w.kind === "t";

/** Positions that output `unit` reads, in rising order. */
function inputs(w, unit) {
	const found = [];
	for (let tap = 0; tap < w.kernel; tap++) {
		const at = isUp(w)
			? (unit + w.before - w.dilation * (w.kernel - 1 - tap)) / w.stride
			: unit * w.stride - w.before + w.dilation * tap;
		if (Number.isInteger(at)) found.push(at);
	}
	return found;
}

/** The layer whose units read what those of `w` are read by. */
const transposed = (w) => ({ ...w, kind: isUp(w) ? "k" : "t" });

/** What a stack's units see: the stride, a fraction, and [first, last] or null of each phase. */
export const compose = (windows) => windows.reduce(above, { stride: [1n, 1n], phases: [[0n, 0n]] });

function above(below, w) {
	const [step, units] = isUp(w) ? [1, w.stride] : [w.stride, 1];
	const period = below.phases.length;
	const [num, den] = below.stride;
	const move = (num * BigInt(period)) / den;
	const phases = [];
	for (let unit = 0; unit < units * (period / gcd(period, step)); unit++) {
		let hull = null;
		for (const at of inputs(w, unit)) {
			const one = below.phases[mod(at, period)];
			if (!one) continue;
			const by = BigInt(floorDiv(at, period)) * move;
			const [first, last] = [one[0] + by, one[1] + by];
			hull = hull ? [first < hull[0] ? first : hull[0], last > hull[1] ? last : hull[1]] : [first, last];
		}
		phases.push(hull);
	}
	const [top, bottom] = [num * BigInt(step), den * BigInt(units)];
	const common = gcd(top, bottom);
	return { stride: [top / common, bottom / common], phases };
}

export function hull(field, unit) {
	const period = field.phases.length;
	const one = field.phases[mod(unit, period)];
	if (!one) return null;
	const by = (BigInt(floorDiv(unit, period)) * field.stride[0] * BigInt(period)) / field.stride[1];
	return [one[0] + by, one[1] + by];
}

export const size = (field) =>
	field.phases.reduce((most, one) => (one && one[1] - one[0] + 1n > most ? one[1] - one[0] + 1n : most), 0n);

/** One path: a plain number where these count exactly. */
const unity = (windows) => (windows.reduce((n, w) => n * w.kernel, 1) < Number.MAX_SAFE_INTEGER ? 1 : 1n);

/** Paths from each position of the field to `unit`: {first, counts}, exact. */
export function coverage(windows, unit = 0) {
	let paths = { first: unit, counts: [unity(windows)] };
	for (const w of [...windows].reverse()) paths = spread(paths, w);
	return { first: paths.first, counts: paths.counts.map(BigInt) };
}

/** Path counts of the map that a layer reads; inside its `units`, if given. */
function spread({ first, counts }, w, units = Infinity) {
	const last = first + counts.length - 1;
	let [low, high] = isUp(w)
		? [Math.ceil((first + w.before - extent(w) + 1) / w.stride), floorDiv(last + w.before, w.stride)]
		: [first * w.stride - w.before, last * w.stride - w.before + extent(w) - 1];
	if (units < Infinity) [low, high] = [Math.max(low, 0), Math.min(high, units - 1)];
	const zero = counts[0] - counts[0];
	const next = new Array(Math.max(high - low + 1, 1)).fill(zero);
	counts.forEach((count, i) => {
		if (count) for (const at of inputs(w, first + i)) if (at >= low && at <= high) next[at - low] += count;
	});
	const from = Math.max(next.findIndex(Boolean), 0);
	return { first: low + from, counts: next.slice(from, next.findLastIndex(Boolean) + 1 || 1) };
}

/** Standard deviation of where paths end; null where units differ by phase. */
export function deviation(windows) {
	let [jump, variance] = [1, 0];
	for (const w of windows) {
		if (isUp(w)) return null;
		variance += (jump * w.dilation) ** 2 * (w.kernel ** 2 - 1);
		jump *= w.stride;
	}
	return Math.sqrt(variance / 12);
}

export function hdcDistances(rates) {
	const found = [rates.at(-1)];
	for (const r of rates.slice(0, -1).reverse()) found.unshift(Math.max(found[0] - 2 * r, 2 * r - found[0], r));
	return found;
}

export const parameters = (layers, channels) =>
	layers.reduce((sum, [h, w]) => sum + (h.kind === "m" ? 0 : h.kernel * w.kernel * channels ** 2 + channels), 0);

// 3 · stacks as text

const BOUNDS = { kernel: [1, 15], stride: [1, 16], dilation: [1, 1024], before: [0, 1024], after: [0, 1024] };
const MOST_LAYERS = 20;
const MOST_UNITS = 4096;
const TOKEN = /^([kmt])(\d+)(?:s(\d+))?(?:d(\d+))?(?:p(\d+)(?::(\d+))?)?$/;

class Impossible extends Error {}
const impossible = (layer, why) => new Impossible(T.impossible(layer, why));

/** "k3,m2s2,k3d2xk1" → for each layer its windows along height and width. */
export function parse(text) {
	const tokens = text.split(",");
	if (tokens.length > MOST_LAYERS) throw impossible(0, T.why.many(MOST_LAYERS));
	return tokens.map((token, depth) => {
		const axes = token.split("x").map((one) => TOKEN.exec(one));
		if (axes.length > 2 || axes.some((one) => !one || one[1] !== axes[0][1])) {
			throw impossible(depth + 1, T.why.token(token || "nothing"));
		}
		const windows = axes.map(([, kind, kernel, stride, dilation, before, after]) => ({
			kind, kernel: +kernel, stride: +(stride ?? 1), dilation: +(dilation ?? 1),
			before: +(before ?? 0), after: +(after ?? before ?? 0),
		}));
		return [windows[0], { ...windows.at(-1) }];
	});
}

export const format = (layers) =>
	layers.map((pair) => [...new Set(pair.map(token))].join("x")).join(",");

const alike = (layers) => layers.every(([h, w]) => token(h) === token(w));

// 4 · limits, and what pictures need

function lengthsOf(windows, length) {
	const lengths = [length];
	if (!Number.isInteger(length) || length < 1) throw impossible(0, T.why.whole(T.length, 1, MOST_UNITS, length));
	windows.forEach((w, i) => {
		const unless = (kept, why) => {
			if (!kept) throw impossible(i + 1, why);
		};
		for (const [name, [least, most]] of Object.entries(BOUNDS)) {
			const value = w[name];
			unless(Number.isInteger(value) && value >= least && value <= most, T.why.whole(T.fields[name], least, most, value));
		}
		const [span, pad] = [extent(w), Math.max(w.before, w.after)];
		unless(w.kind !== "m" || 2 * pad <= w.kernel, T.why.pooling(pad, w.kernel));
		const padded = lengths[i] + w.before + w.after;
		const made = isUp(w) ? (lengths[i] - 1) * w.stride + span : padded;
		unless(made <= MOST_UNITS, T.why.large(made));
		unless(isUp(w) || span <= padded, T.why.small(span, padded));
		lengths.push(isUp(w) ? made - w.before - w.after : floorDiv(padded - span, w.stride) + 1);
		unless(lengths[i + 1] > 0, T.why.crop(w.before, w.after, made));
	});
	return lengths;
}

function fitting(axes) {
	const needs = axes.map((windows) => {
		let [jump, span] = [1, 1];
		for (const w of windows) {
			span += (extent(w) - 1) * jump;
			jump *= isUp(w) ? 1 / w.stride : w.stride;
		}
		return Math.ceil(span + 4 * Math.max(1, jump));
	});
	return Math.max(...needs);
}

function study(windows, length) {
	const lengths = lengthsOf(windows, length);
	const fields = [compose([])];
	for (const w of windows) fields.push(above(fields.at(-1), w));
	fields.forEach((field, depth) => {
		if (!size(field)) throw impossible(depth, T.why.blind);
		if (size(field) > 2 * MOST_UNITS) throw impossible(depth, T.why.wide(size(field)));
	});
	const rows = fields.map((field, depth) => {
		const step = Number(field.stride[0]) / Number(field.stride[1]);
		const shifts = field.phases.flatMap((one, i) => (one ? [Number(one[0] + one[1]) / 2 - i * step] : []));
		const offset = shifts.reduce((a, b) => a + b, 0) / shifts.length;
		const pads = windows[depth] && !isUp(windows[depth]) ? [windows[depth].before, windows[depth].after] : [0, 0];
		return { field, step, offset, units: lengths[depth], pads };
	});
	const top = fields.at(-1);
	const unit = top.phases.findIndex((one) => one && one[1] - one[0] + 1n === size(top));
	return { windows, rows, paths: coverage(windows, unit), deviation: deviation(windows) };
}

/** What a unit depends on and feeds: {first, counts} of each row. */
function cone({ windows, rows }, [row, unit]) {
	const lit = [];
	lit[row] = { first: unit, counts: [unity(windows)] };
	for (let r = row; r > 0; r--) lit[r - 1] = spread(lit[r], windows[r - 1], rows[r - 1].units);
	for (let r = row; r < windows.length; r++) lit[r + 1] = spread(lit[r], transposed(windows[r]), rows[r + 1].units);
	return lit;
}

const total = (lit) => lit.counts.reduce((a, b) => a + BigInt(b), 0n);
const some = (lit) => lit.counts.reduce((n, count) => n + (count ? 1 : 0), 0);
const fraction = ([num, den]) => (den === 1n ? num : `${num}/${den}`);
const grouped = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");

// 5 · pictures

const COLOURS = { input: "#56B4E9", tap: "#D55E00", output: "#009E73", reached: "#999999" };
const CIVIDIS = [[0, 34, 78, 255], [67, 78, 108, 255], [125, 124, 120, 255], [188, 174, 108, 255], [254, 232, 56, 255]];
const PITCH = 34; // between rows, as in the style sheet

function surface(canvas, width, height) {
	const dense = window.devicePixelRatio || 1;
	Object.assign(canvas, { width: width * dense, height: height * dense });
	canvas.style.height = `${height}px`;
	const g = canvas.getContext("2d");
	g.scale(dense, dense);
	g.fillStyle = "#fff";
	g.fillRect(0, 0, width, height);
	return g;
}

function hatch(g) {
	const tile = h("canvas", { width: 5, height: 5 });
	const line = tile.getContext("2d");
	line.moveTo(0, 5);
	line.lineTo(5, 0);
	line.stroke();
	return g.createPattern(tile, "repeat");
}

/** Where a unit stands, in input positions; and in the picture. */
const place = (row, unit) => row.offset + unit * row.step;
function geometry({ rows }, width) {
	const low = Math.min(...rows.map((row) => place(row, -row.pads[0]) - 0.6));
	const high = Math.max(...rows.map((row) => place(row, row.units - 1 + row.pads[1]) + 0.6));
	const scale = width / (high - low);
	return {
		x: (r, unit) => (place(rows[r], unit) - low) * scale,
		y: (r) => (rows.length - 1 - r + 0.5) * PITCH,
		unit: (r, x) => clamp(Math.round((x / scale + low - rows[r].offset) / rows[r].step), rows[r].units - 1),
		wide: (r) => {
			const step = rows[r].step * scale;
			return Math.max(0.86 * Math.min(scale, step), Math.min(0.86 * step, 8));
		},
	};
}

function drawStack(canvas, width, stack, lit, [row, unit]) {
	const { rows, windows } = stack;
	const g = surface(canvas, width, rows.length * PITCH);
	const at = geometry(stack, width);
	const inside = (r, i) => i >= 0 && i < rows[r].units;
	const lines = (r, to, w, colour, real) => {
		let [lastA, lastB, drawn] = [NaN, NaN, 0];
		g.beginPath();
		lit[r].counts.forEach((count, i) => {
			if (!count) return;
			const a = at.x(r, lit[r].first + i);
			for (const one of inputs(w, lit[r].first + i)) {
				const b = at.x(to, one);
				if (inside(to, one) !== real || Math.abs(a - lastA) + Math.abs(b - lastB) < 0.5) continue;
				[lastA, lastB] = [a, b];
				drawn++;
				g.moveTo(a, at.y(r));
				g.lineTo(b, at.y(to));
			}
		});
		g.lineWidth = drawn > 300 ? 0.5 : 1.2;
		g.strokeStyle = colour;
		g.stroke();
	};
	for (let r = row; r > 0; r--) {
		lines(r, r - 1, windows[r - 1], COLOURS.reached, false);
		lines(r, r - 1, windows[r - 1], COLOURS.tap, true);
	}
	for (let r = row; r < windows.length; r++) lines(r, r + 1, transposed(windows[r]), COLOURS.output, true);
	const [first, last] = row && some(lit[0]) ? hull(rows[row].field, unit).map(Number) : [1, 0];
	const holes = hatch(g);
	g.font = "12px system-ui, sans-serif";
	g.textAlign = "center";
	rows.forEach(({ units, pads }, r) => {
		const [y, wide] = [at.y(r), at.wide(r)];
		g.fillStyle = "#ccc";
		if (wide < 3) g.fillRect(at.x(r, 0), y - 3, at.x(r, units - 1) - at.x(r, 0), 6);
		const usual = r === 0 ? "input" : r === windows.length ? "output" : "reached";
		let drawn = -1;
		for (let i = -pads[0]; i < units + pads[1]; i++) {
			const [x, count, self] = [at.x(r, i), lit[r].counts[i - lit[r].first], r === row && i === unit];
			if (wide < 3 && !self && (!count || x - drawn < 0.5)) continue;
			drawn = x;
			const hole = !r && !count && i >= first && i <= last && inside(0, i);
			const box = [x - wide / 2, y - 8, wide, 16];
			g.fillStyle = hole ? holes : count ? COLOURS[self && r ? "output" : usual] : "#fff";
			g.fillRect(...box);
			g.strokeStyle = g.fillStyle = "#000";
			g.lineWidth = self ? 2.5 : 0.7;
			g.setLineDash(inside(r, i) ? [] : [2, 2]);
			if (wide >= 3 || self) g.strokeRect(...box);
			if (!r && row && count && wide > 8 * `${count}`.length + 2) g.fillText(`${count}`, x, y + 4);
		}
	});
	if (last >= first) {
		const [a, b] = [Math.max(first, 0), Math.min(last, rows[0].units - 1)].map((i) => at.x(0, i));
		const half = at.wide(0) / 2 + 2;
		g.lineWidth = 2;
		g.setLineDash([]);
		g.strokeRect(a - half, at.y(0) - 11, b - a + 2 * half, 22);
	}
}

function drawPlane(canvas, width, studies, linear) {
	const skip = Math.ceil(Math.max(...studies.map(({ paths }) => paths.counts.length)) / 512);
	const [rows, columns] = studies.map(({ paths: { counts } }) => {
		const most = Number(counts.reduce((a, b) => (a > b ? a : b)));
		const binned = upTo(Math.ceil(counts.length / skip)).map((i) => Math.max(...counts.slice(i * skip, (i + 1) * skip).map(Number)));
		return binned.map((n) => (linear ? n / most : n && Math.log(n) + 1e-9));
	});
	const [high, wide] = [rows.length, columns.length];
	const side = width / Math.max(high, wide);
	const g = surface(canvas, width, high * side);
	const most = linear ? 1 : Math.max(...rows) + Math.max(...columns);
	const cells = h("canvas", { width: wide, height: high });
	const image = new ImageData(wide, high);
	rows.forEach((a, y) => columns.forEach((b, x) => {
		if (!a || !b) return; // a hole stays clear
		const value = (4 * (linear ? a * b : a + b)) / most;
		const at = Math.min(3, Math.floor(value));
		const [low, high, byte] = [CIVIDIS[at], CIVIDIS[at + 1], 4 * (y * wide + x)];
		for (let c = 0; c < 4; c++) image.data[byte + c] = low[c] + (high[c] - low[c]) * (value - at);
	}));
	cells.getContext("2d").putImageData(image, 0, 0);
	g.fillStyle = hatch(g);
	g.fillRect(0, 0, wide * side, high * side);
	g.imageSmoothingEnabled = false;
	g.drawImage(cells, 0, 0, wide * side, high * side);
	const cell = side / skip;
	const [y, x] = studies.map(({ paths }) => (paths.counts.length * cell) / 2);
	for (const [colour, line] of [["#000", 4], ["#fff", 2]]) {
		g.beginPath();
		g.ellipse(x, y, 2 * studies[1].deviation * cell, 2 * studies[0].deviation * cell, 0, 0, 7);
		Object.assign(g, { strokeStyle: colour, lineWidth: line }).stroke();
	}
}

// the sum of one layer over a small picture of digits
const MOST_PIXELS = 17;
const digit = (y, x) => (3 * y + 5 * x + x * y) % 10;
const upTo = (n) => Array.from({ length: n }, (_, i) => i);

/** Sides of picture and output, and the terms in their order. */
function scene([h, w]) {
	const side = Math.max(7, ...[h, w].map((one) => extent(one) + 2 * one.stride));
	const outs = [h, w].map((one) => floorDiv(side - extent(one), one.stride) + 1);
	const terms = upTo(outs[0]).flatMap((r) => upTo(outs[1]).flatMap((c) => upTo(h.kernel).flatMap((i) => upTo(w.kernel).map((j) => {
		const [y, x] = [r * h.stride + i * h.dilation, c * w.stride + j * w.dilation];
		const weight = Math.min(i + 1, h.kernel - i) * Math.min(j + 1, w.kernel - j);
		return { out: `${[r, c]}`, tap: `${[i, j]}`, at: `${[y, x]}`, text: `${weight}·${digit(y, x)}`, adds: weight * digit(y, x) };
	}))));
	return { side, outs, terms };
}

const grid = (rows, columns, of, caption) =>
	h("table.dx-grid", {}, h("caption", {}, caption), ...upTo(rows).map((r) => h("tr", {}, ...upTo(columns).map((c) => {
		const [textContent, className] = of(`${[r, c]}`);
		return h("td", { textContent, className });
	}))));

export function code(layers, channels) {
	const both = (h, w) => (h === w ? `${h}` : `(${h}, ${w})`);
	const lines = layers.flatMap(([h, w]) => {
		const given = (name, of, unless) =>
			of(h) === unless && of(w) === unless ? "" : `, ${name}=${both(of(h), of(w))}`;
		const pads = (sign) => `(${[w.before, w.after, h.before, h.after].map((n) => n * sign || 0).join(", ")})`;
		const extra = (one) => one.before - one.after;
		const even = !extra(h) && !extra(w);
		const pool = h.kind === "m";
		const padded = given("padding", (one) => one.before, 0);
		const layer = (name, pad) =>
			`nn.${name}(${pool ? "" : "C, C, "}${both(h.kernel, w.kernel)}${given("stride", (one) => one.stride, pool ? 0 : 1)}` +
			`${pad}${given("dilation", (one) => one.dilation, 1)})`;
		if (isUp(h)) {
			const fits = [h, w].every((one) => extra(one) >= 0 && extra(one) < Math.max(one.stride, one.dilation));
			if (fits) return [layer("ConvTranspose2d", padded + given("output_padding", extra, 0))];
			return [layer("ConvTranspose2d", ""), `nn.ZeroPad2d(${pads(-1)})`]; // a negative padding crops
		}
		const name = pool ? "MaxPool2d" : "Conv2d";
		if (even) return [layer(name, padded)];
		return [pool ? `nn.ConstantPad2d(${pads(1)}, float("-inf"))` : `nn.ZeroPad2d(${pads(1)})`, layer(name, "")];
	});
	return `from torch import nn\n\nC = ${channels}\nstack = nn.Sequential(\n${lines.map((one) => `    ${one},\n`).join("")})`;
}

// 6 · interface

function h(name, props, ...children) {
	const [tag, className] = name.split(".");
	const node = document.createElement(tag);
	if (className) node.className = className;
	for (const [key, value] of Object.entries(props)) {
		if (key in node) node[key] = value;
		else node.setAttribute(key, value);
	}
	node.append(...children);
	return node;
}
const button = (textContent, onclick, props) => h("button", { type: "button", textContent, onclick, ...props });
const off = (one, is) => { one.ariaDisabled = `${is}`; }; // a disabled button would lose the focus
const select = (options, onchange) =>
	h("select", { onchange }, ...Object.entries(options).map(([value, textContent]) => h("option", { value, textContent })));
const number = ([min, max], get, set) => {
	const box = h("input", { type: "number", min, max, oninput: () => box.value && set(+box.value), onblur: () => { box.value = get(); } });
	return box;
};
const labelled = (text, control) => h("label", {}, `${text} `, control);

/** A layer in few signs: "k 3 d 2 p 2". */
const brief = (pair) => format([pair]).replace("x", " × ").replace(/[a-z]/g, (sign) => ` ${{ m: "max", t: "up" }[sign] ?? sign} `).trim();

/** Put one into `host`; `changed` hears of edits, `own` of the state as a fragment. */
function mount(host, { stack, channels, own = null, changed = () => {} }) {
	const state = { layers: [], chosen: 0, length: 0, channels, pin: null, axis: 0, square: true, tab: 0, linear: 0, step: 0 };
	let [studies, shown, problem, timer, held, late] = [];
	const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

	const along = () => studies[state.axis];
	const targets = (layers) => (state.square ? layers[state.chosen] : [layers[state.chosen][state.axis]]);
	const fragment = () => `#stack=${format(state.layers)}&channels=${state.channels}` +
		(state.length ? `&length=${state.length}` : "") + (state.pin ? `&unit=${state.pin}` : "");
	const set = (changes) => { Object.assign(state, changes); refresh(); tell(); };
	function tell() {
		if (!problem) changed(format(state.layers), state.channels);
		clearTimeout(late);
		late = setTimeout(() => own?.(fragment()), 100);
	}
	function load(text, more) {
		let layers;
		try {
			layers = parse(text);
		} catch (error) {
			problem = error;
			return draw(), fill();
		}
		Object.assign(state, { layers, chosen: layers.length - 1, pin: null, length: 0, axis: 0, square: alike(layers), step: 0 }, more);
		refresh();
	}
	function edit(change) {
		const layers = state.layers.map((pair) => pair.map((one) => ({ ...one })));
		set({ layers: change(layers) ?? layers, pin: null, step: 0 });
	}
	function shift(by) {
		const [from, to] = [state.chosen, state.chosen + by];
		if (!state.layers[to]) return;
		state.chosen = to;
		edit((layers) => { [layers[from], layers[to]] = [layers[to], layers[from]]; });
	}
	function under({ clientX, clientY }) {
		const { left, top, width } = canvas.getBoundingClientRect();
		const most = along().rows.length - 1;
		const r = clamp(most - floorDiv(clientY - top, PITCH), most);
		return [r, geometry(along(), width).unit(r, clientX - left)];
	}
	const same = (a, b) => `${a}` === `${b}`;
	const middle = () => [along().rows.length - 1, floorDiv(along().rows.at(-1).units, 2)];
	const pin = (at) => { [state.pin, shown] = [at, null]; draw(); tell(); };
	function walk(event) {
		const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0], Escape: [] }[event.key];
		if (!by) return;
		event.preventDefault();
		const { rows } = along();
		const [r, unit] = state.pin ?? middle();
		const row = clamp(r + by[0], rows.length - 1);
		const near = Math.round((place(rows[r], unit) - rows[row]?.offset) / rows[row]?.step);
		pin(by.length ? [row, clamp(near + by[1], rows[row].units - 1)] : null);
	}
	function drag(event) {
		if (event.target.className !== "dx-grip") return;
		event.preventDefault();
		const at = ({ clientY }) => state.layers.length - 1 - floorDiv(clientY - list.getBoundingClientRect().top, PITCH);
		set({ chosen: at(event), step: 0 });
		list.setPointerCapture(event.pointerId);
		list.onpointermove = (e) => {
			const to = clamp(at(e), state.layers.length - 1);
			while (to !== state.chosen) shift(Math.sign(to - state.chosen));
		};
		list.onlostpointercapture = () => { list.onpointermove = null; };
	}

	const preset = select({ "": T.own, ...T.presets }, () => { if (preset.value) load(preset.value); tell(); });
	const add = button(T.add, () => {
		if (state.layers.length >= MOST_LAYERS) return;
		state.chosen = state.layers.length;
		edit((layers) => [...layers, ...parse("k3")]);
	});
	const length = () => state.length || fitting(axes());
	const width = number([1, 4096], () => state.channels, (n) => width.checkValidity() && set({ channels: n }));
	const long = number([1, MOST_UNITS], length, (n) => long.checkValidity() && set({ length: n, pin: null }));
	const check = (onchange) => h("input", { type: "checkbox", onchange });
	const fits = check(() => set({ length: fits.checked ? 0 : +long.value }));
	const square = check(() => {
		state.square = square.checked;
		edit((layers) => (square.checked ? layers.map((pair) => [0, 1].map(() => ({ ...pair[state.axis] }))) : layers));
	});
	const axis = select(T.axes, () => set({ axis: +axis.value, pin: null }));
	const axisLabel = labelled(T.axis, axis);
	const list = h("ol", { reversed: true, onpointerdown: drag });
	const canvas = h("canvas", {});
	const map = h("div.dx-map", {
		tabIndex: 0, role: "application", ariaLabel: T.map, onkeydown: walk,
		onpointermove: (event) => { shown = under(event); draw(); },
		onpointerleave: () => { shown = null; draw(); },
		onclick: (event) => pin(same(under(event), state.pin) ? null : under(event)),
	}, canvas);
	const status = h("p.dx-status", { role: "status" });
	const legend = h("legend", {});
	const kind = select(T.kinds, () => edit((layers) => {
		for (const one of layers[state.chosen]) {
			one.kind = kind.value;
			if (kind.value === "m") one.before = one.after = 0;
		}
	}));
	const dials = Object.keys(BOUNDS).map((name) => {
		const turn = (value) => edit((layers) => { for (const one of targets(layers)) one[name] = value; });
		const slider = h("input", {
			type: "range", ariaLabel: T.fields[name],
			oninput: () => { held = slider; turn(+slider.value); }, // its bounds rest while it moves
			onchange: () => { held = null; refresh(); },
		});
		const box = number(BOUNDS[name], () => targets(state.layers)[0][name], turn);
		return { name, slider, box };
	});
	const [up, down] = [[T.up, 1], [T.down, -1]].map(([text, by]) => button(text, () => shift(by)));
	const remove = button(T.remove, () => {
		const { chosen } = state;
		if (state.layers.length < 2) return;
		state.chosen = Math.max(0, chosen - 1);
		edit((layers) => { layers.splice(chosen, 1); });
	});
	const editor = h("fieldset", {}, legend, labelled(T.kind, kind),
		...dials.map(({ name, slider, box }) => h("div.dx-row", {}, h("label", {}, T.fields[name], box), slider)),
		h("div.dx-bar", {}, up, down, remove));
	const tabs = T.tabs.map((text, n) => button(text, () => turn(n), {
		role: "tab",
		onkeydown: ({ key }) => /Arrow(Left|Right)/.test(key) && turn(mod(n + (key === "ArrowRight" ? 1 : 3), 4)).focus(),
	}));
	const panel = h("div.dx-panel", { role: "tabpanel", tabIndex: 0 });
	host.replaceChildren(h("div.dx", { role: "group", ariaLabel: T.explorer, "data-lm-suppress-shortcuts": "true" },
		h("div.dx-bar", {}, labelled(T.preset, preset), add, labelled(T.channels, width),
			labelled(T.length, long), h("label", {}, fits, T.fits), h("label", {}, square, T.both), axisLabel),
		h("div.dx-stack", {}, list, map), status, editor,
		h("div.dx-bar", { role: "tablist" }, ...tabs), panel));

	// what is shown
	const axes = () => [0, 1].map((n) => state.layers.map((pair) => pair[n]));
	function refresh() {
		const { layers } = state;
		[studies, problem, shown] = [null, null, null];
		try {
			const [first, second] = axes();
			studies = [study(first, length())];
			studies[1] = alike(layers) ? studies[0] : study(second, length());
			if (state.pin && !(state.pin[1] < along().rows[state.pin[0]]?.units)) state.pin = null;
		} catch (error) {
			if (!(error instanceof Impossible)) throw error;
			problem = error;
			if (!alike(layers)) problem.message += ` (${T.axes[studies ? 1 : 0]})`;
		}
		for (const box of host.querySelectorAll("[type=number]:not(:focus)")) box.onblur();
		const text = format(layers);
		preset.value = T.presets[text] ? text : "";
		long.disabled = fits.checked = !state.length;
		square.checked = axisLabel.hidden = state.square;
		axis.value = state.axis;
		off(add, layers.length >= MOST_LAYERS);
		showRows();
		showDials();
		draw();
		fill();
	}
	function showRows() {
		const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
		const rows = state.layers.map((pair, n) => {
			const spans = problem ? "" : T.spans(size(along().rows[n + 1].field));
			return h("li", {}, h("span.dx-grip", { ariaHidden: "true" }, "⠿"), h("button", {
				type: "button", ariaPressed: `${n === state.chosen}`, ariaLabel: T.choose(n + 1, brief(pair), spans),
				onclick: () => set({ chosen: n, step: 0 }),
			}, h("b", {}, brief(pair)), " ", h("small", {}, spans)));
		});
		list.replaceChildren(...rows.reverse(), h("li", {}, T.input));
		rows[Math.min(focused, rows.length - 1)]?.lastChild.focus();
	}
	function showDials() {
		const [one] = targets(state.layers);
		legend.textContent = T.layer(state.chosen + 1);
		kind.value = one.kind;
		off(up, state.chosen === state.layers.length - 1);
		off(down, !state.chosen);
		off(remove, state.layers.length < 2);
		const possible = (name, value) => {
			const tried = axes().map((windows, n) => windows.map((w, i) =>
				i === state.chosen && (state.square || n === state.axis) ? { ...w, [name]: value } : w));
			try {
				return tried.every((windows) => lengthsOf(windows, state.length || fitting(tried)));
			} catch {
				return false;
			}
		};
		const far = (name, good, bad) => {
			for (let next = bad; next !== good; next = good + Math.trunc((bad - good) / 2)) {
				if (possible(name, next)) good = next;
				else bad = next;
			}
			return good;
		};
		for (const { name, slider } of dials) {
			const value = one[name];
			if (slider === held) continue;
			let [min, max] = BOUNDS[name];
			max = Math.min(max, Math.max(8, 2 * value)); // fine steps, and twice as far next time
			if (!problem) [min, max] = [far(name, value, min), far(name, value, max)];
			Object.assign(slider, { min, max, value });
		}
	}
	function draw() {
		map.hidden = !!problem;
		status.classList.toggle("dx-bad", !!problem);
		if (problem) return void (status.textContent = problem.message);
		const { rows, windows } = along();
		const at = shown ?? state.pin ?? middle();
		const lit = cone(along(), at);
		drawStack(canvas, map.clientWidth, along(), lit, at);
		const [r, unit] = at;
		const words = T.unit;
		const name = (n) => (n ? T.layer(n) : T.input);
		const { field } = rows.at(-1);
		const said = [words.field(size(field), fraction(field.stride)), words.top(name(r), unit, rows[r].units)];
		const seen = hull(rows[r].field, unit);
		if (r && !seen) said.push(words.nothing);
		else if (r) {
			const below = windows.slice(0, r);
			const all = below.some(isUp) ? total(coverage(below, unit)) : below.reduce((n, w) => n * BigInt(w.kernel), 1n);
			const real = total(lit[0]);
			said.push(words.spans(...seen, seen[1] - seen[0] + 1n, grouped(all)));
			if (real < all) said.push(words.padding(grouped(real), grouped(all - real)));
		}
		const top = lit.at(-1);
		if (r < windows.length) said.push(words.feeds(some(top), name(windows.length), grouped(total(top))));
		if (same(at, state.pin)) said.push(words.pinned);
		status.textContent = `${said.join("; ")}.`;
	}
	const turn = (n) => { state.tab = n; fill(); return tabs[n]; };
	function fill() {
		play(null);
		tabs.forEach((tab, n) => Object.assign(tab, { ariaSelected: `${n === state.tab}`, tabIndex: n === state.tab ? 0 : -1 }));
		panel.ariaLabel = T.tabs[state.tab];
		panel.hidden = !!problem;
		if (!problem) panel.replaceChildren(...[numbers, plane, codes, time][state.tab]());
	}

	// the four panels
	function numbers() {
		const [a, b] = studies;
		const both = (of) => [...new Set([a, b].map(of))].join(" × ");
		const last = (one) => one.rows.at(-1).field;
		const single = studies.every((one) => last(one).phases.length === 1);
		const alone = (of) => (one) => (single ? of(one, ...last(one).phases[0]) : T.phases);
		const [reached, all] = [(one) => some(one.paths), (one) => one.paths.counts.length];
		const { windows, rows } = along();
		const values = [
			`${size(last(a))} × ${size(last(b))}`,
			both((one) => fraction(last(one).stride)),
			both(alone((_, low) => -low)),
			both(alone((_, low, high) => Number(low + high) / 2)),
			grouped(parameters(state.layers, state.channels)),
			both(alone((one) => T.of(reached(one), all(one)))),
			alone(() => T.of(grouped(reached(a) * reached(b)), grouped(all(a) * all(b))))(a),
			both((one) => one.deviation?.toFixed(2) ?? T.phases),
			both(alone(verdict)),
		];
		const terms = windows.map((w, n) => {
			const [below, grown] = [rows[n], rows[n + 1]].map(({ field }) => size(field));
			return [n + 1, extent(w), fraction(rows[n].field.stride), grown - below, grown];
		});
		const sum = (of) => ["1", ...terms.map(of)].join(" + ");
		const line = (tag, cells) => h("tr", {}, ...cells.map((one) => h(tag, {}, `${one}`)));
		return [
			h("dl", {}, ...values.map((value, n) => h("div", {}, h("dt", {}, T.numbers[n]), h("dd", {}, value)))),
			h("p", {}, windows.some(isUp) ? T.transposed
				: `R = ${sum((t) => `(${t[1]} − 1)·${t[2]}`)} = ${sum((t) => t[3])} = ${terms.at(-1)[4]}`),
			h("table", {}, line("th", T.terms), ...terms.map((row) => line("td", row))),
		];
	}
	function verdict({ windows, paths }) {
		const layers = windows.filter((w) => w.kernel > 1);
		const holes = T.hdc.holes(paths.counts.length - some(paths));
		const [{ kernel, dilation } = {}] = layers;
		if (layers.length < 2 || layers.some((w) => w.kind !== "k" || w.stride > 1 || w.kernel !== kernel)) return T.hdc.not + holes;
		const m = hdcDistances(layers.map((w) => w.dilation))[1];
		return T.hdc.is(m <= kernel && dilation === 1, m, kernel, dilation) + holes;
	}
	function plane() {
		const [a, b] = studies;
		const [high, wide] = [a, b].map(({ paths }) => paths.counts.length);
		const reached = some(a.paths) * some(b.paths);
		const text = T.plane(high, wide, grouped(reached), grouped(high * wide - reached));
		const spread = a.deviation === null ? T.transposed : T.spread(a.deviation.toFixed(2), b.deviation.toFixed(2));
		const picture = h("canvas", { role: "img", ariaLabel: text });
		const paint = () => drawPlane(picture, clamp(panel.clientWidth - 8, 380), studies, state.linear);
		const view = select(T.views, () => { state.linear = +view.value; paint(); });
		view.value = state.linear;
		paint();
		return [labelled(T.view, view), picture, h("p", {}, `${text} ${spread}`)];
	}
	function codes() {
		const text = code(state.layers, state.channels);
		const said = h("span", { role: "status" });
		return [h("pre", { tabIndex: 0 }, h("code", {}, text)), button(T.copy, async () => {
			await navigator.clipboard.writeText(text);
			said.textContent = T.copied;
		}), " ", said];
	}
	function time() {
		const words = T.time;
		const layer = state.layers[state.chosen];
		const sum = scene(layer);
		if (layer[0].kind !== "k") return [h("p", {}, words.kind)];
		if (sum.side > MOST_PIXELS) return [h("p", {}, words.wide(sum.side))];
		const [picture, said, terms] = [h("div.dx-bar", {}), h("p", { role: "status" }), h("p", {})];
		const show = (step) => {
			state.step = step % sum.terms.length;
			const now = sum.terms[state.step];
			const [totals, met, added] = [{}, {}, []];
			sum.terms.forEach(({ out, at, text, adds }, n) => {
				const done = n <= state.step;
				if (done) totals[out] = (totals[out] ?? 0) + adds;
				if (out !== now.out) return;
				met[at] = n === state.step ? "dx-tap" : done ? "dx-input" : "dx-next";
				if (done) added.push(text);
			});
			picture.replaceChildren(
				grid(sum.side, sum.side, (at) => [digit(...at.split(",").map(Number)), met[at] ?? ""], words.picture),
				grid(...sum.outs, (at) => [totals[at] ?? "", at === now.out ? "dx-output" : ""], words.result));
			said.ariaLive = timer ? "off" : "polite";
			said.textContent = words.term(added.length, layer[0].kernel * layer[1].kernel, now.tap, now.at, now.text);
			terms.textContent = `${words.output(now.out)} = ${added.join(" + ")} = ${totals[now.out]}`;
		};
		const next = () => (host.isConnected ? show(state.step + 1) : play(null));
		const go = button(words.play, () => { play(timer ? null : next); go.textContent = timer ? words.pause : words.play; }, { disabled: calm });
		const speed = h("input", { type: "range", min: 1, max: 20, value: state.speed ?? 3, oninput: () => {
			state.speed = +speed.value;
			if (timer) play(next);
		} });
		show(state.step);
		return [h("div.dx-bar", {}, go, button(words.step, next), labelled(words.speed, speed)),
			calm ? h("p", {}, words.still) : "", picture, said, terms];
	}
	function play(next) {
		clearInterval(timer);
		timer = next && setInterval(next, 1000 / (state.speed ?? 3));
	}

	function open(text) {
		const given = new URLSearchParams(text.slice(1));
		if (!given.has("stack")) return;
		const unit = (given.get("unit") ?? "").split(",").map((n) => parseInt(n));
		const wide = parseInt(given.get("channels"));
		load(given.get("stack"), { channels: wide > 0 ? wide : channels, length: +given.get("length"), pin: unit[1] >= 0 ? unit : null });
	}
	load(stack);
	if (own) {
		open(location.hash);
		addEventListener("hashchange", () => open(location.hash));
	}
	let wide = 0;
	new ResizeObserver(([{ contentRect }]) => {
		if (wide !== contentRect.width) { draw(); fill(); }
		wide = contentRect.width;
	}).observe(host);
	return (text, channels) => {
		if (state.channels === channels && format(state.layers) === text) return;
		state.channels = channels;
		load(text);
	};
}

// 7 · mounting

if (typeof document !== "undefined") {
	// on a page of its own the address holds the state of the first explorer
	let own = location.pathname.endsWith("explorer.html") ? (fragment) => history.replaceState(null, "", fragment) : null;
	for (const host of document.querySelectorAll(".dilated-explorer[data-stack]")) {
		const { stack, channels } = host.dataset;
		delete host.dataset.stack; // another copy of this module must not mount it again
		mount(host, { stack, channels: +channels, own });
		own = null;
	}
}

export default {
	render({ model, el }) {
		const changed = (stack, channels) => { model.set({ stack, channels }); model.save_changes(); };
		const set = mount(el, { stack: model.get("stack"), channels: model.get("channels"), changed });
		for (const name of ["stack", "channels"]) model.on(`change:${name}`, () => set(model.get("stack"), model.get("channels")));
	},
};
