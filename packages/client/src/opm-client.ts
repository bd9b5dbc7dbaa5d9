import type { Agent } from 'node:http';
import { MAX_TIMER_MS, OpenCalls } from './call.js';
import {
  type AskedReceipt,
  type CallOptions,
  type Customer,
  type DayUsage,
  type EraseResult,
  type FoundCustomer,
  isFound,
  isPong,
  isReceiptState,
  isReceiptStates,
  isRefusedPage,
  isUnknownCustomer,
  type ProjectKey,
  type ReceiptState,
  type RefusedEntry,
  readList,
  type SendResult,
  toDay,
  toEntry,
  toId,
  toPath,
  toReceiptPath,
  toState,
  toTime,
  withPlace,
} from './customer.js';
import { Dispatcher } from './dispatcher.js';
import { ClosedError, toError } from './errors.js';
import { createHttpTransport, type Request, type Transport } from './http-transport.js';
import { createReader, type Reader } from './send-entries.js';

/** The part of `http.Agent` and `https.Agent` that tells them from other objects. */
export interface HttpAgent {
  readonly maxSockets: number;
  readonly sockets: object;
  destroy(): void;
}

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
  /** Maximum number of open sends and erasures. The same limit applies to open reads. Default 10,000. */
  maxQueued?: number;
  /** Maximum number of requests with entries in flight; as many reads may run beside them. Default 4. */
  maxInFlight?: number;
  /** Your own agent, for a proxy or certificates. `close` does not destroy it. */
  agent?: HttpAgent;
  /** Whether to send batches above 4 KiB as gzip, if the server reads it. Default true. */
  compress?: boolean;
}

export interface RefusedOptions extends CallOptions {
  /** Leaves out entries refused before this time. A string is an ISO time, such as 2026-11-24T17:00:00.000Z. */
  since?: Date | string | undefined;
}

export interface UsageOptions extends CallOptions {
  /** The first day: a string such as 2026-11-24, or a Date, whose day in UTC counts. */
  from?: Date | string | undefined;
  /** The last day. The range has at most 400 days. */
  to?: Date | string | undefined;
}

export interface CloseOptions {
  /** After this time in ms, open calls reject with ClosedError. Without it, they have until their deadlines. */
  timeoutMs?: number;
}

/**
 * Sends customers to OPM Partners API. Concurrent calls share requests. The client retries transient failures until the
 * deadline. Calls for one customer take effect in the order in which they are made.
 */
export class OpmClient {
  readonly #transport: Transport;
  readonly #dispatcher: Dispatcher;
  readonly #read: Reader;
  readonly #writes: OpenCalls;
  readonly #reads: OpenCalls;
  #isClosed = false;

  /** @throws TypeError if an option is invalid */
  constructor(options: OpmClientOptions) {
    const settings = parseOptions(options);
    const { deadlineMs, maxQueued, maxInFlight } = settings;
    this.#transport = createHttpTransport({ ...settings, maxConnections: 2 * maxInFlight });
    this.#dispatcher = new Dispatcher({ transport: this.#transport, maxInFlight });
    this.#writes = new OpenCalls({ deadlineMs, max: maxQueued, onNone: () => this.#dispatcher.cancelPause() });
    this.#reads = new OpenCalls({ deadlineMs, max: maxQueued });
    this.#read = createReader({ transport: this.#transport, calls: this.#reads, maxInFlight });
  }

