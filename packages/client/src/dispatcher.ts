import { randomUUID } from 'node:crypto';
import { type Call, toSignal } from './call.js';
import { type OpmError, toError } from './errors.js';
import type { Transport } from './http-transport.js';
import { Lanes } from './lanes.js';
import { MAX_TIMER_MS } from './options.js';
import { Pace } from './pace.js';
import { isRateLimited, requestWithRetries } from './retries.js';
import { type EntryTask, type Sent, sendEntries } from './send-entries.js';
import { isUnknownCustomer, toPath } from './to-path.js';

type Task = EntryTask | ErasureTask;
export type ErasureTask = { customerId: string; entry?: undefined; call: Call<{ erased: boolean }> };

const LIMITS = { maxEntries: 1_000, maxBytes: 1024 * 1024 };

/**
 * Group commit: what is added in one turn of the event loop, or while all `maxInFlight` requests are under way, goes
 * together. There is no timer, so a lone entry goes at once; but where the project's limit was reached, all wait for it.
 */
export class Dispatcher {
  readonly #transport: Transport;
  readonly #maxInFlight: number;
  readonly #lanes = new Lanes<Task>(LIMITS);
  readonly #pace = new Pace();
  /** What the project's limit was told with, since nothing was taken. */
  #refusal: OpmError | undefined;
  #pause: NodeJS.Timeout | undefined;
  #inFlight = 0;
  #isScheduled = false;

  constructor({ transport, maxInFlight }: { transport: Transport; maxInFlight: number }) {
    this.#transport = transport;
    this.#maxInFlight = maxInFlight;
  }

  add(task: Task): void {
    if (this.#pace.waitMs() > 0 && !this.#isWorthWaiting(task)) return;
    this.#lanes.add(task);
    this.#schedule();
  }

  /** To be called when no call is open, so that no pause keeps the process alive. */
  rest(): void {
    clearTimeout(this.#pause);
    this.#pause = undefined;
  }

  #schedule(): void {
    if (this.#isScheduled || this.#pause || !this.#hasRoom()) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#start();
    });
  }

  #start(): void {
    while (this.#hasRoom()) {
      const waitMs = this.#pace.waitMs();
      if (waitMs > 0) {
        this.#pauseFor(waitMs);
        return;
      }
      const maxEntries = this.#pace.maxEntries(LIMITS.maxEntries);
      const tasks = this.#lanes.take({ maxEntries, isWanted: this.#isWanted });
      if (tasks.length === 0) {
        if (this.#inFlight === 0) this.#pace.onIdle();
        return;
      }
      void this.#run(tasks);
    }
  }

  #hasRoom(): boolean {
    return this.#inFlight < (this.#pace.isLimited ? 1 : this.#maxInFlight);
  }

  /** Who could be sent after their deadline only, fails now. */
  #pauseFor(ms: number): void {
    if (this.#pause || !this.#lanes.isWaiting(this.#isWorthWaiting)) return;
    this.#pause = setTimeout(
      () => {
        this.#pause = undefined;
        this.#schedule();
      },
      Math.min(Math.ceil(ms), MAX_TIMER_MS),
    );
  }

  readonly #isWanted = (task: Task): boolean => this.#mayWait(task, 0);
  readonly #isWorthWaiting = (task: Task): boolean => this.#mayWait(task, this.#pace.waitMs());

  /** Deadlines are for those who wait in vain, so they count from when the server last took something. */
  #mayWait({ call }: Task, ms: number): boolean {
    call.extend(this.#pace.takenAt);
    return call.mayWait(ms, this.#refusal);
  }

  async #run(tasks: Task[]): Promise<void> {
    let again: readonly Task[] = [];
    this.#inFlight++;
    try {
      const erasure = tasks.find(isErasure);
      again = this.#pass(
        erasure ? await this.#erase(erasure) : await sendEntries(this.#transport, tasks.filter(isEntry)),
      );
    } catch (error) {
      for (const { call } of tasks) call.reject(error);
    } finally {
      this.#inFlight--;
      this.#lanes.release(tasks, again);
      this.#schedule();
    }
  }

  /** @returns what has to be sent again */
  #pass({ answer, ...sent }: Sent<Task>): readonly Task[] {
    this.#refusal = undefined;
    if (!isRateLimited(answer)) this.#pace.onTaken(answer);
    if (!sent.limited) return [];
    this.#refusal = sent.refusal;
    const ms = this.#pace.onRefused(answer);
    return sent.limited.filter((task) => this.#mayWait(task, ms));
  }

  async #erase(task: ErasureTask): Promise<Sent<ErasureTask>> {
    const { customerId, call } = task;
    const request = { method: 'DELETE', path: toPath(customerId), idempotencyKey: randomUUID() } as const;
    const mayWait = call.mayWait.bind(call);
    const answer = await requestWithRetries(this.#transport, request, {
      mayWait,
      signal: toSignal([call]),
      isFinal: isRateLimited,
    });
    if (isRateLimited(answer)) return { limited: [task], refusal: toError(answer), answer };
    const isErased = answer.statusCode === 202;
    if (!isErased && !isUnknownCustomer(answer)) throw toError(answer);
    call.resolve({ erased: isErased });
    return { answer };
  }
}

const isErasure = (task: Task): task is ErasureTask => task.entry === undefined;
const isEntry = (task: Task): task is EntryTask => task.entry !== undefined;
