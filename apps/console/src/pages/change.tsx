import { Fault } from '@opm/contract';
import { isAddressRule, type KeyRules, MAX_KEY_ADDRESSES, SCOPES } from '@opm/core';
import { toNumber } from '@opm/operations';
import { type AuditOutcome, type AuditRecord, type Role, type Store, StoreError } from '@opm/store';
import type { Request, RequestHandler, Response } from 'express';
import { LRUCache } from 'lru-cache';
import type { ComponentChildren } from 'preact';
import { type ChangeAction, hasRole, LEAST_ROLES, operatorOf, recordOutcome, recordRequest } from '../session.js';
import { Back, sendPage } from './components.js';

/**
 * The operator's input cannot be used, or the change cannot be made. The page shows the message, see {@link
 * toSentence}.
 */
export class FormError extends Error {
  override readonly name = 'FormError';
}

/**
 * A change whose input is valid. `run` returns a page, or a notice that the page `back` shows once; `''` for no notice.
 */
export type Change = Pick<AuditRecord, 'target' | 'details'> & {
  /** Replaces the handler's action. */
  action?: string;
  back: string;
  run(): Promise<{ title: string; children: ComponentChildren } | string>;
};

/** Shows operators without this role or a higher one a page with 403. */
export function requirePageRole(role: Role): RequestHandler {
  return (request, response, next) => {
    const operator = operatorOf(response);
    if (hasRole(operator, role)) return next();
    const needs = `This needs the role ${role}. You are ${operator.name}, with the role ${operator.role}.`;
    const children = <p role="alert">{`${needs} An admin can give you another role on the page Operators.`}</p>;
    sendPage(request, response, { title: 'Not allowed', children }, 403);
  };
}

const NOTICE_MS = 60_000;
const MAX_NOTICES = 1_000;

type Notices = ReturnType<typeof createNotices>;

/**
 * The results of changes, each for the next page of the same session. They are not in the URL, so no link can forge
 * one.
 */
export function createNotices() {
  const sessions = new LRUCache<string, string>({ max: MAX_NOTICES, ttl: NOTICE_MS });
  return {
    add: (response: Response, text: string): void => void sessions.set(operatorOf(response).csrfToken, text),
    /** The next call returns undefined. */
    take(response: Response): string | undefined {
      const { csrfToken } = operatorOf(response);
      const text = sessions.get(csrfToken);
      sessions.delete(csrfToken);
      return text;
    },
  };
}

const READ_ONLY = 'this console is read-only; CONSOLE_READ_ONLY=false allows changes';

export type HandleChange = ReturnType<typeof createHandleChange>;

/**
 * Creates handlers of forms. A handler checks the role and the input, writes the audit log, and only then makes the
 * change. If the change fails, the handler adds the outcome to the audit log. With `isReading`, a read-only console
 * allows it.
 * @param prepare throws FormError if the input is not valid
 */
export function createHandleChange({
  audit,
  notices,
  onChanged,
}: Pick<Store, 'audit'> & { notices: Notices; onChanged: () => void }) {
  return (
    action: ChangeAction,
    prepare: (request: Request, response: Response) => Promise<Change>,
    { isReading = false } = {},
  ): RequestHandler[] => [
    requirePageRole(LEAST_ROLES[action]),
    async (request, response) => {
      try {
        if (!isReading && operatorOf(response).isReadOnly) throw new FormError(READ_ONLY);
        const { back, run, ...record } = await prepare(request, response);
        const { details, ...row } = { action, ...record, actor: operatorOf(response).name };
        const attempt = await recordRequest(audit, request, { ...row, details });
        const shown = await run()
          .finally(onChanged)
          .catch(async (error) => {
            await recordOutcome(audit, request, { row, attempt, outcome: toOutcome(error) });
            throw error;
          });
        if (typeof shown !== 'string') return sendPage(request, response, shown);
        notices.add(response, shown);
        response.redirect(303, back);
      } catch (error) {
        const [status, text] = toProblem(error);
        const children = <Refused {...{ text, request, partner: response.locals.partner }} />;
        sendPage(request, response, { title: 'Not done', children }, status);
      }
    },
  ];
}

