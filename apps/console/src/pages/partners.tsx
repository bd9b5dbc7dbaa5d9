import { acceptedOf, toCount, toNumber } from '@opm/operations';
import { BUSIEST_PROJECTS, type MinuteActivity, type ProjectActivity } from '@opm/store';
import type { RequestHandler } from 'express';
import type { ComponentChildren } from 'preact';
import type { Partner, Reads, ShownPartner } from '../reads.js';
import { mayChange, operatorOf } from '../session.js';
import { type Column, Facts, Form, Live, sendPage, Table, textOf, toAge, toMs, toRate, toUrl } from './components.js';

const PAGE_ROWS = 100;

/** Names of partners, by project id. */
export type Names = Map<number, string>;

export function PartnerLink({ nameOf, projectId }: { nameOf: Names; projectId: number | null }) {
  if (projectId === null) return <>unknown</>;
  return <a href={`/partners/${projectId}`}>{nameOf.get(projectId) ?? `project ${projectId}`}</a>;
}

type Sortable = { id: string; title: string; isNumber?: boolean; sortBy: (partner: Partner) => number | string } & {
  cell?: (partner: Partner) => ComponentChildren;
};

const stat = (id: string, title: string, of: (stats: ProjectActivity) => number): Sortable => ({
  id,
  title,
  isNumber: true,
  sortBy: ({ stats }) => (stats ? of(stats) : 0),
});
const sentPerSecond = (stats: ProjectActivity) => stats.acceptedPerSecond + stats.refusedPerSecond;
const shareOf = ({ stats, rate }: Partner) => (stats && rate ? sentPerSecond(stats) / rate : 0);

/** Such as `over its limit, paused`; undefined if neither is so. */
function toMarks({ problems, pausedAt }: Partner): string | undefined {
  return [...problems.map(({ kind }) => kind), ...(pausedAt ? ['paused'] : [])].join(', ') || undefined;
}

/** Such as `2026-11-30 10:12Z`, because counts are per minute. `–` for none. */
function Minute({ at }: { at: Date | undefined }) {
  if (!at) return <>–</>;
  const minute = at.toISOString().slice(0, 16);
  return <time dateTime={`${minute}Z`}>{`${minute.replace('T', ' ')}Z`}</time>;
}

/** Sorts partners with the most problems first, then paused ones. */
const STATE: Sortable = {
  id: 'state',
  title: 'State',
  sortBy: ({ problems, pausedAt }) => 2 * problems.length + (pausedAt ? 1 : 0),
  cell: (partner) => {
    const marks = toMarks(partner);
    return marks === undefined ? 'ok' : <strong>{marks}</strong>;
  },
};
const SENT: Sortable = {
  ...stat('sent', 'Sent/s', sentPerSecond),
  cell: ({ stats }) => toRate(stats ? sentPerSecond(stats) : 0),
};

/** `cell` shows the sorted value if it is left out. */
const COLUMNS: Sortable[] = [
  {
    id: 'name',
    title: 'Partner',
    sortBy: ({ name }) => name,
    cell: ({ projectId, name }) => <a href={`/partners/${projectId}`}>{name}</a>,
  },
  STATE,
  SENT,
  {
    id: 'share',
    title: 'Of limit',
    isNumber: true,
    sortBy: shareOf,
    cell: (partner) => (partner.rate ? `${toNumber(100 * shareOf(partner))} %` : '–'),
  },
  stat('accepted', 'Accepted', acceptedOf),
  stat('invalid', 'Invalid', ({ refusedInvalid }) => refusedInvalid),
  stat('limited', 'Limited', ({ refusedLimited }) => refusedLimited),
  stat('unavailable', 'Unavailable', ({ refusedUnavailable }) => refusedUnavailable),
  stat('persisted', 'Persisted', ({ persisted }) => persisted),
  stat('dead', 'Dead letters', ({ deadLetters }) => deadLetters),
  {
    id: 'waiting',
    title: 'Waiting (about)',
    isNumber: true,
    sortBy: ({ backlog }) => backlog?.entries ?? 0,
    cell: ({ backlog }) => (backlog ? toNumber(backlog.entries) : '–'),
  },
  {
    id: 'oldest',
    title: 'Oldest',
    isNumber: true,
    sortBy: ({ backlog }) => backlog?.oldestMs ?? 0,
    cell: ({ backlog }) => toAge(backlog?.oldestMs),
  },
  {
    id: 'seen',
    title: 'Last seen',
    isNumber: true,
    sortBy: ({ lastSeen }) => lastSeen?.getTime() ?? 0,
    cell: ({ lastSeen }) => <Minute at={lastSeen} />,
  },
];

/** The partners that each value of `state` selects. */
const STATES: [state: string, title: string, isShown: (partner: Partner) => boolean][] = [
  ['', 'any', () => true],
  ['problem', 'with a problem', ({ problems }) => problems.length > 0],
  ['paused', 'paused', ({ pausedAt }) => pausedAt !== null],
];

