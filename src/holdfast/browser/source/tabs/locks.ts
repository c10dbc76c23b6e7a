/** Run `work` while holding a lock. Ends quietly if locks are refused or `signal` is aborted. */
export async function withLock(
  name: string,
  signal: AbortSignal,
  work: () => unknown,
): Promise<void> {
  try {
    await navigator.locks.request(name, { signal }, work);
  } catch {
    // Aborted, or forbidden as cookies are.
  }
}

/** Hold a lock until `signal` is aborted. Resolves with true once it is held, false if refused. */
export function holdLock(name: string, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve) => {
    const hold = (): Promise<void> => {
      resolve(true);
      return aborted(signal);
    };
    void withLock(name, signal, hold).then(() => resolve(false));
  });
}

export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    signal.addEventListener("abort", () => done());
  });
}
