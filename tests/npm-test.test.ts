import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';

const PARTS = ['unit', 'integration', 'stack'] as const;
type Report = { passed: number; failed: number; failures: { name: string; reason: string }[] };
const GOOD: Report = { passed: 10, failed: 0, failures: [] };
const BAD: Report = { passed: 2, failed: 1, failures: [{ name: 'a guarantee', reason: 'it does not hold' }] };

/** Runs `npm test` with parts that only write these reports; undefined is a part that ends without a report. */
async function runNpmTest(reports: Record<(typeof PARTS)[number], Report | undefined>, build = '') {
  const root = await mkdtemp(join(tmpdir(), 'opm-npm-test-'));
  try {
    for (const file of ['tools/test.mjs', 'tests/sum-reports.mjs']) await cp(file, join(root, file));
    await writeFile(join(root, 'tools/build.mjs'), build);
    const directory = join(root, `.reports/node-${process.versions.node.split('.')[0]}`);
    await mkdir(directory, { recursive: true });
    for (const part of PARTS) {
      const [file, report] = [join(directory, `${part}.json`), reports[part]];
      await writeFile(file, JSON.stringify(GOOD)); // The report of the previous run.
      const steps = report
        ? `fs.writeFileSync(${JSON.stringify(file)}, ${JSON.stringify(JSON.stringify(report))}); process.exitCode = ${report.failed}`
        : 'process.exitCode = 1';
      await writeFile(
        join(root, `${part}.cjs`),
        `const fs = require('node:fs'); console.log('${part} runs'); ${steps}`,
      );
    }
    const scripts = Object.fromEntries(PARTS.map((part) => [`test:${part}`, `node ${part}.cjs`]));
    await writeFile(
      join(root, 'package.json'),
      JSON.stringify({ scripts: { test: 'node tools/test.mjs', ...scripts } }),
    );
    return await new Promise<{ code: number; lines: string[] }>((resolve) => {
      execFile('npm', ['test', '--silent'], { cwd: root }, (error, stdout) =>
        resolve({ code: Number(error?.code ?? 0), lines: stdout.trim().split('\n') }),
      );
    });
  } finally {
    await rm(root, { recursive: true });
  }
}

const ALL_RUN = PARTS.map((part) => `${part} runs`);

test('npm test runs all parts and ends with their sum', async () => {
  const { code, lines } = await runNpmTest({ unit: GOOD, integration: GOOD, stack: GOOD });
  expect({ code, lines }).toEqual({ code: 0, lines: [...ALL_RUN, '30 passed, 0 failed'] });
});

test('if a part fails, npm test still runs the others, prints what failed, and fails', async () => {
  const { code, lines } = await runNpmTest({ unit: BAD, integration: BAD, stack: GOOD });
  const failures = ['failed: a guarantee', '    it does not hold'];
  expect({ code, lines }).toEqual({ code: 1, lines: [...ALL_RUN, ...failures, ...failures, '14 passed, 2 failed'] });
});

test('a part without a report is a failure, whatever the previous run reported', async () => {
  const { code, lines } = await runNpmTest({ unit: GOOD, integration: undefined, stack: GOOD });
  expect(code).toBe(1);
  expect(lines.at(-1)).toBe('20 passed, 1 failed');
});

test('if the build fails, no part runs and none passes', async () => {
  const { code, lines } = await runNpmTest({ unit: GOOD, integration: GOOD, stack: GOOD }, 'process.exitCode = 1');
  expect(code).toBe(1);
  expect(lines.at(-1)).toBe('0 passed, 3 failed');
  expect(lines).not.toContain('unit runs');
});
