import type { Agent } from 'node:http';

export interface OpmClientOptions {
  /** The address of the API, such as https://api.example.com. */
  url: string;
  apiKey: string;
  /** For one try, from its connection on. Default 10,000. */
  timeoutMs?: number;
  /**
   * How long a call may wait and try again; its last try may end up to `timeoutMs` later. While it waits for its turn, this
   * counts anew from each answer by which the server takes something. Default 60,000.
   */
  deadlineMs?: number;
  /** Sends and erasures that may be open at the same time. Default 10,000. */
  maxQueued?: number;
  /** Requests with entries that may be under way at the same time. Default 4. */
  maxInFlight?: number;
  /** For a proxy or certificates of your own; `close` leaves it alone. */
  agent?: Agent;
}

export type Settings = Required<Omit<OpmClientOptions, 'url' | 'agent'>> & { url: URL; agent: Agent | undefined };

/** @throws TypeError which names the option, never its value */
export function parseOptions(options: OpmClientOptions): Settings {
  const { url, apiKey, timeoutMs = 10_000, deadlineMs = 60_000, maxQueued = 10_000, maxInFlight = 4, agent } = options;
  if (typeof apiKey !== 'string' || !/^[\x21-\x7e]+$/.test(apiKey)) {
    throw new TypeError('apiKey must be a text of visible ASCII characters');
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
  if (url.username || url.password) throw new TypeError('url must not hold a user or password');
  return url;
}

function toUrl(text: string): URL | undefined {
  try {
    return new URL(text);
  } catch {
    return undefined; // the error of URL would quote it
  }
}

/** Above this, Node's timers fire at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

function parseCount(name: string, value: number, min: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= MAX_TIMER_MS) return value;
  throw new TypeError(`${name} must be a whole number from ${min} to ${MAX_TIMER_MS}`);
}
