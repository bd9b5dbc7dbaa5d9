import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

type Outcome = { code: number; stdout: string; stderr: string };

const OPM = fileURLToPath(new URL('../../../apps/cli/bin/opm.js', import.meta.url));

/** Runs the command line as built, to its end. */
export function runOpm(args: string[], env: NodeJS.ProcessEnv, { cwd = '.' } = {}): Promise<Outcome> {
  const options = { cwd, env: { ...process.env, ...env }, maxBuffer: 256 * 1024 * 1024 };
  return promisify(execFile)(process.execPath, [OPM, ...args], options).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    ({ code, stdout, stderr }: Outcome) => ({ code, stdout, stderr }),
  );
}
