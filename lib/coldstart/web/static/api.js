// Talks to the server that the page came from, and to nobody else.

const HERE = new URL("../../", import.meta.url);
const TOKEN = "coldstart-token";
const PICTURES_KEPT = 300;
const ANSWERED_WITHIN_MS = 30_000;
/** A model may look at a large volume for it, or an archive be asked first. */
const DRAWN_WITHIN_MS = 600_000;

/** The server answered, but not with what was asked for; the message is its sentence. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

/** There was no answer, or none that could be read. */
class Unanswered extends Error {
  constructor() {
    super("The server does not answer.");
  }
}

let onLoginNeeded = () => {},
  onUnanswered = () => {};

/** Call back when the server wants to know who asks. */
export const whenLoginNeeded = callback => {
  onLoginNeeded = callback;
};

/** Call back with the error when the server does not answer. */
export const whenUnanswered = callback => {
  onUnanswered = callback;
};

export const isLoggedIn = () => sessionStorage.getItem(TOKEN) !== null;

export function logOut() {
  sessionStorage.removeItem(TOKEN);
  location.reload();
}

export async function logIn(username, password) {
  const answer = await fetch(new URL("../auth/token", HERE), {
    method: "POST",
    body: new URLSearchParams({ username, password }),
    signal: AbortSignal.timeout(ANSWERED_WITHIN_MS),
  });
  if (!answer.ok) throw new Refused(answer.status, await sentence(answer));
  sessionStorage.setItem(TOKEN, (await answer.json()).access_token);
}

/** Ask the server, and read its answer; rejects with an AbortError where `signal` says that nobody waits any more. */
async function ask(path, query, { read = "json", within = ANSWERED_WITHIN_MS, signal, ...options } = {}) {
  const address = new URL(`api/${path}`, HERE);
  for (const [name, value] of Object.entries(query)) if (value !== null) address.searchParams.set(name, value);
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const end = new AbortController(),
    stop = () => end.abort(),
    timer = setTimeout(stop, within);
  signal?.addEventListener("abort", stop);
  try {
    const answer = await fetch(address, { ...options, headers, signal: end.signal });
    if (answer.ok) return await answer[read]();
    if (answer.status === 401) onLoginNeeded();
    throw new Refused(answer.status, await sentence(answer));
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    if (error instanceof Refused) throw error;
    const said = new Unanswered();
    onUnanswered(said);
    throw said;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

async function sentence(answer) {
  const { detail } = await answer.json().catch(() => ({}));
  if (typeof detail === "string") return detail;
  return Array.isArray(detail)
    ? detail.map(one => `${one.loc.at(-1)}: ${one.msg}.`).join(" ")
    : `The server answered with the error ${answer.status}. Its log says why.`;
}

export const get = (path, query = {}, signal = undefined) => ask(path, query, { signal });

export const post = (path, body) =>
  ask(path, {}, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const blob = (path, query = {}, signal = undefined) =>
  ask(path, query, { read: "blob", within: DRAWN_WITHIN_MS, signal });

// Pictures

const pictures = new Map();

/** Address of a picture, which an `img` can show: fetched with the login, kept for the next time it is looked at.
 * Nobody else waits for one that is given up by its signal. */
export function picture(path, query, signal = undefined) {
  const key = JSON.stringify([path, query]);
  const known = pictures.get(key) ?? fetched(key, path, query, signal);
  pictures.delete(key);
  pictures.set(key, known);
  if (pictures.size > PICTURES_KEPT) {
    const [oldest, address] = pictures.entries().next().value;
    pictures.delete(oldest);
    address.then(URL.revokeObjectURL, () => {});
  }
  return known;
}

function fetched(key, path, query, signal) {
  const address = blob(path, query, signal).then(URL.createObjectURL);
  const forget = () => pictures.get(key) === address && pictures.delete(key);
  signal?.addEventListener("abort", forget); // at once: whoever looks again has it asked for again
  address.then(() => signal?.removeEventListener("abort", forget), forget);
  return address;
}
