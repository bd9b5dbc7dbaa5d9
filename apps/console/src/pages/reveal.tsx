import type { Audit } from '@opm/store';
import { type Request, type Response, Router } from 'express';
import { operatorOf, type Reveals, recordRequest } from '../session.js';
import { fieldOf, type HandleChange, Problem } from './change.js';
import { Form } from './components.js';

/** Records that an operator saw what a partner sent; does nothing if it was masked. */
export type RecordView = (request: Request, response: Response, target: string) => Promise<void>;

export const createRecordView =
  (audit: Audit, reveals: Reveals): RecordView =>
  async (request, response, target) => {
    if (!reveals.isOn(response)) return;
    await recordRequest(audit, request, { actor: operatorOf(response).name, action: 'view', target });
  };

/** Asks to see what partners sent, or says how long it is shown; nothing if the operator may not see it. */
export function RevealForm({ reveals, response, back }: { reveals: Reveals; response: Response; back: string }) {
  if (!reveals.mayStart(response)) return null;
  if (reveals.isOn(response))
    return <p>{`What partners sent is shown for ${reveals.minutesLeft(response)} min more.`}</p>;
  return (
    <Form action="/reveal" operator={operatorOf(response)}>
      <input type="hidden" name="back" value={back} />
      <button type="submit">Show what partners sent, for ten minutes; the audit log records it</button>
    </Form>
  );
}

/** POST /reveal */
export function changeReveals(reveals: Reveals, handle: HandleChange): Router {
  return Router().post(
    '/reveal',
    handle(
      'viewer',
      'reveal',
      async (request, response) => {
        if (!reveals.mayStart(response)) throw new Problem('you may not see what partners sent');
        const back = fieldOf(request, 'back');
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
