// Numbers in a readable form.

const whole = new Intl.NumberFormat('en');
const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

export const count = (n) => whole.format(n);

/** "1 message", "2 messages". */
export const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? '' : 's'}`;

/** Bytes as [number, unit], with two or three digits. */
export function bytes(value) {
  let unit = 0;
  let size = value;
  while (size >= 999.5 && unit < UNITS.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return [unit === 0 || size >= 9.95 ? size.toFixed(0) : size.toFixed(1), UNITS[unit]];
}

export const size = (value) => bytes(value).join(' ');
export const rate = (value) => `${size(value)}/s`;

export function duration(seconds) {
  if (seconds < 90) return `${Math.floor(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

const clockFormat = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' });
export const clock = (milliseconds) => clockFormat.format(milliseconds);
