import { FIELD_PROPERTIES } from '@opm/contract';
import { FIELDS, type Field } from '@opm/core';

/** The outcome of an entry, as far as its sender knows. */
type Outcome =
  /** Answered 2xx: the entry must have taken effect. */
  | 'acknowledged'
  /** Answered with a promise that it was not accepted: the entry must have no effect. */
  | 'refused'
  /** No answer, or one that leaves the outcome open. */
  | 'unknown';

/** An entry that was sent. */
export type SentEntry = {
  /** Unique; the values of the entry contain it. */
  id: number;
  /** The ledger's customer id, see `toCustomer`. */
  customerId: string;
  /** The fields that the entry gives; empty for an erasure. */
  fields: readonly Field[];
  erases: boolean;
  /** In ms on the sender's monotonic clock. */
  sentAt: number;
  /** When its answer arrived; Infinity without an answer. */
  answeredAt: number;
  outcome: Outcome;
  status: number;
  /** Number of the request, if it was a batch. The entries of a batch apply in the order of their ids. */
  batch?: number;
  /**
   * How many effects the entry may have had, at any time since it was sent, besides the one that was answered: attempts
   * with one idempotency key, if the store lost what it remembers of keys between them.
   */
  repeats?: number;
  /** How many attempts with its idempotency key, before the answered one, may have been accepted. */
  open?: number;
  /** When it was accepted, as an answer that its client then ignored shows, or a value of it in the customer's row. */
  knownAt?: number;
  /** The entry about the same customer that was sent and acknowledged before this one was repeated. */
  overtakenBy?: number;
  /** Its request was repeated and got the first answer again. */
  isReplayed?: true;
  /** The status of a repeat that was no replay, if it is another one. */
  otherStatus?: number;
  /** The different receipts of the answers that acknowledged it. */
  receipts?: string[];
};

/** The ledger's id of a customer. It begins with the partner's number, because partners use the same customer ids. */
export const toCustomer = (partner: number, id: string): string => `${partner}/${id}`;

export function parseCustomer(customerId: string): { partner: number; id: string } {
  const [partner, id = ''] = customerId.split('/');
  return { partner: Number(partner), id };
}

/** Everything that was sent, by customer. */
export class Ledger {
  readonly customers = new Map<string, SentEntry[]>();
  readonly counts: Record<Outcome, number> = { acknowledged: 0, refused: 0, unknown: 0 };
  /** Grows by one before the store loses what it remembers of idempotency keys, and by one after that. */
  losses = 0;
  #lastId = 0;

  open({
    customerId,
    fields,
    erases,
    batch,
  }: Pick<SentEntry, 'customerId' | 'fields' | 'erases'> & { batch?: number | undefined }): SentEntry {
    const sent: SentEntry = {
      id: ++this.#lastId,
      customerId,
      fields,
      erases,
      sentAt: performance.now(),
      answeredAt: Number.POSITIVE_INFINITY,
      outcome: 'unknown',
      status: 0,
      ...(batch !== undefined && { batch }),
    };
    const known = this.customers.get(customerId);
    if (known) known.push(sent);
    else this.customers.set(customerId, [sent]);
    this.counts.unknown++;
    return sent;
  }

  /** Whether the store may have lost keys since `losses` was this number. */
  hasLost(losses: number): boolean {
    return losses !== this.losses || losses % 2 === 1;
  }

  answer(sent: SentEntry, outcome: Outcome, status: number): void {
    this.counts[sent.outcome]--;
    this.counts[outcome]++;
    sent.outcome = outcome;
    sent.status = status;
    sent.answeredAt = performance.now();
  }

  /** Adds another answer that acknowledges the entry. A customer created by either counts as created. */
  answerAgain(sent: SentEntry, status: number): void {
    if (sent.outcome !== 'acknowledged') this.answer(sent, 'acknowledged', status);
    if (status === sent.status) return;
    sent.otherStatus = status;
    if (status === 201) sent.status = status;
  }
}

/** Adds the receipts of an answer to the entries of its request. */
export function addReceipts(entries: SentEntry[], answers: Answer[]): void {
  for (const [i, entry] of entries.entries()) {
    const { receipt } = answers[i] ?? {};
    if (receipt && !entry.receipts?.includes(receipt)) entry.receipts = [...(entry.receipts ?? []), receipt];
  }
}

/** The value that an entry gives to a field. It is unique to the entry. */
export const toValue = (id: number, field: Field): string => field + id;

/** The id of the entry that gave this value to this field; undefined if no entry can have. */
export function parseValue(value: string, field: Field): number | undefined {
  const digits = value.startsWith(field) ? value.slice(field.length) : '';
  return /^[1-9]\d*$/.test(digits) ? Number(digits) : undefined;
}

/** All sets of fields that an entry may give: those with an email or a phone. */
export const FIELD_SETS: readonly Field[][] = Array.from({ length: 2 ** FIELDS.length }, (_, bits) =>
  FIELDS.filter((_field, i) => bits & (1 << i)),
).filter((fields) => fields.includes('email') || fields.includes('phone'));

