export const MIN_DELAY = 0.5;
export const MAX_DELAY = 20;

/**
 * The pause in seconds after so many failures in a row: a random time between 0.5 s and twice as
 * much with each failure, at most 20 s. `atLeast` is what the server asked for.
 */
export function backoff(failures: number, atLeast = 0, random = Math.random()): number {
  const longest = Math.min(MAX_DELAY, 2 ** failures);
  const delay = MIN_DELAY + random * (longest - MIN_DELAY);
  return Math.min(MAX_DELAY, Math.max(atLeast, delay));
}
