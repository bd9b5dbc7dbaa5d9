import type { Audit } from '@opm/store';
import { type Request, type Response, Router } from 'express';
import { LRUCache } from 'lru-cache';
import { MASK } from '../mask.js';
import { operatorOf, recordRequest } from '../session.js';
import { FormError, fieldOf, type HandleChange } from './change.js';
import { Form } from './components.js';

const REVEAL_MS = 10 * 60 * 1_000;
const MAX_REVEALS = 1_000;

export type Reveals = ReturnType<typeof createReveals>;

/** The sessions that see what partners sent. @param always shows it in all sessions */
export function createReveals(always: boolean) {
  const sessions = new LRUCache<string, true>({ max: MAX_REVEALS, ttl: REVEAL_MS });
  return {
    isAlways: always,
    isOn: (response: Response): boolean => always || sessions.has(operatorOf(response).csrfToken),
    /** Reveals for ten minutes, or until this process ends. The caller checks the operator's right. */
    start: (response: Response): void => void sessions.set(operatorOf(response).csrfToken, true),
    mayStart: (response: Response): boolean => !always && operatorOf(response).mayReveal,
    minutesLeft: (response: Response): number =>
      Math.ceil(sessions.getRemainingTTL(operatorOf(response).csrfToken) / 60_000),
  };
}

/** Records that an operator saw what a partner sent; does nothing if it was masked. */
export type RecordView = (request: Request, response: Response, target: string) => Promise<void>;

export const createRecordView =
  (audit: Audit, reveals: Reveals): RecordView =>
  async (request, response, target) => {
    if (!reveals.isOn(response)) return;
    await recordRequest(audit, request, { actor: operatorOf(response).name, action: 'view', target });
  };

type Revealing = { reveals: Reveals; response: Response };

/** Explains the dots, and who may see what they hide; nothing if everybody sees everything. */
export function MaskNote({ reveals, response }: Revealing) {
  if (reveals.isAlways) return null;
  if (reveals.isOn(response))
    return <p>{`What partners sent is shown for ${reveals.minutesLeft(response)} min more.`}</p>;
  if (reveals.mayStart(response))
    return <p>{`${MASK}: what partners sent is hidden. The page of a dead letter or of a customer can show it.`}</p>;
  return (
    <p>
      {`${MASK}: what partners sent is hidden. Operators with the right “May see what partners sent” can show it. An admin who has the right gives it to others on the page Operators; without one, `}
      <code>opm operators role NAME ROLE --reveal</code>
      {' does.'}
    </p>
  );
}

/** The button that shows the operator what partners sent, or a note that says who may see it. */
export function RevealForm({ reveals, response, back }: Revealing & { back: string }) {
  if (!reveals.mayStart(response) || reveals.isOn(response)) return <MaskNote {...{ reveals, response }} />;
  return (
    <>
      <p>{`${MASK}: what partners sent is hidden.`}</p>
      <Form action="/reveal" operator={operatorOf(response)}>
        <input type="hidden" name="back" value={back} />
        <button type="submit">Show what partners sent, for ten minutes; the audit log records it</button>
      </Form>
    </>
  );
}

/** Room for a partner's name and a customer id. A URL encodes each of their characters as up to 12. */
const MAX_BACK = 6_000;

/** POST /reveal */
export function changeReveals(reveals: Reveals, handle: HandleChange): Router {
  return Router().post(
    '/reveal',
    handle(
      'reveal',
      async (request, response) => {
        if (!reveals.mayStart(response)) throw new FormError('you may not see what partners sent');
        const back = fieldOf(request, 'back', MAX_BACK);
        return {
          back: /^\/(find|dead-letters)\b/.test(back) ? back : '/',
          async run() {
            reveals.start(response);
            return 'The audit log records what you see.';
          },
        };
      },
      { isReading: true },
    ),
  );
}
