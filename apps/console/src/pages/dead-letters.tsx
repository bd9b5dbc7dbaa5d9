import { toRefusalCode } from '@opm/contract';
import { countAll, isSqlState, toCount, toNumber } from '@opm/operations';
import { toChunkData } from '@opm/queue';
import type { DeadLetterCount, DeadLetterFilter, Store, StoredDeadLetter, WholeDeadLetter } from '@opm/store';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import { MASK, maskCustomerId, maskErrorMessage, maskJobData } from '../mask.js';
import { MAX_GROUPS, type Reads } from '../reads.js';
import type { Replay, Replays } from '../replays.js';
import { type CurrentOperator, mayChange, operatorOf, type Reveals } from '../session.js';
import { assertConfirmed, fieldOf, type HandleChange, Problem } from './change.js';
import { Confirm, Facts, Form, Live, sendPage, Table, Time, textOf, toUrl } from './components.js';
import { type Names, PartnerLink } from './partners.js';
import { type RecordView, RevealForm } from './reveal.js';

const BIG_ID = /^\d{1,18}$/;

/** GET /dead-letters: counts by partner and SQLSTATE, and the newest letters, filtered by the parameters of the URL. */
export function getDeadLetters(
  reads: Pick<Reads, 'deadLetters' | 'findProject'>,
  replays: Replays,
  reveals: Reveals,
): RequestHandler {
  return async (request, response) => {
    const operator = operatorOf(response);
    const mayReadErrors = reveals.isOn(response);
    const shown = readShown((name) => textOf(request, name));
    const filter = await toFilter(shown, { findProject: reads.findProject, mayReadErrors }).catch(keepProblem);
    const before = textOf(request, 'before');
    const beforeId = before !== undefined && BIG_ID.test(before) ? before : undefined;
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
        {filter instanceof Problem ? (
          <p role="alert">{filter.message}</p>
        ) : (
          <Letters
            {...(await reads.deadLetters(filter, beforeId))}
            shown={shown}
            operator={operator}
            replays={replays}
            showData={mayReadErrors}
          />
        )}
      </>
    );
    sendPage(request, response, { title: 'Dead letters', children }, filter instanceof Problem ? 400 : 200);
  };
}

function keepProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  throw error;
}

type Found = Awaited<ReturnType<Reads['deadLetters']>> & {
  shown: ShownFilter;
  operator: CurrentOperator;
  replays: Replays;
  showData: boolean;
};

function Letters({ groups, letters, nameOf, isFull, shown, operator, replays, showData }: Found) {
  const total = countAll(groups);
  const what = `${toCount(total, 'dead letter')}${shown.partner === undefined ? ' of all partners' : ` of ${shown.partner}`}`;
  return (
    <>
      <Live id="dead-letter-groups">
        <LastReplay replay={replays.last()} />
        <DeadLetterGroups groups={groups} nameOf={nameOf} />
      </Live>
      {total > 0 && mayChange(operator, 'operator') && !replays.isRunning() && (
        <Form action="/dead-letters/replay" operator={operator}>
          <Filter shown={shown} />
          <button type="submit">{`Replay ${what}`}</button>
        </Form>
      )}
      {total > 0 && mayChange(operator, 'admin') && (
        <Form action="/dead-letters/discard" operator={operator}>
          <Filter shown={shown} />
          <Confirm>{`Delete ${what} for good.`}</Confirm>
          <button type="submit">Discard</button>
        </Form>
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

type ShownFilter = Record<'partner' | 'state' | 'error', string | undefined>;

const readShown = (read: (name: keyof ShownFilter) => string | undefined): ShownFilter => ({
  partner: read('partner'),
  state: read('state'),
  error: read('error'),
});

/** @throws Problem if a part of the filter is not valid */
async function toFilter(
  { partner, state, error }: ShownFilter,
  { findProject, mayReadErrors }: { findProject: Store['projects']['find']; mayReadErrors: boolean },
): Promise<DeadLetterFilter> {
  const project = partner === undefined ? undefined : await findProject(partner);
  if (partner !== undefined && !project) throw new Problem(`there is no partner "${partner}"`);
  if (state !== undefined && !isSqlState(state)) {
    throw new Problem('the SQLSTATE must have 5 characters, such as 22021, or 2 for a class');
  }
  // A count per searched text would tell what the masked text is.
  if (error !== undefined && !mayReadErrors) throw new Problem('you may not search the text of errors');
  return { projectId: project?.projectId, sqlState: state?.toUpperCase(), error };
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
            const partner = projectId === null ? undefined : nameOf.get(projectId);
            return <a href={toUrl('/dead-letters', { partner, state: sqlState ?? undefined })}>{sqlState ?? 'none'}</a>;
          },
        },
        { title: 'Partner sees', cell: ({ projectId, sqlState }) => (projectId ? toSeen(sqlState) : '–') },
        { title: 'Dead letters', isNumber: true, cell: ({ count }) => toNumber(count) },
      ]}
    />
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
        { title: 'Since', cell: ({ createdAt }) => <Time at={createdAt} /> },
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
    const { projectId, customerId, version, sqlState, error, createdAt, requestIds } = letter;
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
              ['Ids of its request', requestIds === null ? '–' : showData ? JSON.stringify(requestIds) : MASK],
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

type ChangeDeps = Pick<Store, 'deadLetters' | 'projects'> & { replays: Replays; reveals: Reveals };

/** The forms of the page: replay and discard what the filter selects. */
export function changeDeadLetters(deps: ChangeDeps, handle: HandleChange): Router {
  const { deadLetters, projects, replays, reveals } = deps;

  async function readForm(request: Request, response: Response) {
    const mayReadErrors = reveals.isOn(response);
    const shown = readShown((name) => fieldOf(request, name) || undefined);
    const filter = await toFilter(shown, { findProject: projects.find, mayReadErrors });
    const { partner: target, state } = shown;
    // The text of an error may quote a value.
    const details = { sqlState: state ?? null, byError: shown.error !== undefined };
    return {
      filter,
      change: { ...(target !== undefined && { target }), details, back: toUrl('/dead-letters', shown) },
    };
  }
  const router = Router();
  router.post(
    '/dead-letters/replay',
    handle('operator', 'dead-letters replay', async (request, response) => {
      const { filter, change } = await readForm(request, response);
      if (replays.isRunning()) throw new Problem('another replay is running');
      const total = countAll(await deadLetters.count(filter));
      return {
        ...change,
        async run() {
          // Two requests may have come this far.
          if (!replays.start(filter, total, operatorOf(response).name)) throw new Problem('another replay is running');
          return `The replay of ${toCount(total, 'dead letter')} has started.`;
        },
      };
    }),
  );
  router.post(
    '/dead-letters/discard',
    handle('admin', 'dead-letters discard', async (request, response) => {
      const { filter, change } = await readForm(request, response);
      assertConfirmed(request);
      return { ...change, run: async () => `Discarded ${toCount(await deadLetters.discard(filter), 'dead letter')}.` };
    }),
  );
  return router;
}
