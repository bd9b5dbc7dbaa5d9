import { randomUUID } from 'node:crypto';
import { abortWhenSettled, type Call, MAX_TIMER_MS } from './call.js';
import { type EraseResult, isUnknownCustomer, toPath, withReceipt } from './customer.js';
import { CustomerQueues } from './customer-queues.js';
import { type Answer, type OpmError, toError } from './errors.js';
import type { Transport } from './http-transport.js';
import { Pace } from './pace.js';
import {
  type EntryTask,
  isRateLimited,
  type OnLimited,
  type RequestResult,
  requestWithRetries,
  sendEntries,
} from './send-entries.js';

type Task = EntryTask | ErasureTask;
type ErasureTask = { customerId: string; entry?: undefined; call: Call<EraseResult> };

const LIMITS = { maxEntries: 1_000, maxBytes: 1024 * 1024 };

/**
 * Group commit: tasks that are added in one turn of the event loop, or while `maxInFlight` requests are in flight,
 * share requests. There is no timer, so a lone entry is sent at once. After a 429, all tasks wait for the project's
 * limit.
 */
export class Dispatcher {
  readonly #transport: Transport;
  readonly #maxInFlight: number;
  readonly #queues = new CustomerQueues<Task>(LIMITS);
  readonly #pace = new Pace();
  /** The latest 429, until the server accepts something. */
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
    this.#queues.add(task);
    this.#schedule();
  }

  /** Cancels the pause, whose timer would keep the process alive. The client calls it when no call is open. */
  cancelPause(): void {
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
      const tasks = this.#queues.take({ maxEntries, isWanted: this.#isWanted });
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

  /** Waits, and rejects the tasks whose deadline is before the end of the pause. */
  #pauseFor(ms: number): void {
    if (this.#pause || !this.#queues.isWaiting(this.#isWorthWaiting)) return;
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

  /** Deadlines restart whenever the server accepts something, so a long queue fails no task while it makes progress. */
  #mayWait({ call }: Task, ms: number): boolean {
    call.extend(this.#pace.lastAcceptedAt);
    return call.mayWait(ms, this.#refusal);
  }

  async #run(tasks: Task[]): Promise<void> {
    let again: readonly Task[] = [];
    this.#inFlight++;
    try {
      const erasure = tasks.find(isErasure);
      const onLimited = (answer: Answer) => this.#onLimited(tasks, answer);
      const result = erasure
        ? await this.#erase(erasure, onLimited)
        : await sendEntries(this.#transport, tasks.filter(isEntry), onLimited);
      again = this.#handle(tasks, result);
    } catch (error) {
      for (const { call } of tasks) call.reject(error);
    } finally {
      this.#inFlight--;
      this.#queues.release(tasks, again);
      this.#schedule();
    }
  }

  /** Updates the pace. @returns the tasks to send again */
  #handle(tasks: readonly Task[], { answer, ...sent }: RequestResult<Task>): readonly Task[] {
    this.#refusal = undefined;
    if (!isRateLimited(answer)) this.#pace.onAccepted(answer);
    if (!sent.limited) return [];
    const ms = this.#onLimited(tasks, answer, sent.refusal);
    return sent.limited.filter((task) => this.#mayWait(task, ms));
  }

  /** Slows the pace after a 429. @returns the time that the next request has to wait, in ms */
  #onLimited(tasks: readonly Task[], answer: Answer, refusal = toError(answer)): number {
    this.#refusal = refusal;
    return this.#pace.onRateLimited(answer, tasks.length);
  }

  async #erase(task: ErasureTask, onLimited: OnLimited): Promise<RequestResult<ErasureTask>> {
    const { customerId, call } = task;
    const request = { method: 'DELETE', path: toPath(customerId), idempotencyKey: randomUUID() } as const;
    const mayWait = call.mayWait.bind(call);
    const answer = await requestWithRetries(this.#transport, request, {
      mayWait,
      signal: abortWhenSettled([call]),
      onLimited,
    });
    if (isRateLimited(answer)) return { limited: [task], refusal: toError(answer), answer };
    const isErased = answer.statusCode === 202;
    if (!isErased && !isUnknownCustomer(answer)) throw toError(answer);
    call.resolve({ erased: isErased, ...withReceipt(answer.receipt) });
    return { answer };
  }
}

const isErasure = (task: Task): task is ErasureTask => task.entry === undefined;
const isEntry = (task: Task): task is EntryTask => task.entry !== undefined;
