import type { EntryFields, Field } from '@opm/core';
import { Ajv, type ErrorObject } from 'ajv';
import { Fault } from './faults.js';

/** What a partner sends with POST /entry, after parsing: `null` and `""` are gone, the id is a string. */
export type Entry = { customerId: string; fields: EntryFields };

const text = (maxLength: number) => ({ type: 'string', nullable: true, maxLength, storable: true }) as const;

/** The body of POST /entry. Properties that are not listed are ignored. */
export const entrySchema = {
  type: 'object',
  required: ['customerId'],
  properties: {
    customerId: {
      type: ['string', 'integer'],
      minLength: 1,
      maxLength: 255,
      minimum: Number.MIN_SAFE_INTEGER,
      maximum: Number.MAX_SAFE_INTEGER,
      storable: true,
    },
    customerEmail: text(320),
    customerPhone: text(64),
    customerFirstName: text(255),
    customerLastName: text(255),
    customerIP: text(64),
  },
} as const;

const FIELD_OF_PROPERTY: Record<Exclude<keyof typeof entrySchema.properties, 'customerId'>, Field> = {
  customerEmail: 'email',
  customerPhone: 'phone',
  customerFirstName: 'firstName',
  customerLastName: 'lastName',
  customerIP: 'ip',
};

export const NOT_STORABLE = 'must not contain U+0000 or unpaired surrogates';

const ajv = new Ajv({ allowUnionTypes: true });
ajv.addKeyword({
  keyword: 'storable',
  type: 'string',
  schemaType: 'boolean',
  // PostgreSQL's text holds neither: U+0000 ends a C string, and an unpaired surrogate has no UTF-8.
  validate: (_: true, value: string) => !value.includes('\0') && value.isWellFormed(),
  error: { message: NOT_STORABLE },
});
const isCustomerId = ajv.compile<string>(entrySchema.properties.customerId);
const isEntryBody = ajv.compile<{ customerId: string | number } & Record<string, unknown>>(entrySchema);

/** Reads a parsed JSON body. @throws Fault BODY_INVALID, which names the first property that is wrong */
export function parseEntry(body: unknown): Entry {
  if (!isEntryBody(body)) throw new Fault('BODY_INVALID', { message: toMessage('body', isEntryBody.errors?.[0]) });
  const fields: EntryFields = {};
  for (const [property, field] of FIELD_ENTRIES) {
    const value = body[property];
    if (typeof value === 'string' && value !== '' && Object.hasOwn(body, property)) fields[field] = value;
  }
  if (fields.email === undefined && fields.phone === undefined) {
    throw new Fault('BODY_INVALID', {
      message: "body must have either required property 'customerEmail' or 'customerPhone'",
    });
  }
  return { customerId: String(body.customerId), fields };
}

/** The customer that a path names, decoded; the rules are those of the body. @throws Fault PATH_INVALID */
export function parseCustomerId(customerId: unknown): string {
  if (isCustomerId(customerId)) return customerId;
  throw new Fault('PATH_INVALID', { message: toMessage('path/customerId', isCustomerId.errors?.[0]) });
}

/** Each property that is a field of the customer, with its name there. */
export const FIELD_ENTRIES = Object.entries(FIELD_OF_PROPERTY) as [string, Field][];

function toMessage(what: string, error: ErrorObject | undefined): string {
  return `${what}${error?.instancePath ?? ''} ${error?.message ?? 'is invalid'}`;
}
