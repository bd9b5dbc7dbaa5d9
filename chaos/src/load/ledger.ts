import { FIELDS, type Field } from '@opm/core';

/** What became of an entry, as its sender knows it. */
export type Outcome =
  /** Answered 2xx: its effect must be there. */
  | 'acknowledged'
  /** Answered with a promise that it was not accepted: its effect must not be there. */
  | 'refused'
  /** No answer, or one that leaves it open. */
  | 'unknown';

/** One entry that was sent. */
export type Sent = {
  /** Unlike any other; its values are made of it. */
  id: number;
  /** Of the ledger: see `toCustomer`. */
  customerId: string;
  /** The fields that it gives; none where it erases. */
  fields: readonly Field[];
  erases: boolean;
  /** Milliseconds on the sender's clock, which never goes back. */
  sentAt: number;
  /** When its answer was there; Infinity where none came. */
  answeredAt: number;
  outcome: Outcome;
  status: number;
  /** The request that brought it, where that brought more than one: they apply in the order of their ids. */
  batch?: number;
  /** How many effects it may have had, at any time since it was sent, beside the one that its answer tells of. */
  repeats?: number;
  /** It was sent more than once, and was told the first answer again. */
  isReplayed?: true;
};

/** Partners have customers with the same ids: in the ledger, each begins with its partner's number. */
export const toCustomer = (partner: number, id: string): string => `${partner}/${id}`;

export function parseCustomer(customerId: string): { partner: number; id: string } {
  const [partner, id = ''] = customerId.split('/');
  return { partner: Number(partner), id };
}

/** All that was sent, by customer. */
export class Ledger {
  readonly customers = new Map<string, Sent[]>();
  readonly counts: Record<Outcome, number> = { acknowledged: 0, refused: 0, unknown: 0 };
  #lastId = 0;

  open({
    customerId,
    fields,
    erases,
    batch,
  }: Pick<Sent, 'customerId' | 'fields' | 'erases'> & { batch?: number | undefined }): Sent {
    const sent: Sent = {
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

  answer(sent: Sent, outcome: Outcome, status: number): void {
    this.counts.unknown--;
    this.counts[outcome]++;
    sent.outcome = outcome;
    sent.status = status;
    sent.answeredAt = performance.now();
  }
}

const LETTER: Record<Field, string> = { email: 'e', phone: 'p', firstName: 'f', lastName: 'l', ip: 'i' };

/** The value that an entry gives to a field: no other entry gives it. */
export const toValue = (id: number, field: Field): string => LETTER[field] + id;

/** The id of the entry that gave this value to this field; undefined where none can have. */
export function parseValue(value: string, field: Field): number | undefined {
  const [letter, digits] = [value.slice(0, 1), value.slice(1)];
  return letter === LETTER[field] && /^[1-9]\d*$/.test(digits) ? Number(digits) : undefined;
}

/** The sets of fields that an entry may give: every one with an email or a phone. */
export const FIELD_SETS: readonly Field[][] = Array.from({ length: 2 ** FIELDS.length }, (_, bits) =>
  FIELDS.filter((_field, i) => bits & (1 << i)),
).filter((fields) => fields.includes('email') || fields.includes('phone'));