/** GET /partners: all partners with their counts of the last hour, those with problems first, a hundred per page. */
export function getPartners(reads: Pick<Reads, 'partners'>): RequestHandler {
  return async (request, response) => {
    const operator = operatorOf(response);
    const search = textOf(request, 'search');
    const sorted = COLUMNS.find(({ id }) => id === textOf(request, 'sort')) ?? STATE;
    const isAscending = textOf(request, 'order') === 'ascending';
    const wanted = search?.toLowerCase() ?? '';
    const [state, , isShown] =
      STATES.find(([id]) => id === textOf(request, 'state')) ?? (STATES[0] as (typeof STATES)[0]);
    const found = (await reads.partners()).filter(
      (partner) => partner.name.toLowerCase().includes(wanted) && isShown(partner),
    );
    const rows = found.toSorted(
      (a, b) => (isAscending ? compare(sorted, a, b) : compare(sorted, b, a)) || compare(SENT, b, a),
    );
    const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
    const page = Math.min(Math.max(1, Math.trunc(Number(textOf(request, 'page'))) || 1), pages);
    const linkTo = (changes: { sort?: string; order?: string | undefined; page?: number }) =>
      toUrl('/partners', {
        search,
        state: state || undefined,
        sort: sorted.id,
        order: isAscending ? 'ascending' : undefined,
        ...changes,
      });

    const columns = COLUMNS.map((column): Column<Partner> => {
      const isSorted = column === sorted;
      // A click on the sorted column turns the order round.
      const order = isSorted ? !isAscending : column.id === 'name';
      const href = linkTo({ sort: column.id, order: order ? 'ascending' : undefined });
      return {
        title: <a href={href}>{column.title}</a>,
        ...(column.isNumber && { isNumber: true }),
        sort: isSorted ? (isAscending ? 'ascending' : 'descending') : undefined,
        cell: column.cell ?? ((partner) => toNumber(Number(column.sortBy(partner)))),
      };
    });
    sendPage(request, response, {
      title: 'Partners',
      children: (
        <>
          <form method="get" action="/partners">
            <label>
              Name contains <input name="search" value={search ?? ''} />
            </label>
            <label>
              State
              <select name="state">
                {STATES.map(([id, title]) => (
                  <option key={id} value={id} selected={id === state}>
                    {title}
                  </option>
                ))}
              </select>
            </label>
            <button type="submit">Search</button>
          </form>
          <Live id="partners">
            <Table
              caption={`${toCount(found.length, 'partner')}, counts of the last hour`}
              columns={columns}
              rows={rows.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS)}
              empty="No partner matches."
            />
          </Live>
          {pages > 1 && (
            <nav aria-label="Pages of the table" class="pages">
              {page > 1 && <a href={linkTo({ page: page - 1 })}>Previous</a>}
              <span>{`page ${page} of ${pages}`}</span>
              {page < pages && <a href={linkTo({ page: page + 1 })}>Next</a>}
            </nav>
          )}
          {mayChange(operator, 'projects create') && (
            <>
              <h2>New partner</h2>
              <Form action="/partners" operator={operator}>
                <label>
                  Name <input name="name" required maxLength={100} />
                </label>
                <button type="submit">Create</button>
              </Form>
            </>
          )}
        </>
      ),
    });
  };
}

/** What a partner sends. `minutes`: its activity of the last three hours. */
export function PartnerFacts({ partner, minutes }: { partner: ShownPartner; minutes: MinuteActivity[] }) {
  return (
    <>
      <Facts facts={toFacts(partner, minutes)} />
      <h2>Within the last hour</h2>
      <LastHour stats={partner.stats} />
    </>
  );
}

function toFacts(partner: ShownPartner, minutes: MinuteActivity[]): [string, ComponentChildren][] {
  const { projectId, rate, burst, pausedAt, stats, backlog, lastSeen, p99Ms, activePartners } = partner;
  const lastEntry = minutes.findLast(({ accepted, refused }) => accepted + refused > 0)?.minute;
  return [
    ['Project id', projectId],
    [
      'State',
      pausedAt ? <strong key="state">paused: its requests get 403</strong> : (toMarks(partner) ?? 'accepts entries'),
    ],
    ['Limit', rate ? `${toEntries(rate)}, burst ${toNumber(burst ?? 0)}` : 'none'],
    ['Sends', toEntries(stats ? sentPerSecond(stats) : 0)],
    ['Last entry', lastEntry ? <Minute key="entry" at={lastEntry} /> : 'none within three hours'],
    ['Last request', lastSeen ? <Minute key="seen" at={lastSeen} /> : 'none'],
    ['Waiting (sampled)', backlog ? `about ${toNumber(backlog.entries)}` : 'the queue does not answer'],
    ['Oldest entry', backlog?.oldestMs === 0 ? 'none' : toAge(backlog?.oldestMs)],
    ...(stats
      ? ([
          ['p99 to the acknowledgement', toLatency(p99Ms.ingress, activePartners)],
          ['p99 to the row', toLatency(p99Ms.worker, activePartners)],
        ] satisfies [string, ComponentChildren][])
      : []),
  ];
}

/** Such as `1 entry/s`. */
const toEntries = (rate: number) => `${toRate(rate)} ${toRate(rate) === '1' ? 'entry' : 'entries'}/s`;

/** Processes measure the latencies of their busiest partners, and report those of the last seconds. */
function toLatency(ms: number | undefined, activePartners: number): string {
  if (ms !== undefined) return toMs(ms);
  const busier = activePartners > BUSIEST_PROJECTS ? `, or ${BUSIEST_PROJECTS} others are busier` : '';
  return `no entry just now${busier}`;
}

function LastHour({ stats }: Pick<Partner, 'stats'>) {
  if (!stats) return <p class="empty">No entry.</p>;
  return (
    <Facts
      facts={[
        ['Accepted', toNumber(acceptedOf(stats))],
        ['Refused as invalid', toNumber(stats.refusedInvalid)],
        ['Refused by its limit (429)', toNumber(stats.refusedLimited)],
        ['Refused as unavailable (503)', toNumber(stats.refusedUnavailable)],
        ['Persisted', toNumber(stats.persisted)],
        ['Became dead letters', toNumber(stats.deadLetters)],
      ]}
    />
  );
}

function compare({ sortBy }: Sortable, a: Partner, b: Partner): number {
  const [left, right] = [sortBy(a), sortBy(b)];
  return typeof left === 'string' ? left.localeCompare(String(right)) : left - Number(right);
}
