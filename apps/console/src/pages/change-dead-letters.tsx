import { countAll, isSqlState, REPLAY_RATE, toCount, toNumber } from '@opm/operations';
import { type Replayed, type ReplayInterrupted, replay } from '@opm/operations/actions';
import type { EntryQueue } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import type { DeadLetterFilter, Store } from '@opm/store';
import { type Request, type Response, Router } from 'express';
import { mayChange, operatorOf } from '../session.js';
import { assertConfirmed, FormError, fieldOf, type HandleChange } from './change.js';
import { BIG_ID, Confirm, Form, Time, toUrl } from './components.js';
import type { Reveals } from './reveal.js';

type ChangeDeps = Pick<Store, 'deadLetters' | 'projects' | 'now'> & { replays: Replays; reveals: Reveals };

/** POST /dead-letters/replay and /dead-letters/discard: replay or discard what the filter selects. */
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
    handle('dead-letters replay', async (request, response) => {
      const { filter, letters: total, what, change } = await readForm(request, response);
      assertConfirmed(request);
      if (replays.isRunning()) throw new FormError('another replay is running');
      if (total === 0) throw new FormError(`there is no dead letter ${what}`);
      const since = await now();
      return {
        ...change,
        async run() {
          const start = { by: operatorOf(response).name, what, page: change.back, since, total };
          // Another request may have started a replay since the check.
          if (!replays.start(filter, start)) throw new FormError('another replay is running');
          return `The replay of ${toCount(total, 'dead letter')} ${what} has started.`;
        },
      };
    }),
  );
  router.post(
    '/dead-letters/discard',
    handle('dead-letters discard', async (request, response) => {
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

/** @throws FormError if the field is not empty and not an id */
function idOf(request: Request, name: string): string | undefined {
  const id = fieldOf(request, name) || undefined;
  if (id !== undefined && !BIG_ID.test(id)) throw new FormError(`${name} must be the id of a dead letter`);
  return id;
}

/** The filter as the URL and the forms have it. */
export type ShownFilter = Record<'partner' | 'state' | 'error', string | undefined>;

export const readShown = (read: (name: keyof ShownFilter) => string | undefined): ShownFilter => ({
  partner: read('partner'),
  state: read('state'),
  error: read('error'),
});

/** @throws FormError if a part of the filter is not valid */
export async function toFilter(
  { partner, state, error }: ShownFilter,
  { findProject, mayReadErrors }: { findProject: Store['projects']['find']; mayReadErrors: boolean },
): Promise<DeadLetterFilter> {
  const project = partner === undefined ? undefined : await findProject(partner);
  if (partner !== undefined && !project) throw new FormError(`there is no partner "${partner}"`);
  if (state !== undefined && !isSqlState(state)) {
    throw new FormError('the SQLSTATE must have 5 characters, such as 22021, or 2 for a class');
  }
  // The number of matches for a text would reveal what the masked errors contain.
  if (error !== undefined && !mayReadErrors) throw new FormError('you may not search the text of errors');
  return { projectId: project?.projectId, sqlState: state?.toUpperCase(), error };
}

/** Describes the filter, without the text of an error, because other operators read it, too. */
export const toWhose = ({ partner, state, error }: ShownFilter): string =>
  [
    `of ${partner ?? 'all partners'}`,
    ...(state === undefined ? [] : [`with SQLSTATE ${state}`]),
    ...(error === undefined ? [] : ['whose error has the text']),
  ].join(' ');

/**
 * The forms that replay or discard the selected letters, if the operator may. `isReplaying`: another replay is running.
 */
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
      {mayChange(operator, 'dead-letters replay') && !isReplaying && (
        <Form action="/dead-letters/replay" operator={operator}>
          {hidden}
          <Confirm>{`Queue ${what} again.`}</Confirm>
          <button type="submit">Replay</button>
        </Form>
      )}
      {mayChange(operator, 'dead-letters discard') && (
        <Form action="/dead-letters/discard" operator={operator}>
          {hidden}
          <Confirm>{`Delete ${what} for good.`}</Confirm>
          <button type="submit">Discard</button>
        </Form>
      )}
    </>
  );
}

/** The current replay, or the last one. `handled`: letters that were replayed or skipped so far. */
type Replay = {
  by: string;
  /** Such as `of acme`. */
  what: string;
  /** URL of the page that shows the result. */
  page: string;
  /** When it started, by PostgreSQL's clock. */
  since: Date;
  total: number;
  handled: number;
  /** Undefined while it runs. */
  done?: Replayed;
  isInterrupted?: boolean;
};

const SHOWN_MS = 24 * 3_600_000;

export type Replays = ReturnType<typeof createReplays>;

/** Replays dead letters in the background, one filter at a time. @param signal ends a replay after its page */
export function createReplays(deps: {
  store: Store;
  queue: EntryQueue;
  shards: number;
  signal: AbortSignal;
  logger: Pick<Logger, 'error'>;
}) {
  const { store, queue, shards, signal, logger } = deps;
  let last: { replay: Replay; filter: DeadLetterFilter } | undefined;

  async function run(filter: DeadLetterFilter, current: Replay): Promise<void> {
    try {
      current.done = await replay({
        deadLetters: store.deadLetters,
        findErased: store.customers.findErased,
        queue,
        shards,
        filter,
        rate: REPLAY_RATE,
        onProgress: (handled) => {
          current.handled += handled;
        },
        signal,
      });
    } catch (error) {
      current.done = (error as ReplayInterrupted).done; // replay throws nothing else
      current.isInterrupted = true;
      logger.error({ err: error }, 'replaying dead letters was interrupted');
    }
  }

  const isRunning = () => last !== undefined && !last.replay.done;

  return {
    isRunning,

    /**
     * The current replay. Otherwise the last one, for a day and on its page only. `again`: how many of its entries
     * became dead letters again so far. @throws StoreError
     */
    async read(page: string): Promise<(Replay & { again: number }) | undefined> {
      if (!last) return undefined;
      const { replay: current, filter } = last;
      if (!current.done) return { ...current, again: 0 };
      if (current.page !== page || Date.now() - current.since.getTime() > SHOWN_MS) return undefined;
      const kept = await store.deadLetters.countReplayed(filter, current.since);
      return { ...current, again: Math.max(0, current.done.traced - kept) };
    },

    /** @returns false if another replay is running */
    start(filter: DeadLetterFilter, start: Pick<Replay, 'by' | 'what' | 'page' | 'since' | 'total'>): boolean {
      if (isRunning()) return false;
      last = { filter, replay: { ...start, handled: 0 } };
      void run(filter, last.replay);
      return true;
    },
  };
}

/**
 * The progress or the result of the replay. `isUpdate`: the letters below it are still those from before the replay.
 */
export function LastReplay({
  by,
  what,
  page,
  isUpdate,
  since,
  total,
  handled,
  done,
  again,
  isInterrupted,
}: Replay & { again: number; isUpdate: boolean }) {
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
      {isUpdate && (
        <>
          {' '}
          <a href={page}>Show what is left</a>
        </>
      )}
    </p>
  );
}
