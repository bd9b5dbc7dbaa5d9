import type { Agent } from 'node:http';

export interface OpmClientOptions {
  /** URL of the API, such as https://api.example.com. */
  url: string;
  apiKey: string;
  /** Timeout of one attempt in ms, from the time at which it has a connection. Default 10,000. */
  timeoutMs?: number;
  /**
   * How long a call may wait and retry, in ms. Its last attempt may end up to `timeoutMs` later. While the call waits
   * in the queue, the time restarts whenever the server accepts something from this client. Default 60,000.
   */
  deadlineMs?: number;
  /** Maximum number of open sends and erasures. Default 10,000. */
  maxQueued?: number;
  /** Maximum number of requests with entries in flight, and of reads beside them. Default 4. */
  maxInFlight?: number;
  /** Your own agent, for a proxy or certificates. `close` does not destroy it. */
  agent?: Agent;
}

export type Settings = Required<Omit<OpmClientOptions, 'url' | 'agent'>> & { url: URL; agent: Agent | undefined };

/** @throws TypeError that names the invalid option, never its value */
export function parseOptions(options: OpmClientOptions): Settings {
  const { url, apiKey, timeoutMs = 10_000, deadlineMs = 60_000, maxQueued = 10_000, maxInFlight = 4, agent } = options;
  if (typeof apiKey !== 'string' || !/^[\x21-\x7e]+$/.test(apiKey)) {
    throw new TypeError('apiKey must be a string of visible ASCII characters');
  }
  return {
    url: parseUrl(url),
    apiKey,
    timeoutMs: parseCount('timeoutMs', timeoutMs, 1),
    deadlineMs: parseCount('deadlineMs', deadlineMs, 0),
    maxQueued: parseCount('maxQueued', maxQueued, 1),
    maxInFlight: parseCount('maxInFlight', maxInFlight, 1),
    agent,
  };
}

function parseUrl(text: string): URL {
  const url = toUrl(text);
  if (!url || !/^https?:$/.test(url.protocol)) throw new TypeError('url must be an http or https URL');
  if (url.username || url.password) throw new TypeError('url must not contain a user or password');
  return url;
}

function toUrl(text: string): URL | undefined {
  try {
    return new URL(text);
  } catch {
    return undefined; // the error of URL quotes the text, which may hold a password
  }
}

/** Longest delay of Node's timers. With a longer one, they fire at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

function parseCount(name: string, value: number, min: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= MAX_TIMER_MS) return value;
  throw new TypeError(`${name} must be a whole number from ${min} to ${MAX_TIMER_MS}`);
}
