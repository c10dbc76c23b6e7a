/** sessionStorage, which throws where the browser forbids it, as it does with blocked cookies. */

const PREFIX = "holdfast:";

export function load(key: string): string | undefined {
  try {
    return sessionStorage.getItem(PREFIX + key) ?? undefined;
  } catch {
    return undefined;
  }
}

export function save(key: string, value: string): void {
  try {
    sessionStorage.setItem(PREFIX + key, value);
  } catch {
    // The page works without it.
  }
}
