// POST to our own server. Returns the answer, or null if it was refused or never came.

export async function post(path, body) {
  const answer = await fetch(path, { method: 'POST', body }).catch(() => null);
  return answer?.ok ? answer.json() : null;
}
