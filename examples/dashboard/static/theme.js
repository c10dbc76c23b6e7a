// Canvases cannot use CSS variables, so they ask for the colour each time they draw.

const style = getComputedStyle(document.documentElement);

export const colour = (name) => style.getPropertyValue(name).trim();

export function onThemeChange(redraw) {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
}
