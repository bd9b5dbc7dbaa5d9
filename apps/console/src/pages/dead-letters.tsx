import { toRefusalCode } from '@opm/contract';
import { countAll, isSqlState, toCount, toNumber } from '@opm/operations';
import type { DeadLetterCount, DeadLetterFilter, Store } from '@opm/store';
import { type Request, type RequestHandler, type Response, Router } from 'express';
import { MAX_GROUPS, type Reads } from '../reads.js';
import type { Replay, Replays } from '../replays.js';
import { isStream, operatorOf, type Reveals } from '../session.js';
import { assertConfirmed, FormError, fieldOf, type HandleChange, toSentence } from './change.js';
import { Live, sendPage, Table, Time, textOf, toUrl } from './components.js';
import { type Names, PartnerLink } from './partners.js';
import { BIG_ID, LetterForms, LetterTable, MaskNote, type RecordView } from './reveal.js';

/** GET /dead-letters: counts by partner and SQLSTATE, and the newest letters, filtered by the parameters of the URL. */
export function getDeadLetters(
  reads: Pick<Reads, 'deadLetters' | 'findProject'>,
  replays: Replays,
  reveals: Reveals,
  recordView: RecordView,
): RequestHandler {
  return async (request, response) => {
    const mayReadErrors = reveals.isOn(response);
    const shown = readShown((name) => textOf(request, name)?.trim());
    const filter = await toFilter(shown, { findProject: reads.findProject, mayReadErrors }).catch(keepFormError);
    if (request.method === 'GET' && !isStream(request) && !(filter instanceof FormError))
      await recordView(request, response, `dead letters ${toWhose(shown)}`);
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
        {replay && <LastReplay {...replay} />}
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

type ShownFilter = Record<'partner' | 'state' | 'error', string | undefined>;

const readShown = (read: (name: keyof ShownFilter) => string | undefined): ShownFilter => ({
  partner: read('partner'),
  state: read('state'),
  error: read('error'),
});

/** @throws FormError if a part of the filter is not valid */
async function toFilter(
  { partner, state, error }: ShownFilter,
  { findProject, mayReadErrors }: { findProject: Store['projects']['find']; mayReadErrors: boolean },
): Promise<DeadLetterFilter> {
  const project = partner === undefined ? undefined : await findProject(partner);
  if (partner !== undefined && !project) throw new FormError(`there is no partner "${partner}"`);
  if (state !== undefined && !isSqlState(state)) {
    throw new FormError('the SQLSTATE must have 5 characters, such as 22021, or 2 for a class');
  }
  // A count per searched text would tell what the masked text is.
  if (error !== undefined && !mayReadErrors) throw new FormError('you may not search the text of errors');
  return { projectId: project?.projectId, sqlState: state?.toUpperCase(), error };
}

/** Without the text of an error: others read it, too. */
const toWhose = ({ partner, state, error }: ShownFilter): string =>
  [
    `of ${partner ?? 'all partners'}`,
    ...(state === undefined ? [] : [`with SQLSTATE ${state}`]),
    ...(error === undefined ? [] : ['whose error has the text']),
  ].join(' ');

function LastReplay({ by, what, since, total, handled, done, again, isInterrupted }: Replay & { again: number }) {
  const letters = toCount(total, 'dead letter');
  if (!done) return <p>{`${by} replays ${letters} ${what}: ${toNumber(handled)} handled so far.`}</p>;
  const skipped = done.skipped > 0 ? `, ${toNumber(done.skipped)} cannot be read as entries` : '';
  const became = again === 1 ? 'is a dead letter again' : 'are dead letters again';
  return (
    <p>
      {isInterrupted && <strong>The replay stopped because a store did not answer. </strong>}
      {'Last replay, at '}
      <Time at={since} />
      {`, by ${by}: ${toCount(done.replayed, 'dead letter')} queued${skipped}; ${again > 0 ? toNumber(again) : 'none'} of them ${became} so far.`}
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

type ChangeDeps = Pick<Store, 'deadLetters' | 'projects' | 'now'> & { replays: Replays; reveals: Reveals };

/** The forms of the page: replay and discard what the filter selects. */
export function changeDeadLetters(deps: ChangeDeps, handle: HandleChange): Router {
  const { deadLetters, projects, now, replays, reveals } = deps;

  async function readForm(request: Request, response: Response) {
    const shown = readShown((name) => fieldOf(request, name) || undefined);
    const [letter, through] = [idOf(request, 'letter'), idOf(request, 'through')];
    const found = await toFilter(shown, { findProject: projects.find, mayReadErrors: reveals.isOn(response) });
    const filter = { ...found, deadLetterId: letter, throughId: through };
    const letters = countAll(await deadLetters.count(filter));
    const details = {
      ...(letter === undefined ? { letters } : { id: letter }),
      ...(shown.state !== undefined && { sqlState: shown.state }),
      ...(shown.error !== undefined && { byError: true }), // its text may quote a value
    };
    const what = letter === undefined ? toWhose(shown) : `with the id ${letter}`;
    const back = toUrl('/dead-letters', shown);
    return { filter, letters, what, change: { target: shown.partner, details, back } };
  }
  const router = Router();
  router.post(
    '/dead-letters/replay',
    handle('operator', 'dead-letters replay', async (request, response) => {
      const { filter, letters: total, what, change } = await readForm(request, response);
      assertConfirmed(request);
      if (replays.isRunning()) throw new FormError('another replay is running');
      if (total === 0) throw new FormError(`there is no dead letter ${what}`);
      const since = await now();
      return {
        ...change,
        async run() {
          const start = { by: operatorOf(response).name, what, page: change.back, since, total };
          // Two requests may have come this far.
          if (!replays.start(filter, start)) throw new FormError('another replay is running');
          return `The replay of ${toCount(total, 'dead letter')} ${what} has started.`;
        },
      };
    }),
  );
  router.post(
    '/dead-letters/discard',
    handle('admin', 'dead-letters discard', async (request, response) => {
      const { filter, what, change } = await readForm(request, response);
      assertConfirmed(request);
      return {
        ...change,
        run: async () => `Discarded ${toCount(await deadLetters.discard(filter), 'dead letter')} ${what}.`,
      };
    }),
  );
  return router;
}

/** @throws FormError if the field is given and no id */
function idOf(request: Request, name: string): string | undefined {
  const id = fieldOf(request, name) || undefined;
  if (id !== undefined && !BIG_ID.test(id)) throw new FormError(`${name} must be the id of a dead letter`);
  return id;
}
