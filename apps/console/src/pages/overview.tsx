import {
  type Problem,
  SILENT_SECONDS,
  type Status,
  toCount,
  toDuration,
  toNumber,
  toP99Ms,
  toWaiting,
} from '@opm/operations';
import type { MinuteActivity } from '@opm/store';
import type { RequestHandler } from 'express';
import type { ComponentChildren } from 'preact';
import { CHART_MS, MINUTE_MS, type Reads } from '../reads.js';
import { Facts, Live, sendPage, Table, toMs, toRate, toUrl } from './components.js';

/** GET /: what is wrong first, then how busy everything is. */
export function getOverview(reads: Pick<Reads, 'status' | 'allMinutes'>): RequestHandler {
  return async (request, response) => {
    const [status, chart] = await Promise.all([reads.status(), reads.allMinutes().catch(() => undefined)]);
    sendPage(request, response, {
      title: 'Overview',
      children: (
        <Live id="overview">
          <Problems problems={status.problems} />
          <Facts facts={toFacts(status)} />
          {chart && (
            <>
              <EntriesChart {...chart} />
              <Chart
                title="Dead letters per minute"
                unit="min"
                {...chart}
                lines={[{ name: 'dead letters', of: ({ deadLetters }) => deadLetters }]}
              />
            </>
          )}
          <Processes processes={status.processes} />
        </Live>
      ),
    });
  };
}

/** What became of the entries of all partners, or of one. */
export const EntriesChart = (chart: { now: Date; minutes: MinuteActivity[] }) => (
  <Chart
    title="Entries per second"
    unit="s"
    {...chart}
    lines={[
      { name: 'accepted', of: ({ accepted }) => accepted },
      { name: 'persisted', of: ({ persisted }) => persisted },
      { name: 'refused', of: ({ refused }) => refused },
    ]}
  />
);

/** Nothing is wrong, or what is, and what to do. On the page of a partner, `projectId`, nothing leads to this page. */
export function Problems({ problems, projectId }: Pick<Status, 'problems'> & { projectId?: number }) {
  if (problems.length === 0) return <p class="good">Nothing is wrong.</p>;
  return (
    <section class="problems" aria-labelledby="problems">
      <h2 id="problems">{toCount(problems.length, 'problem')}</h2>
      <ol>
        {problems.map((problem) => (
          <li key={problem.what}>
            {`${problem.what} ${problem.advice}`}
            {toLinks(problem)
              .filter(([href]) => href !== `/partners/${projectId}`)
              .map(([href, text]) => (
                <>
                  {' '}
                  <a href={href}>{text}</a>
                </>
              ))}
          </li>
        ))}
      </ol>
    </section>
  );
}

/** Where a problem is seen and solved. */
function toLinks({ projectId, name, page }: Problem): [href: string, text: string][] {
  const links: [string, string][] = projectId === undefined ? [] : [[`/partners/${projectId}`, `Page of ${name}`]];
  if (page === 'partners') links.push(['/partners', 'Partners']);
  if (page === 'unavailable') links.push(['/partners?sort=unavailable', 'Partners by refusals']);
  if (page === 'queues') links.push(['/queues', 'Queues']);
  if (page === 'dead letters') {
    links.push([
      toUrl('/dead-letters', { partner: name }),
      name === undefined ? 'Dead letters' : `Dead letters of ${name}`,
    ]);
  }
  return links;
}

function toFacts({ rates, queue, deadLetters, paused, processes }: Status): [string, ComponentChildren][] {
  const p99Ms = toP99Ms(processes);
  const facts: [string, ComponentChildren][] = [
    ['Accepted', rates && `${toRate(rates.accepted)}/s`],
    ['Refused', rates && `${toRate(rates.refused)}/s`],
    ['Persisted', rates && `${toRate(rates.persisted)}/s`],
    ['p99 to the acknowledgement', toMs(p99Ms.ingress)],
    ['p99 to the row', toMs(p99Ms.worker)],
    ['Waiting', queue && toWaiting(queue)],
    ['Oldest entry', queue && (queue.entries === 0 ? 'none' : toDuration(queue.oldestSeconds))],
    ["Memory of the queue's store", queue && `${Math.round(100 * queue.memory)} %`],
    [
      'Dead letters',
      deadLetters && (
        <a key="letters" href="/dead-letters">
          {toNumber(deadLetters)}
        </a>
      ),
    ],
    ['Paused', paused.length > 0 && <Paused key="paused" partners={paused} />],
  ];
  return facts.filter(([, value]) => value !== undefined && value !== false);
}

const MAX_PAUSED = 5;

