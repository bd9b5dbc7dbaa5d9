import type { Audit, StoredDeadLetter } from '@opm/store';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import type { ComponentChildren } from 'preact';
import { MASK, maskCustomerId, maskErrorMessage, maskLetterData } from '../mask.js';
import type { Reads } from '../reads.js';
import { mayChange, operatorOf, type Reveals, recordRequest } from '../session.js';
import { FormError, fieldOf, type HandleChange } from './change.js';
import { Back, Confirm, Facts, Form, sendPage, Table, Time, toUrl } from './components.js';
import { type Names, PartnerLink } from './partners.js';

/** Records that an operator saw what a partner sent; does nothing if it was masked. */
export type RecordView = (request: Request, response: Response, target: string) => Promise<void>;

export const createRecordView =
  (audit: Audit, reveals: Reveals): RecordView =>
  async (request, response, target) => {
    if (!reveals.isOn(response)) return;
    await recordRequest(audit, request, { actor: operatorOf(response).name, action: 'view', target });
  };

type Revealing = { reveals: Reveals; response: Response };

/** Says what the dots are and who may see more; nothing if everybody sees everything. */
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

/** Lets the operator see what partners sent, or says who may. */
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

/** Room for a partner's name and a customer id: a URL encodes each of their characters as up to 12. */
const MAX_BACK = 6_000;

