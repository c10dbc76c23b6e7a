export const MIN_DELAY = 0.5;
export const MAX_DELAY = 20;

/**
 * The pause before the next attempt, in seconds: a random time between 0.5 s and a bound that
 * begins at 1 s, doubles with each failure in a row, and is at most 20 s. The server may ask for
 * a longer pause with `atLeast`.
 */
export function backoff(failures: number, atLeast = 0, random = Math.random()): number {
  const longest = Math.min(MAX_DELAY, 2 ** failures);
  const delay = MIN_DELAY + random * (longest - MIN_DELAY);
  return Math.min(MAX_DELAY, Math.max(atLeast, delay));
}
