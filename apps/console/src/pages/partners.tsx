import { type ProjectStats, toCount, toNumber } from '@opm/operations';
import type { RequestHandler } from 'express';
import type { ComponentChildren } from 'preact';
import type { Partner, Reads } from '../reads.js';
import { mayChange, operatorOf } from '../session.js';
import { type Column, Form, Live, sendPage, Table, Time, textOf, toAge, toRate, toUrl } from './components.js';

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

const stat = (id: string, title: string, of: (stats: ProjectStats) => number): Sortable => ({
  ...{ id, title, isNumber: true },
  sortBy: ({ stats }) => (stats ? of(stats) : 0),
});
export const sentPerSecond = (stats: ProjectStats) => stats.acceptedPerSecond + stats.refusedPerSecond;
export const acceptedOf = ({ created, updated, erased }: ProjectStats) => created + updated + erased;
const shareOf = (stats: ProjectStats) => (stats.limit ? sentPerSecond(stats) / stats.limit : 0);

/** `cell` shows the sorted value if it is left out. */
const COLUMNS: Sortable[] = [
  {
    id: 'name',
    title: 'Partner',
    sortBy: ({ name }) => name,
    cell: ({ projectId, name, pausedAt }) => (
      <>
        <a href={`/partners/${projectId}`}>{name}</a>
        {pausedAt && <strong> (paused)</strong>}
      </>
    ),
  },
  { ...stat('sent', 'Sent/s', sentPerSecond), cell: ({ stats }) => toRate(stats ? sentPerSecond(stats) : 0) },
  {
    ...stat('share', 'Of limit', shareOf),
    cell: ({ stats, rate }) => (rate ? `${Math.round(100 * (stats ? shareOf(stats) : 0))} %` : '–'),
  },
  stat('accepted', 'Accepted', acceptedOf),
  stat('invalid', 'Invalid', ({ refusedInvalid }) => refusedInvalid),
  stat('limited', 'Limited', ({ refusedLimited }) => refusedLimited),
  stat('unavailable', 'Unavailable', ({ refusedUnavailable }) => refusedUnavailable),
  stat('persisted', 'Persisted', ({ persisted }) => persisted),
  stat('dead', 'Dead letters', ({ deadLetters }) => deadLetters),
  stat('waiting', 'Waiting (about)', ({ backlog }) => backlog?.entries ?? 0),
  {
    ...stat('oldest', 'Oldest', ({ backlog }) => backlog?.oldestMs ?? 0),
    cell: ({ stats }) => toAge(stats?.backlog?.oldestMs),
  },
  {
    ...stat('seen', 'Last seen', ({ lastSeen }) => lastSeen.getTime()),
    cell: ({ stats }) => <Time at={stats?.lastSeen} />,
  },
];

/** GET /partners: all partners with their counts of the last hour, sorted by a column, a hundred per page. */
export function getPartners(reads: Pick<Reads, 'partners'>): RequestHandler {
  return async (request, response) => {
    const operator = operatorOf(response);
    const search = textOf(request, 'search');
    const sorted = COLUMNS.find(({ id }) => id === textOf(request, 'sort')) ?? (COLUMNS[1] as Sortable);
    const isAscending = textOf(request, 'order') === 'ascending';
    const wanted = search?.toLowerCase() ?? '';
    const found = (await reads.partners()).filter(({ name }) => name.toLowerCase().includes(wanted));
    const rows = found.toSorted((a, b) => (isAscending ? compare(sorted, a, b) : compare(sorted, b, a)));
    const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
    const page = Math.min(Math.max(1, Math.trunc(Number(textOf(request, 'page'))) || 1), pages);
    const linkTo = (changes: { sort?: string; order?: string | undefined; page?: number }) =>
      toUrl('/partners', { search, sort: sorted.id, order: isAscending ? 'ascending' : undefined, ...changes });

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
            <button type="submit">Search</button>
          </form>
          <Live id="partners">
            <Table
              caption={`${toCount(found.length, 'partner')}, counts of the last hour`}
              columns={columns}
              rows={rows.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS)}
              empty="No partner has such a name."
            />
          </Live>
          {pages > 1 && (
            <nav aria-label="Pages of the table" class="pages">
              {page > 1 && <a href={linkTo({ page: page - 1 })}>Previous</a>}
              <span>{`page ${page} of ${pages}`}</span>
              {page < pages && <a href={linkTo({ page: page + 1 })}>Next</a>}
            </nav>
          )}
          {mayChange(operator, 'admin') && (
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

function compare({ sortBy }: Sortable, a: Partner, b: Partner): number {
  const [left, right] = [sortBy(a), sortBy(b)];
  return typeof left === 'string' ? left.localeCompare(String(right)) : left - Number(right);
}
