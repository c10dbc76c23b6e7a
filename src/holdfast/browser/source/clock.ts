/** Seconds since the Unix epoch. */
export const now = (): number => Date.now() / 1000;

// Timers of a hidden page may be 60 s late.
const SLEEP = 90;
const CHECK_INTERVAL = 15;

/** Call `onSleep` after the machine has slept. Returns a function that ends this. */
export function watchForSleep(onSleep: () => void): () => void {
  let lastCheck = now();
  const timer = setInterval(() => {
    if (now() - lastCheck > SLEEP) onSleep();
    lastCheck = now();
  }, CHECK_INTERVAL * 1000);
  return () => clearInterval(timer);
}
