import type { CallOptions } from './call.js';
import type { Customer, FoundCustomer } from './customer.js';
import { Dispatcher } from './dispatcher.js';
import { ClosedError, toError } from './errors.js';
import { createHttpTransport, type Transport } from './http-transport.js';
import { OpenCalls } from './open-calls.js';
import { MAX_TIMER_MS, type OpmClientOptions, parseOptions } from './options.js';
import { createReader, type Reader } from './reader.js';
import { toEntry } from './to-entry.js';
import { isUnknownCustomer, toPath } from './to-path.js';

export interface CloseOptions {
  /** After so many milliseconds, what is still open fails with ClosedError; without it, the deadlines decide. */
  timeoutMs?: number;
}

/**
 * Sends customers to OPM Partners API. Calls that are made at the same time share requests; failures that may pass are
 * tried again until the deadline. What is done to a customer takes effect in the order of the calls.
 */
export class OpmClient {
  readonly #transport: Transport;
  readonly #dispatcher: Dispatcher;
  readonly #read: Reader;
  readonly #writes: OpenCalls;
  readonly #reads: OpenCalls;
  #isClosed = false;

  /** @throws TypeError for options that cannot work */
  constructor(options: OpmClientOptions) {
    const settings = parseOptions(options);
    const { deadlineMs, maxQueued, maxInFlight } = settings;
    this.#transport = createHttpTransport({ ...settings, maxConnections: 2 * maxInFlight });
    this.#dispatcher = new Dispatcher({ transport: this.#transport, maxInFlight });
    this.#writes = new OpenCalls({ deadlineMs, max: maxQueued, onNone: () => this.#dispatcher.rest() });
    this.#reads = new OpenCalls({ deadlineMs, max: maxQueued });
    this.#read = createReader({ transport: this.#transport, calls: this.#reads, maxInFlight });
  }

  /**
   * Creates or updates a customer. Resolves once the entry is safely queued; `created` where the customer was new.
   * Rejects with OpmError, or with the signal's reason.
   */
  async send(customer: Customer, { signal }: CallOptions = {}): Promise<{ created: boolean }> {
    this.#assertOpen();
    const entry = toEntry(customer);
    return this.#writes.open(signal, (call) => {
      this.#dispatcher.add({ customerId: String(customer.customerId), entry, call });
    });
  }

  /**
   * Erases a customer and all that was sent of it before; `erased` is false where there was nothing to erase.
   * Rejects with OpmError, or with the signal's reason.
   */
  async erase(customerId: string | number, { signal }: CallOptions = {}): Promise<{ erased: boolean }> {
    this.#assertOpen();
    return this.#writes.open(signal, (call) => {
      this.#dispatcher.add({ customerId: String(customerId), call });
    });
  }

  /** Reads a customer; undefined where there is none. Rejects with OpmError, or with the signal's reason. */
  async get(customerId: string | number, options?: CallOptions): Promise<FoundCustomer | undefined> {
    this.#assertOpen();
    const answer = await this.#read(toPath(customerId), options);
    if (isUnknownCustomer(answer)) return undefined;
    if (answer.statusCode !== 200 || !isFound(answer.body)) throw toError(answer);
    const { customer, pending } = answer.body;
    return { customer, pending };
  }

  /** Checks the address and the key. Rejects with OpmError, or with the signal's reason. */
  async ping(options?: CallOptions): Promise<void> {
    this.#assertOpen();
    const answer = await this.#read('/ping', options);
    if (answer.statusCode !== 200 || !isPong(answer.body)) throw toError(answer);
  }

  /** Resolves when all sends and erasures up to now are settled. Never rejects: each of them has its own promise. */
  flush(): Promise<void> {
    return this.#writes.settled();
  }

  /** Resolves when one more send or erasure is not too many. Of several who wait, one may still come too late. */
  ready(): Promise<void> {
    return this.#writes.ready();
  }

  /** Takes no more calls, waits for the open ones, and ends the connections. Safe to call twice. */
  async close({ timeoutMs }: CloseOptions = {}): Promise<void> {
    if (timeoutMs !== undefined && !(timeoutMs >= 0)) throw new TypeError('timeoutMs must be a number from 0 on');
    this.#isClosed = true;
    const isBounded = timeoutMs !== undefined && timeoutMs <= MAX_TIMER_MS;
    const timer = isBounded ? setTimeout(() => this.#giveUp(), timeoutMs) : undefined;
    await Promise.all([this.#writes.settled(), this.#reads.settled()]);
    clearTimeout(timer);
    this.#transport.close();
  }

  #giveUp(): void {
    const error = new ClosedError('the client was closed before the call was done');
    this.#writes.rejectAll(error);
    this.#reads.rejectAll(error);
  }

  #assertOpen(): void {
    if (this.#isClosed) throw new ClosedError('the client is closed');
  }
}

/** Some other server may answer 200 to whatever it is asked. */
function isPong(body: unknown): boolean {
  return (body as { message?: unknown } | null | undefined)?.message === 'pong';
}

function isFound(body: unknown): body is FoundCustomer {
  const { customer, pending } = (body ?? {}) as Partial<Record<keyof FoundCustomer, unknown>>;
  return typeof customer === 'object' && customer !== null && typeof pending === 'boolean';
}
