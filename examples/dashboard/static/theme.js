// A canvas cannot use CSS variables, so it reads the colour each time it draws.

const style = getComputedStyle(document.documentElement);

export const colour = (name) => style.getPropertyValue(name).trim();

export function onThemeChange(redraw) {
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
}
