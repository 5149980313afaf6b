// Colours: of the theme (from the style sheet) and of scales. Viridis' anchors, which the colour-blind tell apart.

const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
];
const STEPS = 64;
const dark = matchMedia("(prefers-color-scheme: dark)");

let isDarkNow = dark.matches;
dark.addEventListener("change", () => (isDarkNow = dark.matches));

export const isDark = () => isDarkNow;
/** `listener` is called after the theme has changed. */
export function onTheme(listener, signal) {
  dark.addEventListener("change", listener, { signal });
}

/** A colour of the style sheet: ink("--line"). */
export const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function mix(anchors, at) {
  const place = Math.min(Math.max(at, 0), 1) * (anchors.length - 1);
  const low = Math.min(Math.floor(place), anchors.length - 2);
  const part = place - low;
  return anchors[low].map((channel, i) => Math.round(channel + (anchors[low + 1][i] - channel) * part));
}

function scale(anchors, from, to) {
  return Array.from({ length: STEPS + 1 }, (_, step) => {
    const [r, g, b] = mix(anchors, from + ((to - from) * step) / STEPS);
    return { css: `rgb(${r} ${g} ${b})`, bright: 0.299 * r + 0.587 * g + 0.114 * b > 140 };
  });
}

// More is further from the background: darker on light, brighter on dark.
const SCALES = {
  colour: { light: scale(VIRIDIS, 0.93, 0.0), dark: scale(VIRIDIS, 0.12, 1) },
  grey: {
    light: scale([[231, 235, 240], [78, 88, 102]], 0, 1),
    dark: scale([[38, 45, 55], [186, 196, 208]], 0, 1),
  },
};

/** `value` in 0..1 -> {css, bright}; kind "colour" or "grey". */
export function tone(kind, value) {
  return SCALES[kind][isDarkNow ? "dark" : "light"][Math.round(Math.min(Math.max(value, 0), 1) * STEPS)];
}

export const gradient = (kind) => {
  const colours = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1].map((at) => tone(kind, at).css);
  return `linear-gradient(to right, ${colours.join(", ")})`;
};
