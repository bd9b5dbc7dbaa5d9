import type { MinuteActivity } from '@opm/store';
import { toRate } from './page.js';

export const CHART_MINUTES = 180;

/** Lines of one chart. `of`: a minute's count. */
type Line = { name: string; of: (minute: MinuteActivity) => number };

const WIDTH = 720;
const HEIGHT = 150;
const MINUTE_MS = 60_000;
const HOURS = CHART_MINUTES / 60;

/** The counts of the last three hours as rates per second. It is drawn here, so it needs no script. */
export function Chart({
  title,
  minutes,
  now,
  lines,
}: {
  title: string;
  minutes: MinuteActivity[];
  now: Date;
  lines: Line[];
}) {
  const last = Math.floor(now.getTime() / MINUTE_MS) - 1; // the current minute is not complete
  const byMinute = new Map(minutes.map((counts) => [counts.minute.getTime() / MINUTE_MS, counts]));
  const drawn = lines.map(({ name, of }) => {
    const rates = Array.from({ length: CHART_MINUTES }, (_, i) => {
      const counts = byMinute.get(last - CHART_MINUTES + 1 + i);
      return counts ? of(counts) / 60 : 0;
    });
    return { name, rates, highest: Math.max(...rates) };
  });
  const top = Math.max(...drawn.map(({ highest }) => highest)) || 1;
  const toPoint = (rate: number, i: number) =>
    `${((i / (CHART_MINUTES - 1)) * WIDTH).toFixed(1)},${(HEIGHT - (rate / top) * HEIGHT).toFixed(1)}`;
  const summary = drawn.map(
    ({ name, rates, highest }) => `${name}: ${toRate(rates.at(-1) ?? 0)} per second, at most ${toRate(highest)}`,
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
      <svg
        viewBox={`-2 -6 ${WIDTH + 4} ${HEIGHT + 12}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${title}, last three hours. ${summary.join('. ')}.`}
      >
        {Array.from({ length: HOURS + 1 }, (_, hour) => (
          <path key={hour} class="grid" d={`M${(hour / HOURS) * WIDTH},0V${HEIGHT}`} />
        ))}
        <path class="grid" d={`M0,${HEIGHT}H${WIDTH}`} />
        {drawn.map(({ name, rates }, i) => (
          <polyline key={name} class={`line-${i}`} points={rates.map(toPoint).join(' ')} />
        ))}
      </svg>
      <div class="axis" aria-hidden="true">
        {Array.from({ length: HOURS }, (_, hour) => (
          <span key={hour}>{`${HOURS - hour} h ago`}</span>
        ))}
        <span>now</span>
      </div>
    </figure>
  );
}