  /**
   * Creates or updates a customer. Resolves once the entry is queued durably. `created` is true if the customer was
   * new. Rejects with OpmError, or with the signal's reason.
   */
  async send(customer: Customer, { signal }: CallOptions = {}): Promise<SendResult> {
    this.#assertOpen();
    const entry = toEntry(customer);
    return this.#writes.open(signal, (call) => {
      this.#dispatcher.add({ customerId: String(customer.customerId), entry, call });
    });
  }

  /**
   * Erases a customer and everything sent about it before. `erased` is false if there was nothing to erase.
   * Rejects with OpmError, or with the signal's reason.
   */
  async erase(customerId: string | number, { signal }: CallOptions = {}): Promise<EraseResult> {
    this.#assertOpen();
    return this.#writes.open(signal, (call) => {
      this.#dispatcher.add({ customerId: toId(customerId), call });
    });
  }

  /** Reads a customer. Resolves to undefined if there is none. Rejects with OpmError, or with the signal's reason. */
  async get(customerId: string | number, options?: CallOptions): Promise<FoundCustomer | undefined> {
    this.#assertOpen();
    const answer = await this.#read(get(toPath(customerId)), options);
    if (isUnknownCustomer(answer)) return undefined;
    if (answer.statusCode !== 200 || !isFound(answer.body)) throw toError(answer);
    const { customer, pending, refused } = answer.body;
    return { customer, pending, ...(refused && { refused }) };
  }

  /**
   * What became of an accepted entry or erasure, from the `receipt` of its result. Rejects with OpmError, or with the
   * signal's reason.
   */
  async receiptState(customerId: string | number, receipt: string, options?: CallOptions): Promise<ReceiptState> {
    this.#assertOpen();
    const answer = await this.#read(get(toReceiptPath(customerId, receipt)), options);
    if (answer.statusCode !== 200 || !isReceiptState(answer.body)) throw toError(answer);
    return toState(answer.body);
  }

  /**
   * What became of many accepted entries or erasures, in their order: 600 per request, one request after the other.
   * Rejects with OpmError, for all if one receipt is wrong, or with the signal's reason.
   */
  async receiptStates(asked: readonly AskedReceipt[], options?: CallOptions): Promise<ReceiptState[]> {
    this.#assertOpen();
    const states: ReceiptState[] = [];
    for (let first = 0; first < asked.length; first += RECEIPTS_PER_REQUEST) {
      const page = asked.slice(first, first + RECEIPTS_PER_REQUEST);
      const body = JSON.stringify(page.map(({ customerId, receipt }) => ({ customerId, receipt })));
      const answer = await this.#read({ method: 'POST', path: '/entries/receipts', body }, options);
      if (answer.statusCode !== 200 || !isReceiptStates(answer.body, page.length)) {
        throw toError(answer, withPlace(answer.body, first));
      }
      for (const result of answer.body.results) states.push(toState(result));
    }
    return states;
  }

  /**
   * The accepted entries of your project that could not be stored, newest first. Asks for the next page when it is
   * needed, or throws ClosedError if the client is closed by then. Rejects with OpmError, or with the signal's reason.
   */
  async *refused({ since, signal }: RefusedOptions = {}): AsyncGenerator<RefusedEntry, void, undefined> {
    const query = new URLSearchParams({ ...(since !== undefined && { since: toTime(since) }), limit: PAGE_LIMIT });
    for (;;) {
      this.#assertOpen();
      const answer = await this.#read(get(`/entries/refused?${query}`), { signal });
      if (answer.statusCode !== 200 || !isRefusedPage(answer.body)) throw toError(answer);
      const { refused, cursor } = answer.body;
      yield* refused;
      if (cursor === null) return;
      if (cursor === query.get('cursor')) throw toError(answer); // it would never end
      query.set('cursor', cursor);
    }
  }

  /**
   * What became of your entries on each day (UTC), in order; without options, on the last 30. Rejects with OpmError, or
   * with the signal's reason.
   */
  async usage({ from, to, signal }: UsageOptions = {}): Promise<DayUsage[]> {
    this.#assertOpen();
    const days = { ...(from !== undefined && { from: toDay(from) }), ...(to !== undefined && { to: toDay(to) }) };
    const answer = await this.#read(get(`/usage?${new URLSearchParams(days)}`), { signal });
    return readList<DayUsage>(answer, 'days');
  }

  /** The active keys of your project, newest first. Rejects with OpmError, or with the signal's reason. */
  async keys(options?: CallOptions): Promise<ProjectKey[]> {
    this.#assertOpen();
    return readList<ProjectKey>(await this.#read(get('/keys'), options), 'keys');
  }

  /** Checks the address and the key. Rejects with OpmError, or with the signal's reason. */
  async ping(options?: CallOptions): Promise<void> {
    this.#assertOpen();
    const answer = await this.#read(get('/ping'), options);
    if (answer.statusCode !== 200 || !isPong(answer.body)) throw toError(answer);
  }

  /** Resolves when all sends and erasures so far have settled. Never rejects: each of them has its own promise. */
  flush(): Promise<void> {
    return this.#writes.settled();
  }

  /**
   * Resolves when there is room for another send or erasure, for one waiting caller after the other. Make the call at
   * once: after a turn of the event loop, the place goes to another caller, and your call may get QueueFullError.
   */
  ready(): Promise<void> {
    return this.#writes.ready();
  }

  /** Rejects new calls, waits for the open ones and closes the connections. Safe to call twice. */
  async close({ timeoutMs }: CloseOptions = {}): Promise<void> {
    if (timeoutMs !== undefined && !(timeoutMs >= 0)) throw new TypeError('timeoutMs must be a number of at least 0');
    this.#isClosed = true;
    const isBounded = timeoutMs !== undefined && timeoutMs <= MAX_TIMER_MS;
    const timer = isBounded ? setTimeout(() => this.#rejectOpenCalls(), timeoutMs) : undefined;
    await Promise.all([this.#writes.settled(), this.#reads.drained()]);
    clearTimeout(timer);
    this.#transport.close();
  }

  #rejectOpenCalls(): void {
    const error = new ClosedError('the client was closed before the call completed');
    this.#writes.rejectAll(error);
    this.#reads.rejectAll(error);
  }

  #assertOpen(): void {
    if (this.#isClosed) throw new ClosedError('the client is closed');
  }
}

const get = (path: string): Request => ({ method: 'GET', path });

/** Keeps a request below the server's 1 MiB even if each id has 255 characters that JSON escapes. */
const RECEIPTS_PER_REQUEST = 600;

/** Entries per request of `refused`: the most that the server allows. */
const PAGE_LIMIT = '1000';

type Settings = Required<Omit<OpmClientOptions, 'url' | 'agent'>> & { url: URL; agent: Agent | undefined };

/** @throws TypeError that names the invalid option, never its value */
function parseOptions(options: OpmClientOptions): Settings {
  const { url, apiKey, timeoutMs = 10_000, deadlineMs = 60_000, maxQueued = 10_000, maxInFlight = 4 } = options;
  const { agent, compress = true } = options;
  if (typeof apiKey !== 'string' || !/^[\x21-\x7e]+$/.test(apiKey)) {
    throw new TypeError('apiKey must be a string of visible ASCII characters');
  }
  if (typeof compress !== 'boolean') throw new TypeError('compress must be true or false');
  return {
    url: parseUrl(url),
    apiKey,
    timeoutMs: parseCount('timeoutMs', timeoutMs, 1),
    deadlineMs: parseCount('deadlineMs', deadlineMs, 0),
    maxQueued: parseCount('maxQueued', maxQueued, 1),
    maxInFlight: parseCount('maxInFlight', maxInFlight, 1),
    agent: agent as Agent | undefined,
    compress,
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

function parseCount(name: string, value: number, min: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= MAX_TIMER_MS) return value;
  throw new TypeError(`${name} must be a whole number from ${min} to ${MAX_TIMER_MS}`);
}