/** The first paused partners, and how many there are. */
function Paused({ partners }: { partners: Status['paused'] }) {
  return (
    <>
      <a href="/partners?state=paused">{toCount(partners.length, 'partner')}</a>
      {': '}
      {partners.slice(0, MAX_PAUSED).map(({ projectId, name }, i) => (
        <>
          {i > 0 && ', '}
          <a href={`/partners/${projectId}`}>{name}</a>
        </>
      ))}
      {partners.length > MAX_PAUSED && ', …'}
    </>
  );
}

function Processes({ processes }: Pick<Status, 'processes'>) {
  return (
    <Table
      caption="Processes"
      rows={processes}
      empty="No process reports."
      columns={[
        { title: 'Process', cell: ({ name }) => name },
        { title: 'Host', cell: ({ host }) => host },
        { title: 'pid', isNumber: true, cell: ({ pid }) => pid },
        { title: 'Version', cell: ({ version }) => version },
        { title: 'Uptime', isNumber: true, cell: ({ uptimeSeconds }) => toDuration(uptimeSeconds) },
        { title: 'Last report', isNumber: true, cell: ({ silentSeconds }) => `${toDuration(silentSeconds)} ago` },
        {
          title: 'State',
          cell: ({ silentSeconds, state }) => {
            if (silentSeconds >= SILENT_SECONDS) return <strong>does not report</strong>;
            return state.isPaused ? <strong>paused</strong> : 'ok';
          },
        },
      ]}
    />
  );
}

/** Lines of one chart. `of`: a minute's count. */
type Line = { name: string; of: (minute: MinuteActivity) => number };

const WIDTH = 720;
const HEIGHT = 150;
const CHART_MINUTES = CHART_MS / MINUTE_MS;
const HOURS = CHART_MINUTES / 60;

/** The counts of the last three hours as rates. It is drawn here, so it needs no script. */
function Chart({
  title,
  unit,
  minutes,
  now,
  lines,
}: {
  title: string;
  unit: 's' | 'min';
  minutes: MinuteActivity[];
  now: Date;
  lines: Line[];
}) {
  const last = Math.floor(now.getTime() / MINUTE_MS) - 1; // the current minute is not complete
  const byMinute = new Map(minutes.map((counts) => [counts.minute.getTime() / MINUTE_MS, counts]));
  const drawn = lines.map(({ name, of }) => {
    const rates = Array.from({ length: CHART_MINUTES }, (_, i) => {
      const counts = byMinute.get(last - CHART_MINUTES + 1 + i);
      return counts ? of(counts) / (unit === 's' ? 60 : 1) : 0;
    });
    return { name, rates, highest: Math.max(...rates) };
  });
  const top = toTop(Math.max(...drawn.map(({ highest }) => highest)));
  const toPoint = (rate: number, i: number) =>
    `${((i / (CHART_MINUTES - 1)) * WIDTH).toFixed(1)},${(HEIGHT - (rate / top) * HEIGHT).toFixed(1)}`;
  const summary = drawn.map(
    ({ name, rates, highest }) => `${name}: ${toRate(rates.at(-1) ?? 0)}/${unit}, peak ${toRate(highest)}/${unit}`,
  );
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <ul>
        {summary.map((text, i) => (
          <li key={text} class={`line-${i}`}>
            {text}
          </li>
        ))}
      </ul>
      <div class="plot">
        <div class="scale" aria-hidden="true">
          {[top, top / 2, 0].map((rate) => (
            <span key={rate}>{`${toRate(rate)}/${unit}`}</span>
          ))}
        </div>
        <svg
          viewBox={`-2 -6 ${WIDTH + 4} ${HEIGHT + 12}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`${title}, last three hours. ${summary.join('. ')}.`}
        >
          {Array.from({ length: HOURS + 1 }, (_, hour) => (
            <path key={hour} class="grid" d={`M${(hour / HOURS) * WIDTH},0V${HEIGHT}`} />
          ))}
          {[0, HEIGHT / 2, HEIGHT].map((y) => (
            <path key={y} class="grid" d={`M0,${y}H${WIDTH}`} />
          ))}
          {drawn.map(({ name, rates }, i) => (
            <polyline key={name} class={`line-${i}`} points={rates.map(toPoint).join(' ')} />
          ))}
        </svg>
        <div class="axis" aria-hidden="true">
          {Array.from({ length: HOURS + 1 }, (_, hour) => (
            <span key={hour}>{toTime(last - (HOURS - hour) * 60)}</span>
          ))}
        </div>
      </div>
    </figure>
  );
}

/** The end of the scale: the next of 1, 2, 2.5, 5, 10, 20, … */
function toTop(highest: number): number {
  if (highest === 0) return 1;
  const power = 10 ** Math.floor(Math.log10(highest));
  return power * ([1, 2, 2.5, 5].find((step) => step * power >= highest) ?? 10);
}

/** Such as `10:12Z`. @param minute since 1970 */
const toTime = (minute: number): string => `${new Date(minute * MINUTE_MS).toISOString().slice(11, 16)}Z`;
