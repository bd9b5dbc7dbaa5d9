import { Fault } from '@opm/contract';
import { isAddressRule, type KeyRules, MAX_KEY_ADDRESSES, SCOPES } from '@opm/core';
import { type AuditRecord, type Role, type Store, StoreError } from '@opm/store';
import type { Request, RequestHandler, Response } from 'express';
import type { ComponentChildren } from 'preact';
import { type Notices, operatorOf, recordRequest, requireRole } from '../session.js';
import { Back, sendPage } from './components.js';

/** What the operator gave cannot be done. The message is shown. */
export class Problem extends Error {
  override readonly name = 'Problem';
}

/** A change whose input is valid. `run` returns a page, or what the page `back` says once. */
export type Change = Pick<AuditRecord, 'target' | 'details'> & {
  /** Instead of the handler's. */
  action?: string;
  back: string;
  run(): Promise<{ title: string; children: ComponentChildren } | string>;
};

const READ_ONLY = 'this console is read-only; CONSOLE_READ_ONLY=false allows changes';

export type HandleChange = ReturnType<typeof createHandleChange>;

/**
 * Creates handlers of forms. A handler checks the role and the input, writes the audit log, and only then makes the
 * change. With `isReading`, a read-only console allows it.
 * @param prepare throws Problem if the input is not valid
 */
export function createHandleChange({
  audit,
  notices,
  onChanged,
}: Pick<Store, 'audit'> & { notices: Notices; onChanged: () => void }) {
  return (
    role: Role,
    action: string,
    prepare: (request: Request, response: Response) => Promise<Change>,
    { isReading = false } = {},
  ): RequestHandler[] => [
    requireRole(role),
    async (request, response) => {
      try {
        if (!isReading && operatorOf(response).isReadOnly) throw new Problem(READ_ONLY);
        const { back, run, ...record } = await prepare(request, response);
        const { name: actor } = operatorOf(response);
        await recordRequest(audit, request, { action, ...record, actor });
        const shown = await run().finally(onChanged);
        if (typeof shown !== 'string') return sendPage(request, response, shown);
        notices.add(response, shown);
        response.redirect(303, back);
      } catch (error) {
        const [status, text] = toProblem(error);
        sendPage(request, response, { title: 'Not done', children: <Refused text={text} request={request} /> }, status);
      }
    },
  ];
}

function Refused({ text, request }: { text: string; request: Request }) {
  const from = request.get('referer') ?? '';
  const { pathname, search, host } = URL.canParse(from) ? new URL(from) : {};
  return (
    <>
      <p role="alert">{`${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`}</p>
      {host === request.get('host') && <Back to={`${pathname}${search}`} />}
    </>
  );
}

function toProblem(error: unknown): [status: number, text: string] {
  if (error instanceof Problem) return [400, error.message];
  if (error instanceof Fault) return [503, 'the queue does not answer'];
  // Without a cause, it is the store's own: the input is not valid. PostgreSQL's messages may quote values.
  if (error instanceof StoreError && error.cause === undefined) return [400, error.message];
  throw error;
}

const MAX_FIELD = 300;
/** Room for the addresses of a key. */
export const MAX_RULES = 50 * MAX_KEY_ADDRESSES;

/** A field of the form without white space around it; empty if it is missing. @throws Problem */
export function fieldOf(request: Request, name: string, maxLength = MAX_FIELD): string {
  const value: unknown = request.body?.[name] ?? '';
  if (typeof value !== 'string' || value.length > maxLength || value.includes('\0')) {
    throw new Problem(`${name} must be a text of at most ${maxLength} characters`);
  }
  return value.trim();
}

/** A whole number of 1 or more; undefined if the field is empty. @throws Problem */
export function countOf(request: Request, name: string): number | undefined {
  const text = fieldOf(request, name);
  if (text === '') return undefined;
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new Problem(`${name} must be a whole number`);
  return Number(text);
}

/**
 * The rules of a new key. The fields hold words with spaces or commas between them; an empty one is left out, and the
 * address `any` stands for no restriction. @throws Problem
 */
export function rulesOf(request: Request): Partial<KeyRules> {
  const wordsOf = (name: string): string[] => fieldOf(request, name, MAX_RULES).match(/[^\s,]+/g) ?? [];
  const [names, addresses] = [wordsOf('scopes'), wordsOf('addresses')];
  const scopes = SCOPES.filter((scope) => names.includes(scope));
  if (names.some((name) => !scopes.some((scope) => scope === name))) {
    throw new Problem(`a key may ${SCOPES.join(', ')}, and nothing else`);
  }
  const isAny = addresses.join() === 'any';
  if (addresses.length > MAX_KEY_ADDRESSES || !(isAny || addresses.every(isAddressRule))) {
    throw new Problem(
      `addresses must be any, or at most ${MAX_KEY_ADDRESSES} IP addresses and blocks such as 203.0.113.0/24`,
    );
  }
  return { ...(scopes.length > 0 && { scopes }), ...(addresses.length > 0 && { addresses: isAny ? [] : addresses }) };
}

/** @throws Problem unless the box of `Confirm` was ticked */
export function assertConfirmed(request: Request): void {
  if (fieldOf(request, 'confirmed') === '') throw new Problem('tick the box to confirm');
}
