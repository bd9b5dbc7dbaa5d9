import { SingleBar } from 'cli-progress';
import type { Progress } from './run-chaos.js';

/** Shows on stderr how far it is: as a bar on a terminal, else as a line for each fault and all else that begins. */
export function createProgress(faults: number): { tell(progress: Progress): void; stop(): void } {
  if (!process.stderr.isTTY) {
    let last = '';
    return {
      tell({ doing, ...counts }) {
        if (doing !== last) {
          const done = `${counts.faults}/${faults} faults, ${counts.acknowledged} acknowledged, ${counts.findings} findings`;
          console.error(`${new Date().toISOString()} ${doing} (${done})`);
        }
        last = doing;
      },
      stop() {},
    };
  }
  const bar = new SingleBar({
    format:
      '{bar} {value}/{total} faults | {acknowledged} acknowledged | {findings} findings | {duration_formatted} | {doing}',
  });
  bar.start(faults, 0, { doing: '', acknowledged: 0, findings: 0 });
  return { tell: ({ faults: done, ...rest }) => bar.update(done, rest), stop: () => bar.stop() };
}