/** Names the partner on the page that reports a failed change. */
export const notePartner = (request: Request, name: string): void => {
  if (request.res) request.res.locals.partner = name;
};

/** `rate must be 1` → `Rate must be 1.` */
export const toSentence = (text: string): string => `${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`;

function Refused({ text, request, partner }: { text: string; request: Request; partner: string | undefined }) {
  const from = request.get('referer') ?? '';
  const { pathname, search, host } = URL.canParse(from) ? new URL(from) : {};
  return (
    <>
      <p role="alert">{toSentence(text)}</p>
      {partner !== undefined && <p>{`Nothing of the partner ${partner} was changed.`}</p>}
      {host === request.get('host') && <Back to={`${pathname}${search}`} />}
    </>
  );
}

/** Whether the error is about the input. Its message may be shown. */
const isRefusal = (error: unknown): error is Error =>
  error instanceof FormError || (error instanceof StoreError && error.isOwn);

const toOutcome = (error: unknown): AuditOutcome => (isRefusal(error) ? 'not done' : 'failed');

function toProblem(error: unknown): [status: number, text: string] {
  if (isRefusal(error)) return [400, error.message.replace(/^((?:an? |the )?)project\b/i, '$1partner')];
  if (error instanceof Fault) return [503, 'the queue does not answer'];
  throw error;
}

const MAX_FIELD = 300;
/** Maximum length of the field with a key's addresses. */
export const MAX_RULES = 50 * MAX_KEY_ADDRESSES;

/** The labels of fields whose label is not their name. */
const LABELS: Record<string, string> = {
  rate: 'entries per second',
  customer: 'customer id',
  project: 'partner',
  state: 'SQLSTATE',
  error: '“Error contains”',
  grace: '“The other keys”',
  addresses: '“From”',
  scopes: '“May”',
};
const labelOf = (name: string): string => LABELS[name] ?? name;

/** Removes spaces only: the name of an older partner may begin or end with other white space. */
export const trimSpaces = (text: string): string => text.replace(/^ +| +$/g, '');

/** A field of the form without spaces around it; empty if it is missing. @throws FormError */
export function fieldOf(request: Request, name: string, maxLength = MAX_FIELD): string {
  const value: unknown = request.body?.[name] ?? '';
  if (typeof value !== 'string' || value.length > maxLength || value.includes('\0')) {
    throw new FormError(`${labelOf(name)} must be a text of at most ${maxLength} characters`);
  }
  return trimSpaces(value);
}

const MAX_COUNT = 1_000_000;

/** A whole number from 1 to a million; undefined if the field is empty. @throws FormError */
export function countOf(request: Request, name: string): number | undefined {
  const text = fieldOf(request, name);
  if (text === '') return undefined;
  if (!/^[1-9]\d{0,6}$/.test(text) || Number(text) > MAX_COUNT) {
    throw new FormError(`${labelOf(name)} must be a whole number from 1 to ${toNumber(MAX_COUNT)}`);
  }
  return Number(text);
}

/**
 * The rules of a new key: a box for each scope, and addresses with spaces or commas between them. Without addresses,
 * requests may come from anywhere. @throws FormError
 */
export function rulesOf(request: Request): KeyRules {
  const scopes = SCOPES.filter((scope) => fieldOf(request, scope) !== '');
  if (scopes.length === 0) throw new FormError(`tick what the key may do: ${SCOPES.join(', ')}`);
  const addresses = fieldOf(request, 'addresses', MAX_RULES).match(/[^\s,]+/g) ?? [];
  if (addresses.length > MAX_KEY_ADDRESSES || !addresses.every(isAddressRule)) {
    throw new FormError(
      `“From” must be empty, or at most ${MAX_KEY_ADDRESSES} IP addresses and blocks such as 203.0.113.0/24`,
    );
  }
  return { scopes, addresses };
}

/** @throws FormError unless the box of `Confirm` was ticked */
export function assertConfirmed(request: Request): void {
  if (fieldOf(request, 'confirmed') === '') throw new FormError('tick the box to confirm');
}
