import { toCount, toNumber } from '@opm/operations';
import { toChunkData } from '@opm/queue';
import type { DeadLetterCount, DeadLetterFilter, Store, StoredDeadLetter, WholeDeadLetter } from '@opm/store';
import { type RequestHandler, Router } from 'express';
import { MASK, maskCustomerId, maskErrorMessage, maskJobData } from '../mask.js';
import { MAX_GROUPS, type Reads } from '../reads.js';
import type { Replay, Replays } from '../replays.js';
import { mayChange, operatorOf, type Reveals } from '../session.js';
import { assertConfirmed, fieldOf, type HandleChange, Problem } from './change.js';
import { Confirm, Facts, Form, Live, sendPage, Table, Time, textOf, toUrl } from './components.js';
import { type RecordView, RevealForm } from './reveal.js';

type Names = Map<number, string>;

const BIG_ID = /^\d{1,18}$/;
const SQL_STATE = /^[0-9A-Z]{2}(?:[0-9A-Z]{3})?$/i;

const toName = (nameOf: Names, projectId: number | null) =>
  projectId === null ? 'unknown' : (nameOf.get(projectId) ?? `project ${projectId}`);

/** GET /dead-letters: counts by partner and SQLSTATE, and the newest letters, filtered by the parameters of the URL. */
export function getDeadLetters(reads: Pick<Reads, 'deadLetters'>, replays: Replays): RequestHandler {
  return async (request, response) => {
    const operator = operatorOf(response);
    const { filter, shown } = readFilter((name) => textOf(request, name));
    const before = textOf(request, 'before');
    const beforeId = before !== undefined && BIG_ID.test(before) ? before : undefined;
    const { groups, letters, nameOf, isFull } = await reads.deadLetters(filter, beforeId);
    const total = groups.reduce((sum, { count }) => sum + count, 0);
    sendPage(request, response, {
      title: 'Dead letters',
      children: (
        <>
          <p>
            Accepted entries that PostgreSQL rejected. A replay queues them again with their place in time, so newer
            values stay.
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
            <LastReplay replay={replays.last()} />
            <Groups groups={groups} nameOf={nameOf} total={total} />
          </Live>
          {total > 0 && mayChange(operator, 'operator') && (
            <Form action="/dead-letters/replay" operator={operator}>
              <Filter shown={shown} />
              <button type="submit">{`Replay ${toCount(total, 'dead letter')}`}</button>
            </Form>
          )}
          {total > 0 && mayChange(operator, 'admin') && (
            <Form action="/dead-letters/discard" operator={operator}>
              <Filter shown={shown} />
              <Confirm>{`Delete ${toCount(total, 'dead letter')} for good.`}</Confirm>
              <button type="submit">Discard</button>
            </Form>
          )}
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

type ShownFilter = Record<'project' | 'state' | 'error', string | undefined>;

/** `shown`: the valid parameters, for forms and links. */
function readFilter(read: (name: keyof ShownFilter) => string | undefined): {
  filter: DeadLetterFilter;
  shown: ShownFilter;
} {
  const [project, state] = [read('project'), read('state')];
  const shown = {
    project: project !== undefined && /^\d{1,9}$/.test(project) ? project : undefined,
    state: state !== undefined && SQL_STATE.test(state) ? state.toUpperCase() : undefined,
    error: read('error'),
  };
  const projectId = shown.project === undefined ? undefined : Number(shown.project);
  return { shown, filter: { projectId, sqlState: shown.state, error: shown.error } };
}

/** The filter of the page, as hidden fields of a form. */
function Filter({ shown }: { shown: ShownFilter }) {
  return (
    <>
      {Object.entries(shown).map(([name, value]) => (
        <input key={name} type="hidden" name={name} value={value ?? ''} />
      ))}
    </>
  );
}

function LastReplay({ replay }: { replay: Replay | undefined }) {
  if (!replay) return null;
  const { by, total, handled, done, isInterrupted } = replay;
  if (!done) return <p>{`${by} replays dead letters: ${toNumber(handled)} of ${toNumber(total)}.`}</p>;
  const skipped = done.skipped > 0 ? `, ${toNumber(done.skipped)} cannot be read as entries` : '';
  return (
    <p>
      {isInterrupted && <strong>The replay stopped because a store did not answer. </strong>}
      {`Last replay, by ${by}: ${toCount(done.replayed, 'dead letter')} queued${skipped}.`}
    </p>
  );
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

/** GET /dead-letters/{deadLetterId}: one letter, masked unless revealed. */
export function getDeadLetter(
  reads: Pick<Reads, 'deadLetter'>,
  reveals: Reveals,
  recordView: RecordView,
): RequestHandler<{ deadLetterId: string }> {
  return async (request, response, next) => {
    const { deadLetterId } = request.params;
    const letter = BIG_ID.test(deadLetterId) ? await reads.deadLetter(deadLetterId) : undefined;
    if (!letter) return next();
    const { projectId, customerId, version, sqlState, error, createdAt } = letter;
    const showData = reveals.isOn(response);
    await recordView(request, response, `dead letter ${deadLetterId}`);
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
          <RevealForm reveals={reveals} response={response} back={request.originalUrl} />
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

/** The forms of the page: replay and discard what the filter selects. */
export function changeDeadLetters(
  { deadLetters, replays }: Pick<Store, 'deadLetters'> & { replays: Replays },
  handle: HandleChange,
): Router {
  const router = Router();
  router.post(
    '/dead-letters/replay',
    handle('operator', 'dead-letters replay', async (request, response) => {
      const { filter, shown } = readFilter((name) => fieldOf(request, name) || undefined);
      if (replays.isRunning()) throw new Problem('another replay is running');
      const total = (await deadLetters.count(filter)).reduce((sum, { count }) => sum + count, 0);
      return {
        ...{ details: toDetails(shown), back: toUrl('/dead-letters', shown) },
        run: async () => replays.start(filter, total, operatorOf(response).name),
      };
    }),
  );
  router.post(
    '/dead-letters/discard',
    handle('admin', 'dead-letters discard', async (request) => {
      const { filter, shown } = readFilter((name) => fieldOf(request, name) || undefined);
      assertConfirmed(request);
      return {
        ...{ details: toDetails(shown), back: toUrl('/dead-letters', shown) },
        run: async () => void (await deadLetters.discard(filter)),
      };
    }),
  );
  return router;
}

const toDetails = ({ project, state, error }: ShownFilter) => ({
  project: project ?? null,
  sqlState: state ?? null,
  hasErrorText: error !== undefined, // the text may quote a value
});
