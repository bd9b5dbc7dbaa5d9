import { toRefusalCode } from '@opm/contract';
import { toDate } from '@opm/core';
import { countAll, toCount, toNumber } from '@opm/operations';
import type { DeadLetterCount, StoredDeadLetter } from '@opm/store';
import type { Request, RequestHandler, Response } from 'express';
import type { ComponentChildren } from 'preact';
import { MASK, maskCustomerId, maskErrorMessage, maskLetterData } from '../mask.js';
import { MAX_GROUPS, type Reads } from '../reads.js';
import { isStream } from '../session.js';
import { FormError, toSentence, trimSpaces } from './change.js';
import {
  LastReplay,
  LetterForms,
  type Replays,
  readShown,
  type ShownFilter,
  toFilter,
  toWhose,
} from './change-dead-letters.js';
import { Back, BIG_ID, beforeOf, Facts, Live, sendPage, Table, Time, textOf, toUrl } from './components.js';
import { type Names, PartnerLink } from './partners.js';
import { MaskNote, type RecordView, RevealForm, type Reveals } from './reveal.js';

/** GET /dead-letters: counts by partner and SQLSTATE, and the newest letters, filtered by the parameters of the URL. */
export function getDeadLetters(
  reads: Pick<Reads, 'deadLetters' | 'findProject'>,
  replays: Replays,
  reveals: Reveals,
  recordView: RecordView,
): RequestHandler {
  return async (request, response) => {
    // The updates of an open page are masked and hold only counts, so they are not recorded as views.
    const isView = request.method === 'GET' && !isStream(request);
    const mayReadErrors = isView && reveals.isOn(response);
    const shown = readShown((name) => trimSpaces(textOf(request, name) ?? '') || undefined);
    const filter = await toFilter(shown, { findProject: reads.findProject, mayReadErrors }).catch(keepFormError);
    if (isView && !(filter instanceof FormError)) await recordView(request, response, `dead letters ${toWhose(shown)}`);
    const beforeId = beforeOf(request);
    const children = (
      <>
        <p>
          Accepted entries that PostgreSQL rejected. A replay queues them again with their place in time, so newer
          values stay.
        </p>
        <form method="get" action="/dead-letters">
          <label>
            Partner <input name="partner" value={shown.partner ?? ''} />
          </label>
          <label>
            SQLSTATE <input name="state" maxLength={5} value={shown.state ?? ''} />
          </label>
          {mayReadErrors && (
            <label>
              Error contains <input name="error" value={shown.error ?? ''} />
            </label>
          )}
          <button type="submit">Filter</button>
        </form>
        {filter instanceof FormError ? (
          <p role="alert">{toSentence(filter.message)}</p>
        ) : (
          <Letters
            {...(await reads.deadLetters(filter, beforeId))}
            {...{ shown, response, replays, showData: mayReadErrors }}
            replay={await replays.read(toUrl('/dead-letters', shown))}
          />
        )}
        <MaskNote {...{ reveals, response }} />
      </>
    );
    sendPage(request, response, { title: 'Dead letters', children }, filter instanceof FormError ? 400 : 200);
  };
}

function keepFormError(error: unknown): FormError {
  if (error instanceof FormError) return error;
  throw error;
}

type Found = Awaited<ReturnType<Reads['deadLetters']>> & {
  shown: ShownFilter;
  response: Response;
  replays: Replays;
  replay: Awaited<ReturnType<Replays['read']>>;
  showData: boolean;
};

function Letters({ groups, letters, nameOf, isFull, shown, response, replays, replay, showData }: Found) {
  const total = countAll(groups);
  const newest = groups.reduce((id, { newestId }) => (BigInt(newestId) > id ? BigInt(newestId) : id), 0n);
  return (
    <>
      <Live id="dead-letter-groups">
        {replay && <LastReplay {...replay} isUpdate={isStream(response.req)} />}
        <DeadLetterGroups groups={groups} nameOf={nameOf} />
      </Live>
      {total > 0 && (
        <LetterForms
          fields={{ ...shown, through: String(newest) }}
          what={`${toCount(total, 'dead letter')} ${toWhose(shown)}`}
          response={response}
          isReplaying={replays.isRunning()}
        />
      )}
      {letters.length > 0 && <LetterTable letters={letters} nameOf={nameOf} showData={showData} />}
      {isFull && (
        <p>
          <a href={toUrl('/dead-letters', { ...shown, before: letters.at(-1)?.deadLetterId })}>Older</a>
        </p>
      )}
    </>
  );
}

const toSeen = (sqlState: string | null) => (sqlState ? toRefusalCode(sqlState) : 'STORE_ERROR or ENTRY_UNREADABLE');

export function DeadLetterGroups({ groups, nameOf }: { groups: DeadLetterCount[]; nameOf: Names }) {
  return (
    <Table
      caption={`${toCount(countAll(groups), 'dead letter')}, by partner and SQLSTATE`}
      rows={groups.slice(0, MAX_GROUPS)}
      empty="No dead letter."
      columns={[
        { title: 'Partner', cell: ({ projectId }) => <PartnerLink nameOf={nameOf} projectId={projectId} /> },
        {
          title: 'SQLSTATE',
          cell: ({ projectId, sqlState }) => {
            if (sqlState === null) return 'none'; // no filter selects these
            const partner = projectId === null ? undefined : nameOf.get(projectId);
            return <a href={toUrl('/dead-letters', { partner, state: sqlState })}>{sqlState}</a>;
          },
        },
        { title: 'Partner sees', cell: ({ projectId, sqlState }) => (projectId ? toSeen(sqlState) : '–') },
        { title: 'Dead letters', isNumber: true, cell: ({ count }) => toNumber(count) },
        { title: 'First received', cell: ({ first }) => <Time at={first} /> },
        { title: 'Last received', cell: ({ last }) => <Time at={last} /> },
      ]}
    />
  );
}

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

/** Names of the SQLSTATEs that refuse entries, as in https://www.postgresql.org/docs/current/errcodes-appendix.html */
const STATE_NAMES: Record<string, string> = {
  21000: 'cardinality violation',
  22001: 'string data right truncation',
  22003: 'numeric value out of range',
  22007: 'invalid datetime format',
  22021: 'character not in repertoire',
  '22P02': 'invalid text representation',
  '22P05': 'untranslatable character',
  23502: 'not null violation',
  23503: 'foreign key violation',
  23505: 'unique violation',
  23514: 'check violation',
  '23P01': 'exclusion violation',
  54000: 'program limit exceeded',
  P0001: 'raise exception',
};
const toNamedState = (state: string): string => (STATE_NAMES[state] ? `${state} ${STATE_NAMES[state]}` : state);

const toReceived = (version: string | null): Date | null => (version === null ? null : toDate(Number(version)));

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