/** POST /reveal */
export function changeReveals(reveals: Reveals, handle: HandleChange): Router {
  return Router().post(
    '/reveal',
    handle(
      'viewer',
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

export const BIG_ID = /^\d{1,18}$/;

/** GET /dead-letters/{deadLetterId}: one letter, masked unless revealed. */
export function getDeadLetter(
  reads: Pick<Reads, 'deadLetter'>,
  reveals: Reveals,
  recordView: RecordView,
): RequestHandler<{ deadLetterId: string }> {
  return async (request, response, next) => {
    const { deadLetterId } = request.params;
    const found = BIG_ID.test(deadLetterId) ? await reads.deadLetter(deadLetterId) : undefined;
    if (!found) return BIG_ID.test(deadLetterId) ? sendNoLetter(request, response) : next();
    const { letter, nameOf, seen } = found;
    const { projectId, customerId, version, sqlState, error, createdAt, requestIds } = letter;
    const partner = projectId === null ? undefined : nameOf.get(projectId);
    const showData = reveals.isOn(response);
    await recordView(request, response, `dead letter ${deadLetterId}`);
    const facts: [string, ComponentChildren][] = [
      ['Partner', <PartnerLink key="partner" {...{ nameOf, projectId }} />],
      ['Customer', customerId === null ? '–' : showData ? customerId : maskCustomerId(customerId)],
      ['Received', <Time key="received" at={toReceived(version)} />],
      ['Dead letter since', <Time key="since" at={createdAt} />],
      ['SQLSTATE', sqlState === null ? 'none: PostgreSQL did not refuse it' : toNamedState(sqlState)],
      ['Error', showData ? error : maskErrorMessage(error)],
      ['Partner sees', seen ? `${seen.code}: ${seen.message}` : 'nothing'],
      ['Field', seen?.field ?? '–'],
      ['Ids of its request', requestIds === null ? '–' : showData ? JSON.stringify(requestIds) : MASK],
    ];
    const payload = showData ? letter.payload : maskLetterData(letter);
    sendPage(request, response, {
      title: `Dead letter ${deadLetterId}`,
      children: (
        <>
          <Facts facts={facts} />
          <RevealForm {...{ reveals, response }} back={request.originalUrl} />
          <LetterForms
            fields={{ partner, letter: deadLetterId }}
            what={`dead letter ${deadLetterId}${partner === undefined ? '' : ` of ${partner}`}`}
            response={response}
          />
          <p>
            <a href={toUrl('/dead-letters', { partner })}>
              {partner === undefined ? 'All dead letters' : `All dead letters of ${partner}`}
            </a>
          </p>
          <h2>Data</h2>
          <pre>{JSON.stringify(payload, null, 2)}</pre>
        </>
      ),
    });
  };
}

function sendNoLetter(request: Request<{ deadLetterId: string }>, response: Response): void {
  const title = `No dead letter ${request.params.deadLetterId}`;
  const children = (
    <>
      <p>
        It was replayed, discarded or erased, or never existed. If a replayed entry fails again, it gets another number.
      </p>
      <Back to="/dead-letters" />
    </>
  );
  sendPage(request, response, { title, children }, 404);
}

/** Names of the SQLSTATEs that refuse entries: https://www.postgresql.org/docs/current/errcodes-appendix.html */
const STATE_NAMES: Record<string, string> = {
  21000: 'cardinality_violation',
  22001: 'string_data_right_truncation',
  22003: 'numeric_value_out_of_range',
  22007: 'invalid_datetime_format',
  22021: 'character_not_in_repertoire',
  '22P02': 'invalid_text_representation',
  '22P05': 'untranslatable_character',
  23502: 'not_null_violation',
  23503: 'foreign_key_violation',
  23505: 'unique_violation',
  23514: 'check_violation',
  '23P01': 'exclusion_violation',
  54000: 'program_limit_exceeded',
  P0001: 'raise_exception',
};
const toNamedState = (state: string): string => (STATE_NAMES[state] ? `${state} ${STATE_NAMES[state]}` : state);

/** A version is in microseconds since 1970. */
const toReceived = (version: string | null): Date | null =>
  version === null ? null : new Date(Number(version) / 1_000);

/** The forms that replay or discard what the fields select, for who may. `isReplaying`: another replay runs. */
export function LetterForms(props: {
  fields: Record<string, string | undefined>;
  what: string;
  response: Response;
  isReplaying?: boolean;
}) {
  const { fields, what, response, isReplaying = false } = props;
  const operator = operatorOf(response);
  const hidden = Object.entries(fields).map(([name, value]) => (
    <input key={name} type="hidden" name={name} value={value ?? ''} />
  ));
  return (
    <>
      {mayChange(operator, 'operator') && !isReplaying && (
        <Form action="/dead-letters/replay" operator={operator}>
          {hidden}
          <Confirm>{`Queue ${what} again.`}</Confirm>
          <button type="submit">Replay</button>
        </Form>
      )}
      {mayChange(operator, 'admin') && (
        <Form action="/dead-letters/discard" operator={operator}>
          {hidden}
          <Confirm>{`Delete ${what} for good.`}</Confirm>
          <button type="submit">Discard</button>
        </Form>
      )}
    </>
  );
}

/** Letters without their payloads. Errors and ids are masked unless `showData`. */
export function LetterTable(props: { letters: StoredDeadLetter[]; nameOf: Names; showData: boolean }) {
  const { letters, nameOf, showData } = props;
  return (
    <Table
      caption="Newest dead letters"
      rows={letters}
      empty="No dead letter."
      columns={[
        { title: 'Id', cell: ({ deadLetterId: id }) => <a href={`/dead-letters/${id}`}>{id}</a> },
        { title: 'Received', cell: ({ version }) => <Time at={toReceived(version)} /> },
        { title: 'Dead letter since', cell: ({ createdAt }) => <Time at={createdAt} /> },
        { title: 'Partner', cell: ({ projectId }) => <PartnerLink nameOf={nameOf} projectId={projectId} /> },
        {
          title: 'Customer',
          cell: ({ customerId }) => (showData ? customerId : customerId && maskCustomerId(customerId)) ?? '–',
        },
        { title: 'SQLSTATE', cell: ({ sqlState }) => sqlState ?? 'none' },
        { title: 'Error', cell: ({ error }) => (showData ? error : maskErrorMessage(error)) },
      ]}
    />
  );
}