export type Answer = {
  status: number;
  text: string;
  /** Whether this is the first answer to its idempotency key. */
  isReplayed: boolean;
  receipt?: string | undefined;
};

/**
 * The answer to each entry of a request. If the response has no results per entry, it is the answer to every entry.
 * Returns an empty array if the results cannot be parsed.
 */
export function toAnswers(answer: Answer, entries: number): Answer[] {
  if (answer.status !== 207) return Array.from({ length: entries }, () => answer);
  const { isReplayed } = answer;
  const { results, receipts = [] } = parseBatch(answer.text);
  return results.map((result, i) => ({
    status: result.statusCode,
    text: JSON.stringify(result),
    isReplayed,
    receipt: receipts[i] ?? undefined,
  }));
}

function parseBatch(text: string): { results: { statusCode: number }[]; receipts?: (string | null)[] } {
  try {
    return JSON.parse(text);
  } catch {
    return { results: [] };
  }
}

/**
 * Whether the answer to a repeat has the results of the first answer. If another attempt was `isOpen`, a 202 may have
 * become a 201 or 404, because that attempt knew that the customer was new. Receipts differ if the store was emptied.
 */
export function isReplayOf(first: Answer, again: Answer, isOpen: boolean): boolean {
  const [before, after] = [toAnswers(first, 1), toAnswers(again, 1)];
  const wasUnsure = (i: number) => isOpen && before[i]?.status === 202;
  return (
    before.length === after.length &&
    after.every(({ status, text }, i) => text === before[i]?.text || (wasUnsure(i) && [201, 404].includes(status)))
  );
}

const isUndecided = ({ text }: Answer) => text.includes(UNDECIDED);

export const isAccepted = (answer: Answer) => answer.status < 300 && !mustRetry(answer);

/** Whether a request with this answer may have had an unknown effect. */
export function mayHaveActed(answer: Answer | undefined): boolean {
  if (!answer || answer.status === 207) return true;
  return answer.status === 503 && isUndecided(answer);
}

function mustRetry(answer: Answer): boolean {
  if (answer.status === 207) return toAnswers(answer, 0).some(({ status }) => status === 503);
  return answer.status === 503;
}

type DecidedRequest = {
  /** Undefined if the outcome is unknown. */
  answer: Answer | undefined;
  /** How many attempts before the answered one may have been accepted. */
  open: number;
};

const MAX_ATTEMPTS = 8;
/**
 * Sends a request with the same idempotency key until it is decided, as a partner does, at most eight times.
 * @param pause is called between two attempts, and with true if the answer of the last one was lost
 */
export async function sendUntilDecided(
  send: () => Promise<Answer | undefined>,
  pause: (isLost: boolean) => Promise<void>,
): Promise<DecidedRequest> {
  let open = 0;
  for (let attempt = 1; ; attempt++) {
    const answer = await send();
    if (answer && !mustRetry(answer)) return { answer, open };
    if (mayHaveActed(answer)) open++;
    if (attempt === MAX_ATTEMPTS) return { answer: open > 0 ? undefined : answer, open };
    await pause(answer === undefined);
  }
}

/** This 503 leaves open whether the queue has the entry. Every other 503 promises that the entry was not accepted. */
const UNDECIDED = 'entry was not accepted, try again';

/** After a Redis was full, a project may have more idempotency keys than its limit allows. */
const TOO_MANY_KEYS = 'too many idempotency keys';

/** The outcome that an answer gives an entry; undefined for an answer that no fault excuses. */
export function toOutcome({ erases }: SentEntry, answer: Answer): Outcome | undefined {
  const { status, text } = answer;
  if (status === 202 || (status === 201 && !erases)) return 'acknowledged';
  if (status === 404 && erases) return 'refused';
  if (status === 503) return isUndecided(answer) ? 'unknown' : 'refused';
  if (status === 429 && text.includes(TOO_MANY_KEYS)) return 'refused';
  return undefined;
}

export type Call = { method: 'POST' | 'DELETE' | 'GET'; path: string; body?: string };

export const toReading = ({ customerId }: SentEntry): Call => ({
  method: 'GET',
  path: `/entry/${parseCustomer(customerId).id}`,
});

/** Whether the customer that was read has a value of this entry. */
export function hasValueOf({ id, fields }: SentEntry, { status, text }: Answer): boolean {
  return status === 200 && fields.some((field) => text.includes(`"${toValue(id, field)}"`));
}

export function toSingle(sent: SentEntry): Call {
  return sent.erases
    ? { method: 'DELETE', path: `/entry/${parseCustomer(sent.customerId).id}` }
    : { method: 'POST', path: '/entry', body: JSON.stringify(toBody(sent)) };
}

export function toBatch(all: SentEntry[]): Call {
  return { method: 'POST', path: '/entries', body: JSON.stringify(all.map(toBody)) };
}

function toBody({ customerId, fields, id }: SentEntry): Record<string, string> {
  const { id: own } = parseCustomer(customerId);
  return {
    customerId: own,
    ...Object.fromEntries(fields.map((field) => [FIELD_PROPERTIES[field].property, toValue(id, field)])),
  };
}
