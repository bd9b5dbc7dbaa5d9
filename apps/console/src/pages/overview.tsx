import { SILENT_SECONDS, type Status, toCount, toDuration, toNumber, toP99Ms } from '@opm/operations';
import type { MinuteActivity } from '@opm/store';
import type { RequestHandler } from 'express';
import type { Reads } from '../reads.js';
import { Chart, Facts, Live, sendPage, Table, toMs, toRate } from './components.js';

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
                title="Dead letters per second"
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
    {...chart}
    lines={[
      { name: 'accepted', of: ({ accepted }) => accepted },
      { name: 'persisted', of: ({ persisted }) => persisted },
      { name: 'refused', of: ({ refused }) => refused },
    ]}
  />
);

/** Nothing is wrong, or what is. */
export function Problems({ problems }: Pick<Status, 'problems'>) {
  if (problems.length === 0) return <p class="good">Nothing is wrong.</p>;
  return (
    <section class="problems" aria-labelledby="problems">
      <h2 id="problems">{toCount(problems.length, 'problem')}</h2>
      <ol>
        {problems.map(({ what, help, projectId }) => (
          <li key={what}>
            {what} {projectId !== undefined && <a href={`/partners/${projectId}`}>Its page</a>} <code>{help}</code>
          </li>
        ))}
      </ol>
    </section>
  );
}

function toFacts({ rates, queue, deadLetters, paused, processes }: Status): [string, string][] {
  const p99Ms = toP99Ms(processes);
  const facts: [string, string | undefined][] = [
    ['Accepted', rates && `${toRate(rates.accepted)}/s`],
    ['Refused', rates && `${toRate(rates.refused)}/s`],
    ['Persisted', rates && `${toRate(rates.persisted)}/s`],
    ['p99 to the acknowledgement', toMs(p99Ms.ingress)],
    ['p99 to the row', toMs(p99Ms.worker)],
    ['Waiting', queue && `${toCount(queue.entries, 'entry')} in ${toCount(queue.jobs, 'job')}`],
    ['Oldest entry', queue && (queue.entries === 0 ? 'none' : toDuration(queue.oldestSeconds))],
    ["Memory of the queue's store", queue && `${Math.round(100 * queue.memory)} %`],
    ['Dead letters', deadLetters === undefined ? undefined : toNumber(deadLetters)],
    ['Paused', paused.length > 0 ? toCount(paused.length, 'partner') : undefined],
  ];
  return facts.filter((fact): fact is [string, string] => fact[1] !== undefined);
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
