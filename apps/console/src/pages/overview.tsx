import {
  type Problem,
  SILENT_SECONDS,
  type Status,
  toCount,
  toDuration,
  toMemory,
  toNumber,
  toP99Ms,
  toWaiting,
} from '@opm/operations';
import type { MinuteActivity } from '@opm/store';
import type { RequestHandler } from 'express';
import type { ComponentChildren } from 'preact';
import { CHART_MS, MINUTE_MS, type MinuteHealth, type Reads } from '../reads.js';
import { Facts, Live, sendPage, Table, toMs, toRate, toUrl } from './components.js';

/** GET /: what is wrong first, then how busy everything is. */
export function getOverview(reads: Pick<Reads, 'status' | 'allMinutes' | 'health'>): RequestHandler {
  return async (request, response) => {
    const [status, chart] = await Promise.all([reads.status(), reads.allMinutes().catch(() => undefined)]);
    sendPage(request, response, {
      title: 'Overview',
      children: (
        <Live id="overview">
          <Problems problems={status.problems} />
          <Facts facts={toFacts(status)} />
          {chart && (
            <div class="charts">
              <EntriesChart {...chart} />
              <HealthCharts now={chart.now} minutes={reads.health()} />
              <Chart
                title="Dead letters per minute"
                toText={(count) => `${toRate(count)}/min`}
                {...chart}
                lines={[{ name: 'dead letters', of: (counts) => counts?.deadLetters ?? 0 }]}
              />
            </div>
          )}
          <Processes processes={status.processes} />
        </Live>
      ),
    });
  };
}

/** Chart of the entries of all partners, or of one: accepted, refused, and stored. */
export const EntriesChart = (chart: { now: Date; minutes: MinuteActivity[] }) => (
  <Chart<MinuteActivity>
    title="Entries per second"
    toText={(rate) => `${toRate(rate)}/s`}
    {...chart}
    lines={(['accepted', 'persisted', 'refused'] as const).map((name) => ({
      name,
      of: (counts) => (counts?.[name] ?? 0) / 60,
    }))}
  />
);

/** The worst of each minute since this console started. */
const HealthCharts = (chart: { now: Date; minutes: MinuteHealth[] }) => (
  <>
    <Chart
      title="Entries waiting"
      toText={toRate}
      {...chart}
      lines={[{ name: 'waiting', of: (health) => health?.waiting }]}
    />
    <Chart
      title="Age of the oldest entry"
      toText={(seconds) => (seconds < 100 ? `${toRate(seconds)} s` : toDuration(seconds))}
      {...chart}
      lines={[{ name: 'oldest', of: (health) => health?.oldestSeconds }]}
    />
    <Chart
      title="p99"
      toText={(ms) => `${toRate(ms)} ms`}
      {...chart}
      lines={[
        { name: 'to the acknowledgement', of: (health) => health?.ingressP99Ms },
        { name: 'to the row', of: (health) => health?.workerP99Ms },
      ]}
    />
  </>
);

/** Lists the problems with what to do. On a partner's page (`projectId`), it omits links to this page. */
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
    ["Memory of the queue's store", queue && toMemory(queue)],
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

/** A line of a chart. `of` returns the value of a minute, or of a minute without data; undefined leaves a gap. */
type Line<Minute> = { name: string; of: (minute: Minute | undefined) => number | undefined };

const WIDTH = 720;
const HEIGHT = 150;
const CHART_MINUTES = CHART_MS / MINUTE_MS;
/** The places of the first minute, of those an hour later each, and of the last one. */
const MARKS = [...Array.from({ length: CHART_MINUTES / 60 }, (_, hour) => hour * 60), CHART_MINUTES - 1];
const toX = (i: number): string => ((i / (CHART_MINUTES - 1)) * WIDTH).toFixed(1);

/** A chart of the last three hours, as an SVG that needs no script. */
function Chart<Minute extends { minute: Date }>({
  title,
  toText,
  minutes,
  now,
  lines,
}: {
  title: string;
  toText: (value: number) => string;
  minutes: Minute[];
  now: Date;
  lines: Line<Minute>[];
}) {
  const last = Math.floor(now.getTime() / MINUTE_MS) - 1; // the current minute is not complete
  const first = last - CHART_MINUTES + 1;
  const byMinute = new Map(minutes.map((listed) => [listed.minute.getTime() / MINUTE_MS, listed]));
  const drawn = lines.map(({ name, of }) => {
    const values = Array.from({ length: CHART_MINUTES }, (_, i) => of(byMinute.get(first + i)));
    return { name, values, highest: Math.max(0, ...values.filter((value) => value !== undefined)) };
  });
  const top = toTop(Math.max(...drawn.map(({ highest }) => highest)));
  const summary = drawn.map(({ name, values, highest }) => {
    const newest = values.at(-1);
    const peak = highest > 0 ? `, peak ${toText(highest)} at ${toTime(first + values.indexOf(highest))}` : '';
    return `${name}: ${newest === undefined ? '–' : toText(newest)}${peak}`;
  });
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
          {[top, top / 2, 0].map((value) => (
            <span key={value}>{toText(value)}</span>
          ))}
        </div>
        <svg
          viewBox={`-2 -6 ${WIDTH + 4} ${HEIGHT + 12}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`${title}, last three hours. ${summary.join('. ')}.`}
        >
          {MARKS.map((i) => (
            <path key={i} class="grid" d={`M${toX(i)},0V${HEIGHT}`} />
          ))}
          {[0, HEIGHT / 2, HEIGHT].map((y) => (
            <path key={y} class="grid" d={`M0,${y}H${WIDTH}`} />
          ))}
          {drawn.map(({ name, values }, i) => (
            <path key={name} class={`line line-${i}`} d={toPath(values, top)} />
          ))}
        </svg>
        <div class="axis" aria-hidden="true">
          {MARKS.map((i) => (
            <span key={i}>{toTime(first + i)}</span>
          ))}
        </div>
      </div>
    </figure>
  );
}

/** A line through the values, in pieces if some are undefined. `h0` makes a dot of a piece with one value. */
function toPath(values: (number | undefined)[], top: number): string {
  return values
    .map((value, i) => {
      if (value === undefined) return '';
      const y = (HEIGHT - (value / top) * HEIGHT).toFixed(1);
      return values[i - 1] === undefined ? `M${toX(i)},${y}h0` : `L${toX(i)},${y}`;
    })
    .join('');
}

/** The end of the scale: the next of 1, 2, 2.5, 5, 10, 20, … */
function toTop(highest: number): number {
  if (highest === 0) return 1;
  const power = 10 ** Math.floor(Math.log10(highest));
  return power * ([1, 2, 2.5, 5].find((step) => step * power >= highest) ?? 10);
}

/** Such as `10:12Z`. @param minute since 1970 */
const toTime = (minute: number): string => `${new Date(minute * MINUTE_MS).toISOString().slice(11, 16)}Z`;
