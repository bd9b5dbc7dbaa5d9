import { toCount, toNumber } from '@opm/operations';
import { toChunkData } from '@opm/queue';
import type { DeadLetterCount, DeadLetterFilter, StoredDeadLetter, WholeDeadLetter } from '@opm/store';
import type { Request, RequestHandler } from 'express';
import { MASK, maskCustomerId, maskErrorMessage, maskJobData } from '../mask.js';
import { MAX_GROUPS, type Reads } from '../reads.js';
import { Facts, Live, sendPage, Table, Time, textOf, toUrl } from './page.js';

type Names = Map<number, string>;

const BIG_ID = /^\d{1,18}$/;
const SQL_STATE = /^[0-9A-Z]{2}(?:[0-9A-Z]{3})?$/i;

const toName = (nameOf: Names, projectId: number | null) =>
  projectId === null ? 'unknown' : (nameOf.get(projectId) ?? `project ${projectId}`);

/** GET /dead-letters: counts by partner and SQLSTATE, and the newest letters, filtered by the parameters of the URL. */
export function getDeadLetters(reads: Pick<Reads, 'deadLetters'>): RequestHandler {
  return async (request, response) => {
    const { filter, shown } = readFilter(request);
    const before = textOf(request, 'before');
    const beforeId = before !== undefined && BIG_ID.test(before) ? before : undefined;
    const { groups, letters, nameOf, isFull } = await reads.deadLetters(filter, beforeId);
    const total = groups.reduce((sum, { count }) => sum + count, 0);
    sendPage(request, response, {
      title: 'Dead letters',
      children: (
        <>
          <p>
            Accepted entries that PostgreSQL rejected. <code>opm dead-letters replay</code> queues them again.
          </p>
          <form method="get" action="/dead-letters">
            <label>
              Project id <input name="project" inputMode="numeric" value={shown.project ?? ''} />
            </label>
            <label>
              SQLSTATE <input name="state" maxLength={5} value={shown.state ?? ''} />
            </label>
            <label>
              Error contains <input name="error" value={shown.error ?? ''} />
            </label>
            <button type="submit">Filter</button>
          </form>
          <Live id="dead-letter-groups">
            <Groups groups={groups} nameOf={nameOf} total={total} />
          </Live>
          <LetterTable letters={letters} nameOf={nameOf} />
          {isFull && (
            <p>
              <a href={toUrl('/dead-letters', { ...shown, before: letters.at(-1)?.deadLetterId })}>Older</a>
            </p>
          )}
        </>
      ),
    });
  };
}

/** `shown`: the valid parameters, for the form and for links. */
function readFilter(request: Request): {
  filter: DeadLetterFilter;
  shown: Record<'project' | 'state' | 'error', string | undefined>;
} {
  const project = textOf(request, 'project');
  const state = textOf(request, 'state');
  const shown = {
    project: project !== undefined && /^\d{1,9}$/.test(project) ? project : undefined,
    state: state !== undefined && SQL_STATE.test(state) ? state.toUpperCase() : undefined,
    error: textOf(request, 'error'),
  };
  const projectId = shown.project === undefined ? undefined : Number(shown.project);
  return { shown, filter: { projectId, sqlState: shown.state, error: shown.error } };
}

function Groups({ groups, nameOf, total }: { groups: DeadLetterCount[]; nameOf: Names; total: number }) {
  return (
    <Table
      caption={`${toCount(total, 'dead letter')}, by partner and SQLSTATE`}
      rows={groups.slice(0, MAX_GROUPS)}
      empty="There is no such dead letter."
      columns={[
        { title: 'Partner', cell: ({ projectId }) => toName(nameOf, projectId) },
        {
          title: 'SQLSTATE',
          cell: ({ projectId, sqlState }) => (
            <a href={toUrl('/dead-letters', { project: projectId ?? undefined, state: sqlState ?? undefined })}>
              {sqlState ?? 'none'}
            </a>
          ),
        },
        { title: 'Dead letters', isNumber: true, cell: ({ count }) => toNumber(count) },
      ]}
    />
  );
}

/** Letters without their payloads. Errors and ids are masked. */
export function LetterTable({ letters, nameOf }: { letters: StoredDeadLetter[]; nameOf: Names }) {
  return (
    <Table
      caption="Newest dead letters"
      rows={letters}
      empty="No dead letter."
      columns={[
        { title: 'Id', cell: ({ deadLetterId: id }) => <a href={`/dead-letters/${id}`}>{id}</a> },
        { title: 'Since', cell: ({ createdAt }) => <Time at={createdAt} /> },
        { title: 'Partner', cell: ({ projectId }) => toName(nameOf, projectId) },
        { title: 'Customer', cell: ({ customerId }) => (customerId === null ? '–' : maskCustomerId(customerId)) },
        { title: 'SQLSTATE', cell: ({ sqlState }) => sqlState ?? 'none' },
        { title: 'Error', cell: ({ error }) => maskErrorMessage(error) },
      ]}
    />
  );
}

/** GET /dead-letters/{deadLetterId}: one letter, masked unless `showData`. */
export function getDeadLetter(
  reads: Pick<Reads, 'deadLetter'>,
  { showData }: { showData: boolean },
): RequestHandler<{ deadLetterId: string }> {
  return async (request, response, next) => {
    const { deadLetterId } = request.params;
    const letter = BIG_ID.test(deadLetterId) ? await reads.deadLetter(deadLetterId) : undefined;
    if (!letter) return next();
    const { projectId, customerId, version, sqlState, error, createdAt } = letter;
    const payload = showData ? letter.payload : maskPayload(letter);
    sendPage(request, response, {
      title: `Dead letter ${deadLetterId}`,
      children: (
        <>
          <Facts
            facts={[
              ['Project id', projectId ?? 'unknown'],
              ['Customer', customerId === null ? '–' : showData ? customerId : maskCustomerId(customerId)],
              ['Received', <Time key="received" at={version === null ? null : new Date(Number(version) / 1_000)} />],
              ['Dead letter since', <Time key="since" at={createdAt} />],
              ['SQLSTATE', sqlState ?? 'none'],
              ['Error', showData ? error : maskErrorMessage(error)],
            ]}
          />
          <h2>Data</h2>
          <pre>{JSON.stringify(payload, null, 2)}</pre>
        </>
      ),
    });
  };
}

/** A letter with a project holds one entry, without its project; one without a project, the data of a job. */
function maskPayload({ projectId, payload }: WholeDeadLetter): unknown {
  if (projectId === null) return maskJobData(payload);
  try {
    return maskJobData(
      toChunkData({ entries: [{ ...(payload as { customerId: string; version: number }), projectId }] }),
    );
  } catch {
    return MASK;
  }
}
